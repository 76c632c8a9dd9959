"""Giving commands to campaigns and accounts: published, and waited for until a worker accepted or refused them."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from adgovernor.app.console import EXIT_FOUND, complain, counted, money, print_json, run_async, settings_of
from adgovernor.contracts import topics
from adgovernor.contracts.errors import BadInput, Unavailable
from adgovernor.stores.clock import wall_clock_ms

if TYPE_CHECKING:
    from adgovernor.app.settings import Settings
    from adgovernor.contracts.campaigns import CampaignChange, Command
    from adgovernor.subscribe import Reader

_LOOK_S: Final = 3.0
"""How long the store may trail what was accepted; it does so by milliseconds."""
_LOOK_AGAIN_S: Final = 0.05
_NAMED: Final = 3


CommandId = Annotated[
    str | None,
    typer.Option(
        "--command-id", help="To give a command again safely: an id has an effect once. Left out: a new one."
    ),
]
Wait = Annotated[float, typer.Option(min=0, help="Seconds to wait for the answer; 0: do not wait.")]


def new_id() -> str:
    """An id that no other command has."""
    return f"cli-{uuid.uuid4().hex}"


def parsed(data: dict[str, Any]) -> Command:
    """A command, checked. Raises `BadInput`."""
    import orjson

    from adgovernor.contracts.catalogue import contract_of

    parsed: Command = contract_of(topics.CAMPAIGNS).parse(orjson.dumps(data))
    return parsed


def micros(amount: str) -> int:
    """An amount in units of a currency as micros of it. Raises `BadInput`."""
    from decimal import Decimal, InvalidOperation

    from adgovernor.contracts.money import MICROS, MOST_MICROS, micros_of

    try:
        value = Decimal(amount)
        good = value.is_finite() and value > 0 and value == round(value, 6)
    except InvalidOperation as error:
        # Of numbers beyond 28 digits, too.
        raise BadInput(f"{amount!r} is no amount; give units of the currency, such as 250 or 0.5") from error
    if not good:
        raise BadInput(f"{amount} must be above 0 and have at most six decimal places")
    if (found := micros_of(value)) > MOST_MICROS:
        raise BadInput(f"{amount} is more than an amount can say; the most is {MOST_MICROS // MICROS}")
    return found


def give_one(
    context: typer.Context, data: dict[str, Any], command_id: str | None, wait: float, as_json: bool
) -> None:
    """Gives one command, of now and under its id or a new one; see `give`. Raises `BadInput` for what is none."""
    told = {**data, "command_id": command_id or new_id(), "time_ms": wall_clock_ms()}
    give(context, [parsed(told)], wait, as_json)


def give(
    context: typer.Context, commands: list[Command], wait: float, as_json: bool, bad: list[str] | None = None
) -> None:
    """Publishes commands and says what became of them; `typer.Exit` where not all is well.

    Raises:
        Unavailable: when no worker answers in time.
    """
    settings = settings_of(context)
    answers, taken = run_async(_give_and_look(settings, commands, wait)) if commands else ({}, {})
    rows = [_row(command, answers.get(command.command_id), taken) for command in commands]
    if as_json:
        print_json({"commands": rows, "bad": bad or []} if bad is not None else rows[0])
    else:
        for row in rows:
            typer.echo(_told(row, again="apply the file" if bad is not None else None))
    missing = [row["command_id"] for row in rows if row["outcome"] == "unanswered"]
    if missing and wait > 0:
        raise Unavailable(
            f"{counted(len(missing), 'command')} published, but no worker answered within {wait:g} s; what is "
            "published takes effect once workers run (`adgovernor run`)"
        )
    if bad or any(row["outcome"] == "refused" or row.get("taken_by") for row in rows):
        raise typer.Exit(EXIT_FOUND)


async def _give_and_look(
    settings: Settings, commands: list[Command], wait: float
) -> tuple[dict[str, CampaignChange], dict[str, str]]:
    """The answers, and of accepted definitions that will never be served: command id → whose has the campaign's id."""
    answers = await _give_and_wait(settings, commands, wait)
    defined = {
        command.command_id: command.campaign
        for command in commands
        if command.command == "upsert"
        and (answer := answers.get(command.command_id)) is not None
        and answer.accepted
    }
    if not defined:
        return answers, {}
    holders = await _holders(settings, {campaign.campaign_id for campaign in defined.values()})
    return answers, {
        command_id: min(whose)
        for command_id, campaign in defined.items()
        if (whose := holders.get(campaign.campaign_id)) and campaign.account_id not in whose
    }


