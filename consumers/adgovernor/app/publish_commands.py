"""``adgovernor publish``: events from files or standard input into the input topics."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Final

import typer

from adgovernor.app.console import (
    EXIT_FOUND,
    AsJson,
    complain,
    counted,
    print_json,
    run_async,
    settings_of,
)
from adgovernor.contracts import topics
from adgovernor.contracts.errors import BadInput
from adgovernor.contracts.files import foreign_form

if TYPE_CHECKING:
    from adgovernor.publish import BadLine, LinesSummary

publish_app = typer.Typer(no_args_is_help=True)

_READ_BYTES: Final = 1 << 18
_LINE_BYTES: Final = 64 << 20
"""A line beyond this is no event but a file without lines."""
_SHOWN_BAD: Final = 20

Source = Annotated[str, typer.Argument(metavar="FILE", help="JSON, one event a line; `-` is standard input.")]


@publish_app.callback()
def _publish() -> None:
    """Publish events: JSON lines, each keyed to its shard and acknowledged by every replica.

    A bad line is named by its number and reason and the others go on; the exit code is then 1. Publishing a file
    twice does no harm: what was there already is recognised by its ids.
    """


@publish_app.command("ad-requests")
def publish_ad_requests(
    context: typer.Context,
    source: Source,
    format_: Annotated[
        str, typer.Option("--format", help="json: our own; openrtb: OpenRTB 2.5/2.6 bid requests.")
    ] = "json",
    candidates: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="For openrtb: the ads to offer (see above), as JSON."),
    ] = None,
    time: Annotated[
        str | None,
        typer.Option(
            metavar="FIELD",
            help="For openrtb: where the event time is: a path to milliseconds (ext.timestamp), to a date and time "
            "with its zone (@timestamp), to seconds (ext.ts:s), or to a text that begins with the seconds as 8 hex "
            "digits (id:hex8).",
        ),
    ] = None,
    consent: Annotated[
        str,
        typer.Option(
            help="For openrtb: ignored, or openrtb: what regs, user.consent, device.lmt and dnt refuse is refused (see "
            "above)."
        ),
    ] = "ignored",
    as_json: AsJson = False,
) -> None:
    """Publish ad requests.

    \b
    Example line (one line in the file):
        {"request_id": "r1", "time_ms": 1767225600000, "user_id": "u1",
         "candidates": [{"campaign_id": "spring", "creative_id": "c1",
                         "price_micros": 2500}]}

    With --format openrtb each line is a bid request, which says neither what may be shown nor (mostly) when it was
    made. --candidates names the ads to offer: a campaigns file, or a list of its own. Each is offered where its media,
    sizes, duration, price, categories and domain suit the impression (floors, bcat, acat, badv, durations).

    With --consent openrtb a request says what was refused. Nothing is remembered under regs.coppa, and under regs.gdpr
    without purpose 1 in user.consent. Personalised campaigns are not served under regs.coppa, under regs.gdpr without
    purposes 3 and 4, with device.lmt or dnt, with an opt-out in regs.us_privacy, and where regs.gpp_sid names a law
    whose answer is in the GPP string only, which is not read. Ask your lawyers what is right where you serve.

    \b
    Example of such a list:
        [{"campaign_id": "spring", "creative_id": "c1", "media": ["video"],
          "cpm": 2.5, "currency": "USD", "duration_s": 15, "categories": ["IAB1"],
          "advertiser_domain": "acme.example"},
         {"campaign_id": "house", "creative_id": "h1", "media": ["banner"],
          "sizes": [[300, 250]]}]

    Examples:

    adgovernor publish ad-requests requests.jsonl

    zcat bids.jsonl.gz | adgovernor publish ad-requests - --format openrtb --candidates offers.json --time id:hex8
    """
    reader: Callable[[bytes], Iterable[Any]] | None = None
    if format_ == "openrtb":
        from adgovernor.contracts.openrtb_requests import OpenRtbAdapter, read_candidates

        if candidates is None or time is None:
            raise BadInput(
                "bid requests carry neither candidates nor an event time: give --candidates FILE and --time FIELD "
                "(such as ext.timestamp, or id:hex8)"
            )
        if consent not in ("ignored", "openrtb"):
            raise BadInput(f"--consent is {consent!r}; it must be ignored or openrtb")
        obeyed = consent == "openrtb"
        adapter = OpenRtbAdapter(read_candidates(candidates.read_bytes()), time, consent=obeyed)
        reader = adapter.to_ad_requests
    elif format_ != "json":
        raise BadInput(f"--format is {format_!r}; it must be json or openrtb")
    elif candidates is not None or time is not None or consent != "ignored":
        raise BadInput("--candidates, --time and --consent belong to --format openrtb")
    _run(context, topics.AD_REQUESTS, source, as_json, reader)


@publish_app.command("impressions")
def publish_impressions(context: typer.Context, source: Source, as_json: AsJson = False) -> None:
    """Publish impressions, clicks and completed views. Each echoes `decision_id`, `slot` and `routing_id` of the
    decision that it answers.

    \b
    Example line (one line in the file):
        {"type": "impression", "decision_id": "r1", "slot": 0,
         "routing_id": "u1", "time_ms": 1767225601000}

    Example: adgovernor publish impressions shown.jsonl --json
    """
    _run(context, topics.IMPRESSIONS, source, as_json)


@publish_app.command("user-events")
def publish_user_events(context: typer.Context, source: Source, as_json: AsJson = False) -> None:
    """Publish user events, such as opt-outs.

    Example: echo '{"type":"opt-out","routing_id":"u1","time_ms":1767225600000}' | adgovernor publish user-events -
    """
    _run(context, topics.USER_EVENTS, source, as_json)


def _run(
    context: typer.Context,
    topic: str,
    source: str,
    as_json: bool,
    reader: Callable[[bytes], Iterable[Any]] | None = None,
) -> None:
    from adgovernor.publish import LinesSummary, Publisher, publish_lines

    settings, complaints = settings_of(context), _Complaints()

    async def work() -> LinesSummary:
        with _opened(source) as file, _progress(source, topic) as advance:
            async with Publisher(settings.kafka.connection(), prefix=settings.prefix) as publisher:
                return await publish_lines(
                    publisher,
                    topic,
                    lines_of(file),
                    reader=reader,
                    on_bad=complaints.bad,
                    on_line=advance,
                    on_misspelt=complaints.misspelt,
                    summary=summary,
                )

    summary = LinesSummary()
    try:
        run_async(work())
    except KeyboardInterrupt:
        events, on = counted(summary.published, "event"), summary.done + 1
        way = f"adgovernor publish {topic} -"
        complain(
            f"interrupted: of {counted(summary.lines, 'line')} read, {events} are acknowledged. Publish the file "
            f"again (what landed already is recognised by its ids), or go on from line {on}: tail -n +{on} "
            f"{'FILE' if source == '-' else source} | {way}"
        )
        raise
    if as_json:
        print_json({"topic": topic, **_summed(summary)})
    else:
        bad = f", {counted(summary.bad, 'bad line')} left out" if summary.bad else ""
        events, lines = counted(summary.published, "event"), counted(summary.lines, "line")
        typer.echo(f"published {events} of {lines} to {topic}{bad}")
    if summary.bad:
        raise typer.Exit(EXIT_FOUND)


class _Complaints:
    """What is said of lines while they are published, on standard error."""

    def __init__(self) -> None:
        self._bad = 0
        self._misspelt: set[str] = set()

    def bad(self, line: BadLine) -> None:
        """A line was left out; a file of another kind would say so for each of a million."""
        self._bad += 1
        if self._bad <= _SHOWN_BAD:
            complain(f"line {line.number}: {line.reason}: {line.message}")
        elif self._bad == _SHOWN_BAD + 1:
            complain("more bad lines follow; they are counted")

    def misspelt(self, number: int, told: str) -> None:
        """A field is probably misspelt; a file is written one way throughout, so it is said once."""
        if told not in self._misspelt:
            self._misspelt.add(told)
            complain(f"line {number}: {told} It is left aside, here and in later lines")


def _summed(summary: LinesSummary) -> dict[str, Any]:
    return {
        "lines": summary.lines,
        "published": summary.published,
        "bad": summary.bad,
        "blank": summary.blank,
        "bad_lines": [
            {"line": bad.number, "reason": bad.reason, "message": bad.message} for bad in summary.bad_lines
        ],
    }


@contextlib.contextmanager
def _opened(source: str) -> Iterator[BinaryIO]:
    if source == "-":
        # Closed by whoever started this: Python then has None here.
        if sys.stdin is None:
            raise BadInput("standard input is closed; pipe the events in, or name a file")
        yield sys.stdin.buffer
        return
    try:
        file = Path(source).open("rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise BadInput(f"cannot read {source}: {error.strerror}") from error
    with file:
        yield file


async def lines_of(file: BinaryIO) -> AsyncIterator[bytes]:
    """The lines of a file or pipe, without holding up what is being sent while a pipe is silent.

    Raises:
        BadInput: where a line is longer than any event, or the whole is compressed or no UTF-8.
    """
    read = _reading(file)
    rest = b""
    at_start = True
    while chunk := await _aside(read):
        read_so_far = rest + chunk
        if at_start and (told := foreign_form(read_so_far)) is not None:
            raise BadInput(f"{getattr(file, 'name', 'the file')} {told}")
        *lines, rest = read_so_far.split(b"\n")
        if at_start and (lines or len(rest) >= len(codecs.BOM_UTF8)):
            # Some editors begin a file with a mark that is no part of its first line.
            at_start = False
            if lines:
                lines[0] = lines[0].removeprefix(codecs.BOM_UTF8)
            else:
                rest = rest.removeprefix(codecs.BOM_UTF8)
        if len(rest) > _LINE_BYTES:
            raise BadInput(f"a line is longer than {_LINE_BYTES} bytes; give one event a line")
        for line in lines:
            yield line + b"\n"
    if rest:
        yield rest


def _reading(file: BinaryIO) -> Callable[[], bytes]:
    """Reads a piece. Past the file's own buffer where there is a descriptor: what waits in there when the program ends
    would hold a lock that Python wants then."""
    try:
        return partial(os.read, file.fileno(), _READ_BYTES)
    except OSError:
        return partial(file.read, _READ_BYTES)


async def _aside(read: Callable[[], bytes]) -> bytes:
    """Reads in a thread that nobody waits for: a pipe may be silent for ever, and Ctrl-C must end the program."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[bytes] = loop.create_future()

    def settle(chunk: bytes, error: OSError | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(chunk)
        else:
            done.set_exception(error)

    def work() -> None:
        chunk, error = b"", None
        try:
            chunk = read()
        except OSError as failed:
            error = failed
        with contextlib.suppress(RuntimeError):  # The loop has ended meanwhile.
            loop.call_soon_threadsafe(settle, chunk, error)

    threading.Thread(target=work, daemon=True, name="lines").start()
    return await done


@contextlib.contextmanager
def _progress(source: str, topic: str) -> Iterator[Callable[[int], None] | None]:
    """A progress bar on a terminal; nothing elsewhere."""
    if not sys.stderr.isatty() or source == "-":
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"publish {topic}", total=Path(source).stat().st_size)
        waiting = 0

        def advance(size: int) -> None:
            nonlocal waiting
            waiting += size
            if waiting >= _READ_BYTES:
                progress.advance(task, waiting)
                waiting = 0

        yield advance
