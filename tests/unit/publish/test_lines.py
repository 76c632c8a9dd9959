"""Publishing lines: what becomes of good, bad and odd ones."""

from __future__ import annotations

import pytest
from taking_log import TakingLog

from adgovernor.contracts import topics
from adgovernor.contracts.errors import BadSettings
from adgovernor.publish import Publisher, publish_lines
from adgovernor.publish.lines import KEPT_BAD_LINES, LOOKED_INTO

GOOD = b'{"type":"opt-out","routing_id":"ann","time_ms":1}'


class WithoutTopics(TakingLog):
    """A log on which the topic is missing."""

    async def partitions(self, full_name: str) -> int:
        """There are none."""
        raise BadSettings(f"topic {full_name} does not exist")


async def test_bad_lines_are_named_and_the_others_go_on() -> None:
    """A bad line has its number and reason, good ones before and after it are published, blank ones are none."""
    log = TakingLog()
    async with Publisher(log) as publisher:
        summary = await publish_lines(publisher, topics.USER_EVENTS, [GOOD, b"{", b" \n", GOOD])
    assert (summary.lines, summary.published, summary.bad, summary.blank) == (4, 2, 1, 1)
    assert summary.done == 4, "nothing of the file need be published again"
    assert [(bad.number, bad.reason) for bad in summary.bad_lines] == [(2, "not_json")]
    assert log.taken == [GOOD, GOOD]


async def test_a_file_of_another_kind_fills_no_memory() -> None:
    """All bad lines are counted and told, of which the first are kept."""
    told: list[int] = []
    count = KEPT_BAD_LINES + 50
    async with Publisher(TakingLog()) as publisher:
        summary = await publish_lines(
            publisher, topics.USER_EVENTS, [b"a,b"] * count, on_bad=lambda bad: told.append(bad.number)
        )
    assert (summary.bad, len(summary.bad_lines)) == (count, KEPT_BAD_LINES)
    assert told == list(range(1, count + 1))


async def test_what_is_wrong_for_every_line_ends_it() -> None:
    """A topic that is not there is no fault of a line, so it is said once and nothing goes on."""
    async with Publisher(WithoutTopics()) as publisher:
        with pytest.raises(BadSettings, match="does not exist"):
            await publish_lines(publisher, topics.USER_EVENTS, [GOOD, GOOD])


async def test_misspelt_fields_are_looked_for_at_the_beginning() -> None:
    """A file is written one way throughout: later lines are published without a look."""
    odd = GOOD[:-1] + b',"scop":"all"}'
    told: list[int] = []
    async with Publisher(TakingLog()) as publisher:
        summary = await publish_lines(
            publisher,
            topics.USER_EVENTS,
            [odd] * (LOOKED_INTO + 5),
            on_misspelt=lambda number, _: told.append(number),
        )
    assert told == list(range(1, LOOKED_INTO + 1))
    assert summary.published == LOOKED_INTO + 5
