"""When a shard's next block may begin."""

from __future__ import annotations

import pytest

from adgovernor.runtime.pace import pause_s
from adgovernor.runtime.settings import EngineSettings

SETTINGS = EngineSettings(prefix="test", partitions=1, gather_s=0.01, beat_s=0.05, max_events=1_000)


@pytest.mark.parametrize(
    ("now_s", "began_s", "events", "expected_s"),
    [
        pytest.param(10.004, 10.0, 1, 0.006, id="one event soon after: until gather_s after the last block"),
        pytest.param(10.020, 10.0, 1, 0.0, id="one event later: at once"),
        pytest.param(10.020, 10.0, 3, 0.0, id="three are few"),
        pytest.param(10.020, 10.0, 4, 0.030, id="four are not: at the beat"),
        pytest.param(10.070, 10.0, 4, 0.030, id="a block that took longer than a beat: at the next one"),
        pytest.param(10.110, 10.0, 4, 0.0, id="after a rest: at once"),
        pytest.param(10.020, 10.0, 249, 0.030, id="a small block still"),
        pytest.param(10.004, 10.0, 250, 0.0, id="behind a large block: at once"),
    ],
)
def test_a_block_begins_when_it_is_worth_it(
    now_s: float, began_s: float, events: int, expected_s: float
) -> None:
    """A few events wait a little, those of a busy shard for the beat, and none after a rest or behind a backlog."""
    assert pause_s(SETTINGS, now_s, began_s, events) == pytest.approx(expected_s)


def test_shards_that_began_at_different_times_meet_on_the_beat() -> None:
    """Busy shards of a worker begin their next blocks together, whenever their last ones began."""
    starts = {
        round(now_s + pause_s(SETTINGS, now_s, began_s, 5), 6)
        for now_s, began_s in ((10.011, 10.0), (10.027, 10.003), (10.049, 9.999))
    }
    assert starts == {10.05}


def test_without_a_beat_blocks_follow_each_other() -> None:
    """A beat of 0 is none."""
    alone = EngineSettings(prefix="test", partitions=1)
    assert pause_s(alone, 10.0, 10.0, 100) == 0.0