async def _holders(settings: Settings, campaign_ids: set[str]) -> dict[str, set[str]]:
    """Whose campaigns the shards serve under these ids, as the store has it a moment after they were accepted.

    A treasury knows its own accounts only, so it accepts an id that another treasury's account holds.
    """
    from adgovernor.app.stored import StoredState
    from adgovernor.stores.redis import RedisStore

    store = RedisStore(settings.redis.config(), settings.prefix)
    found: dict[str, set[str]] = {}
    try:
        async with asyncio.timeout(_LOOK_S):
            state = StoredState(store, settings.partitions)
            while not all(map(found.get, campaign_ids)):
                found = await state.holders(sorted(campaign_ids))
                await asyncio.sleep(_LOOK_AGAIN_S)
    except (Unavailable, TimeoutError) as error:
        unknown = sorted(name for name in campaign_ids if not found.get(name))
        complain(
            f"whether another account has {', '.join(unknown[:_NAMED])}{'…' * (len(unknown) > _NAMED)} could not be "
            f"seen in the store ({error or 'not there yet'}); `adgovernor campaigns list` says it later"
        )
    finally:
        await store.close()
    return found


async def _give_and_wait(
    settings: Settings, commands: list[Command], wait: float
) -> dict[str, CampaignChange]:
    from adgovernor.publish import Publisher
    from adgovernor.subscribe import PartitionReader

    connection = settings.kafka.connection()
    name = topics.full_name(settings.prefix, topics.CAMPAIGN_CHANGES)
    async with PartitionReader(connection, name, client_id="adgovernor-campaigns") as changes:
        # From before the commands are given, so that no answer is missed.
        await changes.read_from(await changes.ends(changes.partitions()))
        async with Publisher(connection, prefix=settings.prefix) as publisher:
            await publisher.commands(commands)
        return await answers_to({command.command_id for command in commands}, changes, wait)


async def answers_to(command_ids: set[str], changes: Reader, wait: float) -> dict[str, CampaignChange]:
    """The answer to each of these commands that comes within ``wait`` seconds. A command that landed twice is refused
    the second time; the first answer is the one."""
    from adgovernor.contracts.catalogue import contract_of
    from adgovernor.contracts.errors import Undecodable

    contract = contract_of(topics.CAMPAIGN_CHANGES)
    answers: dict[str, CampaignChange] = {}
    clock = asyncio.get_running_loop().time
    until = clock() + wait
    while len(answers) < len(command_ids) and clock() < until:
        for message in await changes.read(500, min(0.2, max(0.01, until - clock()))):
            try:
                change: CampaignChange = contract.parse(message.value or b"")
            except Undecodable:
                # Somebody else's message is no answer to ours.
                continue
            if change.command_id in command_ids:
                answers.setdefault(change.command_id, change)
    return answers


def _row(command: Command, change: CampaignChange | None, taken: dict[str, str]) -> dict[str, Any]:
    name = getattr(command, "campaign_id", None)
    if command.command == "upsert":
        name = command.campaign.campaign_id
    row: dict[str, Any] = {
        "command": command.command,
        "command_id": command.command_id,
        "account_id": command.account_id,
        "campaign_id": name,
    }
    if change is None:
        return {**row, "outcome": "unanswered"}
    return {
        **row,
        "outcome": "accepted" if change.accepted else "refused",
        "reason": change.reason,
        "topped_up_micros": change.topped_up_micros,
        **({"taken_by": taken.get(command.command_id)} if command.command == "upsert" else {}),
    }


def _told(row: dict[str, Any], again: str | None = None) -> str:
    """A line for a person; ``again``: how a command that was not answered is given once more."""
    what = f"{row['command']} {row['campaign_id'] or row['account_id']}: {row['outcome']}"
    if row["outcome"] == "unanswered":
        return f"{what} ({again or '--command-id ' + row['command_id']} to give it again)"
    if row["outcome"] == "refused":
        from adgovernor.contracts.campaigns import REFUSALS

        why = REFUSALS.get(row["reason"])
        what += f": {row['reason']}" + (f" ({why})" if why else "")
        if row["reason"] != "too_little_unleased":
            return what
    if row.get("taken_by"):
        what += (
            f", but never served: account {row['taken_by']} has this id; define the campaign under another"
        )
    return f"{what}, {money(row['topped_up_micros'])} in all" if row["campaign_id"] else what
