"""How the demonstration is shown: live on a terminal, a line an event elsewhere, or JSON."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Protocol, Self

import orjson
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from adgovernor.app.console import money, screen
from adgovernor.app.simulate_view import line_of, totals_table
from adgovernor.audit.report import CHECKS, Report

_EVENTS_SHOWN: Final = 9
_EVENTS_ON_SMALL: Final = 5
_SMALL_HEIGHT: Final = 34
_HEADS: Final = 3
"""Lines that are always there: the head, the table's own, and the cursor's."""
_FRAME: Final = 2
_BAR: Final = 30
_NARROW_BAR: Final = 16
_NARROW: Final = 100
_FRAME_S: Final = 0.125
_RATE_S: Final = 3.0
"""Requests a second are those of so many last seconds."""


class Show(Protocol):
    """What the story tells."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def event(self, name: str, body: Mapping[str, Any]) -> None:
        """A decision or a campaign event, by the name that it has in JSON."""
        ...

    def note(self, text: str) -> None:
        """What the story does, or what it saw of the workers."""
        ...

    def budgets(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The campaigns' money, as the store has it now."""
        ...

    def end(self, totals: Mapping[str, Any], report: Report) -> None:
        """The audit and the totals; the last thing that is told."""
        ...


def line(name: str, body: Mapping[str, Any]) -> str:
    """An event as one plain line."""
    if name == "dead-letter":
        return f"dead-letter {body['topic']}[{body['partition']}] offset {body['offset']}: {body['reason']}"
    return line_of(name, dict(body))


def verdict(totals: Mapping[str, Any]) -> str:
    """The totals' last word."""
    if totals["differences"]:
        return "the totals DIFFER from the ledger: " + "; ".join(totals["differences"])
    decisions, shown = totals["decisions"], sum(row["impressions"] for row in totals["campaigns"].values())
    spent = money(sum(row["spent_micros"] for row in totals["campaigns"].values()), totals["currency"])
    return f"the totals agree with the ledger: {decisions} decisions, {shown} impressions, {spent} spent"


def _checks(report: Report) -> list[tuple[str, str, str]]:
    return [
        (name, f"{report.found[name]} findings" if report.found[name] else "holds", proves)
        for name, proves in CHECKS.items()
    ]


class PlainShow:
    """One plain line an event, written at once."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""

    def event(self, name: str, body: Mapping[str, Any]) -> None:
        """See `Show.event`."""
        print(line(name, body), flush=True)

    def note(self, text: str) -> None:
        """See `Show.note`."""
        print(f"-- {text}", flush=True)

    def budgets(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """See `Show.budgets`; the thresholds tell of it, too."""

    def end(self, totals: Mapping[str, Any], report: Report) -> None:
        """See `Show.end`."""
        for name, outcome, proves in _checks(report):
            print(f"audit {name}: {outcome} ({proves})")
        for finding in report.findings:
            print(f"audit finding, {finding.check}, {finding.place}: {finding.message}")
        screen().print(totals_table(dict(totals)))
        print(verdict(totals), flush=True)


class JsonShow:
    """One JSON object a line, written at once; the last one is the totals."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""

    def event(self, name: str, body: Mapping[str, Any]) -> None:
        """See `Show.event`."""
        self._print(name, body)

    def note(self, text: str) -> None:
        """See `Show.note`."""
        self._print("note", {"text": text})

    def budgets(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """See `Show.budgets`."""

    def end(self, totals: Mapping[str, Any], report: Report) -> None:
        """See `Show.end`."""
        self._print("audit", report.as_dict())
        self._print("totals", totals)

    def _print(self, kind: str, body: Mapping[str, Any]) -> None:
        sys.stdout.buffer.write(orjson.dumps({"type": kind, **body}) + b"\n")
        sys.stdout.buffer.flush()


class LiveShow:
    """A picture that moves: budgets draining, events, decisions scrolling by."""

    def __init__(self, title: str, console: Console | None = None) -> None:
        self._title = title
        self.console = console if console is not None else Console(highlight=False)
        self._began = time.monotonic()
        self._budgets: list[Mapping[str, Any]] = []
        self._events: deque[Text] = deque(maxlen=_EVENTS_SHOWN)
        self._decisions: deque[Text] = deque(maxlen=200)
        self._times: deque[float] = deque()
        self._decided = self._filled = self._dead = 0
        self._drawn = 0.0
        # Drawn from here only: a thread that draws would meet what the story is just changing.
        self._live = Live(console=self.console, get_renderable=self.picture, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def event(self, name: str, body: Mapping[str, Any]) -> None:
        """See `Show.event`."""
        if name == "decision":
            self._decision(body)
            self._draw()
            return
        if name == "dead-letter":
            # Counted in the head; they would crowd out what the story is about.
            self._dead += 1
            return
        style = {
            "campaign-paused": "bold yellow",
            "budget-exhausted": "bold red",
            "campaign-resumed": "bold green",
            "budget-thresholds": "magenta",
        }.get(name, "cyan")
        self._tell(Text(line(name, body), style=style))

    def _decision(self, body: Mapping[str, Any]) -> None:
        now = time.monotonic()
        self._times.append(now)
        while self._times and self._times[0] < now - _RATE_S:
            self._times.popleft()
        self._decided += 1
        filled = any("winner" in slot for slot in body["slots"])
        self._filled += filled
        head, separator, losers = line("decision", body).removeprefix("decision ").partition("; ")
        text = Text(head, style="green" if filled else "yellow")
        text.append(separator + losers, style="dim")
        self._decisions.append(text)

    def note(self, text: str) -> None:
        """See `Show.note`."""
        self._tell(Text(f"▸ {text}", style="bold"))

    def _tell(self, text: Text) -> None:
        stamp = Text(f"{time.monotonic() - self._began:5.1f} s  ", style="dim")
        self._events.append(stamp + text)
        self._draw()

    def budgets(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """See `Show.budgets`."""
        self._budgets = list(rows)
        self._draw()

    def _draw(self) -> None:
        now = time.monotonic()
        if now - self._drawn >= _FRAME_S:
            self._drawn = now
            self._live.refresh()

    def picture(self) -> RenderableType:
        """All of it, as high as the terminal at most."""
        # What is newest stands at the bottom of each part; decisions take what height is left.
        parts: list[RenderableType] = [self._head(), self._bars()]
        room = self.console.height - len(self._budgets) - _HEADS
        wanted = _EVENTS_SHOWN if self.console.height >= _SMALL_HEIGHT else _EVENTS_ON_SMALL
        for title, newest, most in (("events", self._events, wanted), ("decisions", self._decisions, room)):
            rows = min(most, room - _FRAME)
            if rows > 0:
                parts.append(_panel(title, list(newest)[-rows:], rows))
                room -= rows + _FRAME
        return Group(*parts)

    def _head(self) -> Text:
        now = time.monotonic()
        recent = sum(1 for at in self._times if at >= now - _RATE_S)
        share = 100 * self._filled // self._decided if self._decided else 0
        head = Text(no_wrap=True, overflow="ellipsis")
        head.append(self._title, style="bold")
        head.append(
            f"  {now - self._began:.0f} s, {self._decided} decisions, {recent / _RATE_S:.0f}/s, {share} % filled, "
            f"{self._dead} dead letters"
        )
        return head

    def _bars(self) -> Table:
        narrow = self.console.width < _NARROW
        width = _NARROW_BAR if narrow else _BAR
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for heading, justify in (
            ("campaign", "left"),
            ("budget" if narrow else "budget: spent, reserved, left", "left"),
            ("spent", "right"),
            ("reserved", "right"),
            ("of", "right"),
            ("status", "left"),
        ):
            table.add_column(heading, justify="right" if justify == "right" else "left", no_wrap=True)
        for row in sorted(self._budgets, key=lambda row: str(row["campaign_id"])):
            status = (
                Text("paused: " + ", ".join(row["reasons"]), style="bold yellow")
                if row["reasons"]
                else Text(f"running, episode {row['episode']}", style="green")
            )
            table.add_row(
                row["campaign_id"],
                _bar(row, width),
                money(row["spent_micros"]),
                money(row["reserved_micros"]),
                money(row["topped_up_micros"], row["currency"]),
                status,
            )
        return table

    def end(self, totals: Mapping[str, Any], report: Report) -> None:
        """See `Show.end`."""
        self._live.refresh()
        self._live.stop()
        table = Table(title="Audit", title_justify="left")
        for heading in ("check", "result", "proves"):
            table.add_column(heading)
        for name, outcome, proves in _checks(report):
            table.add_row(name, Text(outcome, style="green" if outcome == "holds" else "bold red"), proves)
        self.console.print(table)
        for finding in report.findings:
            self.console.print(
                Text(f"{finding.check}, {finding.place}: {finding.message}"), style="red", soft_wrap=True
            )
        self.console.print(totals_table(dict(totals)))
        style = "bold red" if totals["differences"] else "bold green"
        self.console.print(Text(verdict(totals), style=style))


def _panel(title: str, rows: Sequence[Text], height: int) -> Panel:
    text = Text("\n").join([*rows, *([Text()] * (height - len(rows)))])
    text.no_wrap, text.overflow = True, "ellipsis"
    return Panel(text, title=title, title_align="left", border_style="dim")


def _bar(row: Mapping[str, Any], width: int) -> Text:
    whole = max(1, int(row["topped_up_micros"]))
    spent = min(width, round(width * int(row["spent_micros"]) / whole))
    reserved = min(width - spent, round(width * int(row["reserved_micros"]) / whole))
    text = Text("█" * spent, style="red")
    text.append("█" * reserved, style="yellow")
    text.append("░" * (width - spent - reserved), style="green")
    return text
