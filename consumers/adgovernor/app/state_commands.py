"""``adgovernor state``: what is true now, as the store has it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from adgovernor.app.console import (
    AsJson,
    moment,
    money,
    opened_store,
    print_json,
    print_table,
    run_async,
    settings_of,
)
from adgovernor.contracts.errors import Unavailable
from adgovernor.contracts.topics import shard_named

if TYPE_CHECKING:
    from adgovernor.app.stored import StoredState

_T = TypeVar("_T")

state_app = typer.Typer(no_args_is_help=True)

_LENGTHS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"))
_ASK_S = 3.0
"""How long Kafka is asked about a ledger; the state itself is the store's."""
_AD_COLUMNS = ("position", "slot", "campaign_id", "creative_id", "state")


@state_app.callback()
def _state() -> None:
    """Show what is true now, as the store has it; it trails the ledger by a moment."""


def read_state(context: typer.Context, question: Callable[[StoredState], Awaitable[_T]]) -> _T:
    """Asks the deployment's store. Raises `Unavailable`."""
    settings = settings_of(context)

    async def work() -> _T:
        from adgovernor.app.stored import StoredState

        async with opened_store(settings) as store:
            return await question(StoredState(store, settings.partitions))

    return run_async(work())


@state_app.command("user")
def user(
    context: typer.Context,
    routing_id: Annotated[
        str,
        typer.Argument(
            help="The widest identity that the publisher gives: household, else user, device, session."
        ),
    ],
    session: Annotated[
        str | None, typer.Option(help="The stream or visit, for caps that count in one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a person: caps used and left, what was served, opt-outs.

    Example: adgovernor state user household-17
    """
    found = read_state(context, lambda state: state.person(routing_id, session))
    if as_json:
        print_json(found)
        return
    seen = "" if found["known"] else "; nothing is remembered of this person"
    typer.echo(f"{routing_id} on shard {found['shard']}, at {moment(found['watermark_ms'])}{seen}")
    for opted in found["opt_outs"]:
        typer.echo(f"opted out of {opted['scope']} {opted['value'] or ''}".rstrip())
    for allowed in found["allows"]:
        typer.echo(f"allows {allowed['scope']} {allowed['value'] or ''}".rstrip())
    rows = [
        (
            cap["campaign_id"],
            cap["scope"],
            cap["per"] or "",
            _window(cap),
            "" if cap["since_ms"] is None else moment(cap["since_ms"]),
            cap["limit"],
            cap["used"],
            cap["left"],
        )
        for cap in found["caps"]
    ]
    print_table("caps", ("campaign", "scope", "per", "window", "counts from", "limit", "used", "left"), rows)
    served = [
        (moment(one["time_ms"]), one["campaign_id"], one["decision_id"], one["slot"], one["counts"])
        for one in found["servings"]
    ]
    if served:
        print_table("servings", ("time", "campaign", "decision", "slot", "counts"), served)


def _window(cap: dict[str, Any]) -> str:
    length = cap["length_ms"]
    if length is None:
        return str(cap["window"])
    for unit, name in _LENGTHS:
        if length % unit == 0:
            return f"{cap['window']} {length // unit} {name}"
    return f"{cap['window']} {length} ms"


@state_app.command("session")
def session_of(
    context: typer.Context,
    session: Annotated[str, typer.Argument(help="The session id of the stream.")],
    user: Annotated[
        str | None,
        typer.Option(
            help="The routing id of the person, where the session is not what requests are filed under."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a stream: its pods and ads, the neighbour of the next pod, caps that count in it and what is left of them,
    and what its session with upstream ad servers has counted.

    Example: adgovernor state session stream-81 --user household-17
    """
    from adgovernor.app.stored_sessions import counted, describe

    found = read_state(context, lambda state: state.find(user or session))
    # What a session counts is filed under the session itself.
    own = found if user is None else read_state(context, lambda state: state.find(session))
    stream = describe(found, session) | {"counted": counted(own)}
    if as_json:
        print_json(stream)
        return
    seen = "" if stream["pods"] else "; nothing is remembered of this stream"
    typer.echo(
        f"{session} of {found.routing_id} on {stream['shard']}, at {moment(stream['watermark_ms'])}{seen}"
    )
    if (done := stream["counted"]) is not None:
        typer.echo(
            f"{done['requests']} requests, {done['impressions']} impressions, positions {done['pod_positions']}, "
            f"{done['spend_micros']} micros; kept until {moment(done['until_ms'])}"
        )
    rows = [
        (pod["pod_id"], pod.get("break_offset", ""), pod["state"], *(ad[name] for name in _AD_COLUMNS))
        for pod in stream["pods"]
        for ad in pod["positions"]
    ]
    print_table("pods", ("pod", "break", "pod is", *(name.removesuffix("_id") for name in _AD_COLUMNS)), rows)
    last = stream["last"]
    if last is not None:
        apart = ", ".join([*last["advertiser_domains"], *last["categories"]]) or "nothing to keep apart"
        typer.echo(f"last: {last['campaign_id']}/{last['creative_id']} ({apart})")
    caps = [
        (cap["campaign_id"], cap["scope"], cap["limit"], cap["used"], cap["left"]) for cap in stream["caps"]
    ]
    print_table("caps of the stream", ("campaign", "scope", "limit", "used", "left"), caps)


@state_app.command("campaign")
def campaign(
    context: typer.Context,
    campaign_id: Annotated[str, typer.Argument(help="The campaign.")],
    account: Annotated[
        str | None, typer.Option(help="Whose; needed where several accounts have a campaign of this name.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a campaign's money and status, and which shard holds how much of it.

    Example: adgovernor state campaign spring-sale --json
    """
    show_campaign(context, campaign_id, account, as_json)


def show_campaign(context: typer.Context, campaign_id: str, account: str | None, as_json: bool) -> None:
    """Shows a campaign in full."""
    known = read_state(context, lambda state: state.campaign(campaign_id, account))
    found = known.details()
    if as_json:
        print_json(found)
        return
    currency = found["currency"]
    why = f" ({', '.join(found['reasons'])})" if found["reasons"] else ""
    if found["taken_by"]:
        why = f" (account {found['taken_by']} has a campaign of this id; define it again under another)"
    typer.echo(f"{campaign_id} of {found['account_id']}: {found['status']}{why}, episode {found['episode']}")
    parts = ("topped_up", "unleased", "in_flight", "lease", "reserved", "spent", "left")
    rows = [(name.replace("_", " "), money(found[name + "_micros"], currency)) for name in parts]
    print_table("", ("money", "amount"), rows)
    shards = [
        (
            one["shard"],
            day["day"],
            money(day["lease_micros"]),
            money(day["reserved_micros"]),
            money(day["spent_micros"]),
        )
        for one in found["shards"]
        for day in one["days"]
    ]
    if shards:
        print_table("by shard", ("shard", "day", "lease", "reserved", "spent"), shards)


def _lost_of_ledger(context: typer.Context, shard: str) -> str:
    """What to say where a part of a shard's ledger was deleted; nothing where it is whole, or Kafka does not answer."""
    settings = settings_of(context)

    async def work() -> str:
        from adgovernor.contracts import topics
        from adgovernor.runtime.chain import cut
        from adgovernor.runtime.kafka_reader import KafkaReaders

        ledger, partition = topics.ledger_topic(shard), topics.partition_of_shard(shard)
        name = topics.full_name(settings.prefix, ledger)
        readers = KafkaReaders(settings.kafka.connection(), 1, "adgovernor-state")
        try:
            async with asyncio.timeout(_ASK_S):
                first = await readers.first(name, partition)
        except (Unavailable, TimeoutError):
            return ""
        finally:
            await readers.close()
        return cut(f"{name}[{partition}]", first, 0) if first else ""

    return run_async(work())


@state_app.command("shard")
def shard(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Such as u3 (users) or t3 (treasury).")],
    as_json: AsJson = False,
) -> None:
    """Show where a shard is in its ledger and its inputs; and say so where a part of the ledger was deleted.

    Example: adgovernor state shard u0
    """
    shard_named(name)
    lost = _lost_of_ledger(context, name)
    if lost:
        # Said first, for the store may have nothing, or an old state, for this very reason.
        typer.echo(lost, err=True)
    found = read_state(context, lambda state: state.shard(name))
    if as_json:
        print_json(found)
        return
    rows = []
    for key, value in found.items():
        if isinstance(value, dict):
            rows += [(f"{key} {inner}", each) for inner, each in value.items()]
        else:
            rows.append((key, moment(value) if key.endswith("_ms") else value))
    print_table("", ("", "value"), rows)
