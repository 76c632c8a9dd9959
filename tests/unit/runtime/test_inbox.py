"""Which input is handled next, and what counts as having seen everything."""

from __future__ import annotations

from adgovernor.contracts import topics
from adgovernor.core.machine import Input
from adgovernor.runtime.inbox import Inbox, shares
from adgovernor.runtime.ports import Fetch, RawEvent


def read(topic: str, offset: int, key: bytes | None, value: bytes | None) -> Input:
    return Input(topic, offset, key, value, None, int(value or b"-1"))


def events(first: int, *times: int) -> list[RawEvent]:
    return [RawEvent(first + i, None, str(time).encode()) for i, time in enumerate(times)]


def inbox() -> Inbox:
    return Inbox(topics.USER_INPUTS, {})


def take(box: Inbox, began_ms: int = 0, ends: dict[str, int] | None = None, **times: list[int]) -> None:
    """Fetches events by their times; ends are behind them unless given."""
    names = {name.replace("-", "_"): name for name in topics.USER_INPUTS}
    fetched = {names[name]: events(box.fetched[names[name]], *values) for name, values in times.items()}
    known = {name: box.fetched[name] + len(fetched.get(name, [])) for name in topics.USER_INPUTS}
    box.take(Fetch(fetched, known | (ends or {})), read, began_ms)


def order(box: Inbox, limit: int = 100) -> list[tuple[str, int]]:
    return [(event.topic, event.time_ms) for event in box.pick(limit)]


def test_the_lowest_event_time_goes_first() -> None:
    """Heads are merged by event time; the order within a topic is the topic's own."""
    box = inbox()
    take(box, ad_requests=[10, 5, 30], impressions=[20, 40])
    assert order(box) == [
        ("ad-requests", 10), ("ad-requests", 5), ("impressions", 20), ("ad-requests", 30), ("impressions", 40),
    ]  # fmt: skip


def test_ties_go_by_topic() -> None:
    """At one time: user events, then impressions, then ad requests."""
    box = inbox()
    take(box, ad_requests=[7, 7], impressions=[7], user_events=[7])
    assert [topic for topic, _ in order(box)] == ["user-events", "impressions", "ad-requests", "ad-requests"]


def test_what_has_no_time_goes_first() -> None:
    """Directives, and poison at a topic's head, go before anything with an event time."""
    box = inbox()
    take(box, directives=[-1, -1], ad_requests=[-1, 3], impressions=[2])
    assert order(box) == [
        ("directives", -1), ("directives", -1), ("ad-requests", -1), ("impressions", 2), ("ad-requests", 3),
    ]  # fmt: skip


def test_nothing_overtakes_unread_input() -> None:
    """While a topic is known to hold messages that were not fetched, no other topic's event is handled."""
    box = inbox()
    take(box, impressions=[20], ends={"ad-requests": 5})
    assert order(box) == []
    take(box, ad_requests=[10, 11, 12, 13, 14])
    assert [topic for topic, _ in order(box)] == ["ad-requests"] * 5 + ["impressions"]


def test_nothing_is_handled_before_every_end_is_known() -> None:
    """After a start, a topic whose end is not known may hold anything."""
    box = inbox()
    box.take(Fetch({"impressions": events(0, 20)}, {"impressions": 1}), read, 0)
    assert order(box) == []


def test_a_pick_stops_where_a_buffer_runs_dry_before_its_end() -> None:
    """A topic that has more than was fetched ends the chunk at its last buffered event."""
    box = inbox()
    take(box, ad_requests=[10, 11], impressions=[30], ends={"ad-requests": 9})
    assert order(box) == [("ad-requests", 10), ("ad-requests", 11)]


def test_a_pick_is_bounded_and_the_rest_stays() -> None:
    """What a block has no room for is handled next, in the same order."""
    box = inbox()
    take(box, ad_requests=[10, 30], impressions=[20, 40])
    picked = box.pick(3)
    box.put_back(picked[1:])
    assert order(box) == [("impressions", 20), ("ad-requests", 30), ("impressions", 40)]


def test_all_seen_counts_once_all_of_it_is_handled() -> None:
    """A sight of every end covers its time only when everything before those ends is in the ledger."""
    box = inbox()
    take(box, began_ms=100, ad_requests=[10])
    box.handled({})
    assert box.covered_ms is None
    box.handled({"ad-requests": 1})
    assert box.covered_ms == 100


def test_a_backlog_is_no_sight_of_the_end() -> None:
    """While a topic holds more than was fetched, handling what was fetched covers nothing."""
    box = inbox()
    take(box, began_ms=100, ad_requests=[10], ends={"ad-requests": 2})
    box.handled({"ad-requests": 1})
    assert box.covered_ms is None


def test_an_end_that_is_not_known_is_no_sight_of_it() -> None:
    """Where one topic does not say where it ends, handling all that was fetched covers nothing."""
    box = inbox()
    box.take(Fetch({}, {name: 0 for name in topics.USER_INPUTS if name != topics.IMPRESSIONS}), read, 100)
    box.handled({})
    assert box.covered_ms is None


def test_reading_goes_on_behind_the_last_offset() -> None:
    """Offsets have gaps where no reader sees what is there, such as the marks of transactions."""
    box = inbox()
    box.take(Fetch({"ad-requests": [*events(0, 10), *events(7, 20)]}, {"ad-requests": 8}), read, 0)
    assert box.wanted(100)["ad-requests"] == 8
    assert not box.unread("ad-requests")


def test_what_a_block_has_no_room_for_comes_next_in_its_order() -> None:
    """Inputs that are put back are picked again as they were."""
    box = inbox()
    take(box, ad_requests=[10, 20, 40], impressions=[30])
    picked = box.pick(100)
    box.put_back(picked[1:])
    assert box.pick(100) == picked[1:]


def test_a_lag_is_never_below_nothing() -> None:
    """An end that was seen before the last block was handled says that nothing waits, and no more."""
    box = inbox()
    take(box, ad_requests=[10, 20])
    lags = box.lags({"ad-requests": 5})
    assert (lags["ad-requests"], box.lags({})["ad-requests"]) == (0, 2)


def test_full_buffers_are_not_asked_for_more() -> None:
    """A topic is asked for only while it has room."""
    box = inbox()
    take(box, ad_requests=[1, 2, 3])
    assert "ad-requests" not in box.wanted(3)
    assert box.wanted(4)["ad-requests"] == 3


def test_a_fetch_is_shared_so_that_none_starves() -> None:
    """Topics with little give their part to the others; each that has anything gets something."""
    assert shares({"a": 5, "b": 1000, "c": 1000}, 100) == {"a": 5, "b": 47, "c": 48}
    assert shares({"a": 1000, "b": 5}, 100) == {"a": 95, "b": 5}
    assert shares({"a": 0, "b": 1000}, 100) == {"a": 0, "b": 100}
    assert shares({"a": 5, "b": 5}, 1) == {"a": 1, "b": 1}
    assert shares({}, 100) == {}
