"""Sessions with upstream ad servers: what they did is part of the shard's state, for a while."""

from __future__ import annotations

from typing import Any

from core_kit import HOUR, MINUTE, T0, World, state_of

from adgovernor.contracts import topics
from adgovernor.core.history import MOST_CHANGES, Visit
from adgovernor.core.user_shard import UserShard


def did(
    world: World, change_id: str, time_ms: int, session: str = "s", *, unknown: bool = False, **what: Any
) -> None:
    value = {"type": "session", "routing_id": session, "time_ms": time_ms, "change_id": change_id, **what}
    assert world.put(topics.USER_EVENTS, session, value, unknown=unknown).result == {"kind": "session"}


def visit_of(world: World, session: str = "s") -> Visit | None:
    """What the shard knows of a session; what its ledger says is the same."""
    shard = world.machines["u0"]
    assert isinstance(shard, UserShard)
    assert world.state("u0") == state_of(world.folded("u0")) == state_of(world.decided_again("u0"))
    return shard.persons[session].visit


def counted(visit: Visit | None) -> list[Any]:
    assert visit is not None
    return visit.row()[:4]


def test_what_a_session_does_adds_up() -> None:
    """Requests, impressions and money are summed, positions joined; sessions are apart."""
    world = World()
    did(world, "1", T0, requests=2, pod_positions=[3, 1])
    did(world, "2", T0, impressions=1, pod_positions=[1, 2], spend_micros=7)
    did(world, "1", T0, session="other", requests=1)
    assert counted(visit_of(world)) == [2, 1, [1, 2, 3], 7]
    assert counted(visit_of(world, "other")) == [1, 0, [], 0]


def test_a_repeated_change_counts_once() -> None:
    """A change is known by its id, also where the session's stored part was not known when it came again."""
    world = World()
    did(world, "1", T0, requests=1)
    did(world, "1", T0 + MINUTE, requests=1)
    world.forget()
    did(world, "1", T0 + MINUTE, requests=1, unknown=True)
    did(world, "2", T0 + MINUTE, requests=1, unknown=True)
    world.heal()
    assert counted(visit_of(world)) == [2, 0, [], 0]


def test_a_session_is_forgotten_a_while_after_its_last_change() -> None:
    """The time to live begins anew with every change, by the watermark; a later change begins from nothing."""
    world = World(session_ttl_ms=HOUR, lateness_ms=0)
    did(world, "1", T0, requests=1)
    did(world, "2", T0 + HOUR - 1, requests=1)
    did(world, "3", T0 + 2 * HOUR - 2, requests=1)
    assert counted(visit_of(world))[0] == 3
    did(world, "4", T0 + 3 * HOUR, requests=1)
    assert counted(visit_of(world))[0] == 1


def test_a_wrong_clock_keeps_no_session_for_ever() -> None:
    """An event far in the future, or of long ago, lives as long as one of now."""
    world = World(session_ttl_ms=HOUR, lateness_ms=0, skew_ms=0)
    world.follow_events = False
    did(world, "0", T0, requests=1)
    did(world, "1", T0 + 1_000 * HOUR, session="fast", requests=1)
    did(world, "1", T0 - 1_000 * HOUR, session="slow", requests=1)
    for name in ("fast", "slow"):
        visit = visit_of(world, name)
        assert visit is not None
        assert visit.until_ms == T0 + HOUR


def test_only_the_last_changes_are_known_by_id() -> None:
    """The ids that are remembered are bounded; counts are not."""
    world = World()
    for number in range(MOST_CHANGES + 10):
        did(world, str(number), T0 + number, requests=1)
    visit = visit_of(world)
    assert visit is not None
    assert (visit.requests, len(visit.changes)) == (MOST_CHANGES + 10, MOST_CHANGES)


def test_erasure_forgets_the_session() -> None:
    """A session that was erased has no state, and begins from nothing."""
    world = World()
    did(world, "1", T0, requests=5)
    world.user_event("erasure", T0, user="s")
    assert visit_of(world) is None
    did(world, "2", T0, requests=1)
    assert counted(visit_of(world)) == [1, 0, [], 0]
