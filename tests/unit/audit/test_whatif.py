"""What would have happened, where traffic is thin: nothing is lost to messages that would be there by then."""

from __future__ import annotations

import json
import os
import re
import tracemalloc
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from adgovernor.audit.lines import Line, opened, read_lines
from adgovernor.audit.whatif import WhatIf, comes_late, command_of
from adgovernor.contracts.campaigns import Campaign

START_MS = 1_772_323_200_000
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
SPRING: dict[str, Any] = {
    "campaign_id": "spring",
    "account_id": "acme",
    "budget_micros": 3_000,
    "price_micros": 1_000,
}


def _ask(name: str, time_ms: int, user: str = "ann", **more: Any) -> dict[str, Any]:
    return {
        "request_id": name,
        "time_ms": time_ms,
        "user_id": user,
        "candidates": [{"campaign_id": "spring", "creative_id": "x"}],
        **more,
    }


def _run(
    campaigns: list[dict[str, Any]],
    events: list[dict[str, Any]],
    shards: int = 1,
    *,
    auto_impressions: bool = True,
) -> tuple[str, dict[str, Any]]:
    """The slots that each decision filled, such as ``2 1 0``, and the totals."""
    definitions = [Line(f"campaign {number}", data) for number, data in enumerate(campaigns)]
    lines = [Line(f"event {number}", data) for number, data in enumerate(events)]
    run = WhatIf.begin(shards, auto_impressions=auto_impressions, late=comes_late(definitions, lines))
    said = [*run.campaigns(definitions), *run.events(lines)]
    assert run.rejected == []
    filled = [
        str(sum("winner" in slot for slot in body["slots"])) for name, body in said if name == "decisions"
    ]
    return " ".join(filled), run.finish()["campaigns"]


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_each_day_spends_its_budget_from_its_first_request_on(shards: int) -> None:
    """The first request of a day is served, whoever asks, and exactly the day's budget is spent."""
    events = [
        _ask(f"r{day}-{hour}", START_MS + day * DAY_MS + hour * HOUR_MS, f"user {hour}")
        for day in range(3)
        for hour in range(1, 5)
    ]
    daily = {**SPRING, "budget_micros": 100_000, "daily_budget_micros": 2_000}
    assert _run([daily], events, shards)[0] == "1 1 0 0 " * 2 + "1 1 0 0"


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_the_last_price_is_sold_to_whoever_asks_for_it(shards: int) -> None:
    """A budget of three ads shows three to the first three who ask, on whatever shard its money lies."""
    events = [_ask(f"r{number}", START_MS + number, f"user {number}") for number in range(6)]
    assert _run([SPRING], events, shards)[0] == "1 1 1 0 0 0"


def test_a_pod_gets_all_the_money_that_there_is() -> None:
    """A budget of five ads fills a pod of three and two of the next."""
    ads = [{"campaign_id": "spring", "creative_id": f"x{number}"} for number in range(4)]
    events = [_ask(f"r{number}", START_MS + number, slots=3, candidates=ads) for number in range(3)]
    assert _run([{**SPRING, "budget_micros": 5_000}], events)[0] == "3 2 0"


def test_a_budget_serves_dearer_candidates_than_its_campaign_names() -> None:
    """A campaign without a price of its own sells its whole budget to candidates that name theirs."""
    priced = [{"campaign_id": "spring", "creative_id": "x", "price_micros": 1_000}]
    events = [_ask(f"r{number}", START_MS + number, candidates=priced) for number in range(5)]
    campaign = {name: value for name, value in SPRING.items() if name != "price_micros"}
    assert _run([campaign], events)[0] == "1 1 1 0 0"


def test_money_of_campaigns_serves_all_of_an_account() -> None:
    """An account's budget of three ads shows three of its two campaigns' ads, in turn."""
    account = {"account_id": "acme", "budget_micros": 3_000}
    campaigns = [{**SPRING, "budget_micros": 10_000, "campaign_id": name} for name in ("one", "two")]
    events = [
        _ask(f"r{number}", START_MS + number, candidates=[{"campaign_id": name, "creative_id": "x"}])
        for number, name in enumerate(("one", "two", "one", "two"))
    ]
    assert _run([account, *campaigns], events)[0] == "1 1 1 0"


def test_expired_money_serves_the_next_request() -> None:
    """An ad that was not shown within its minute and the lateness gives its money to the request that comes then."""
    small = {**SPRING, "budget_micros": 1_000}
    events = [_ask(f"r{number}", START_MS + at) for number, at in enumerate((0, 69_999, 70_000))]
    assert _run([small], events, auto_impressions=False)[0] == "1 0 1"


def test_money_is_kept_back_where_impressions_come_late() -> None:
    """Where the file has an impression that comes after its reservation has expired, it is still paid for."""
    small = {**SPRING, "budget_micros": 1_000}
    events = [
        _ask("r0", START_MS),
        _ask("r1", START_MS + 100_000),
        {"decision_id": "r0", "time_ms": START_MS + 200_000},
    ]
    filled, totals = _run([small], events, auto_impressions=False)
    assert filled == "1 0"
    assert (totals["spring"]["late_impressions"], totals["spring"]["unfunded_micros"]) == (1, 0)


def test_what_follows_from_a_decision_is_said_before_its_impression_is_shown() -> None:
    """With impressions shown by themselves events still come in the order of their causes: blocks never go back."""
    run = WhatIf.begin(1, auto_impressions=True)
    said = [
        *run.campaigns([Line("campaign", {**SPRING, "budget_micros": 1_000})]),
        *run.events([Line("event", _ask("r0", START_MS))]),
    ]
    treasury = [body["height"] for _, body in said if body["shard"] == "t0"]
    assert treasury == sorted(treasury)
    assert [name for name, _ in said].index("budget-exhausted") < [name for name, _ in said].index(
        "budget-thresholds"
    )


def test_a_type_may_name_the_command() -> None:
    """In a mixed file a command may be named by ``type``, as other events are; an account needs no budget."""
    said = {"account_id": "acme", "campaign_id": "spring"}
    events: list[dict[str, Any]] = [
        {"type": "account", "account_id": "acme", "time_zone": "Europe/Berlin"},
        {"type": "top-up", "command_id": "more", "amount_micros": 2_000, **said},
        {"type": "pause", "command_id": "stop", **said},
    ]
    totals = _run([SPRING], events)[1]["spring"]
    assert (totals["topped_up_micros"], totals["paused"]) == (5_000, ["manual"])


def test_a_file_may_be_one_object_over_several_lines(tmp_path: Path) -> None:
    """A single object needs no line of its own; an array and JSON lines are read as such."""
    path = tmp_path / "campaigns.json"
    path.write_bytes(b'\xef\xbb\xbf{\r\n  "campaign_id": "spring"\r\n}\r\n')
    assert [line.data for line in read_lines(path) if isinstance(line, Line)] == [{"campaign_id": "spring"}]
    path.write_bytes(b'\n [{"a": 3}]')
    assert [line.data for line in read_lines(path) if isinstance(line, Line)] == [{"a": 3}]
    path.write_bytes(b'{"a": 1}\r\n\r\n{"a": 2}\r\n')
    assert [line.data for line in read_lines(path) if isinstance(line, Line)] == [{"a": 1}, {"a": 2}]


def test_of_two_accounts_campaigns_of_one_id_the_first_is_served_and_counted() -> None:
    """Whoever defines a campaign under an id that another treasury's account has is told so, and the totals under the
    id are those of the campaign that is served."""
    run = WhatIf.begin(2, auto_impressions=True)
    mine, other = SPRING, {**SPRING, "account_id": "a1", "budget_micros": 7_000}
    list(run.campaigns([Line("line 1", mine), Line("line 2", other)]))
    list(run.events([Line("event", _ask("r0", START_MS))]))
    totals = run.finish()["campaigns"]["spring"]
    assert (totals["account_id"], totals["spent_micros"], totals["in_flight_micros"]) == ("acme", 1_000, 0)
    (told,) = run.rejected
    assert told.startswith("line 2: never served: account acme has campaign spring;")


def test_a_command_among_events_comes_at_its_time() -> None:
    """A daily budget that is lowered on the third of quiet days leaves the two before what they had: 3 + 3 + 1 + 1 ads
    until the fourth, of which one was shown. A campaigns file is applied before all events, whatever its times."""
    campaign = {**SPRING, "budget_micros": 10**6, "daily_budget_micros": 3_000, "daily_policy": "rollover"}
    lower = {
        "command": "upsert",
        "command_id": "lower",
        "account_id": "acme",
        "time_ms": START_MS + 2 * DAY_MS + HOUR_MS,
        "campaign": {**campaign, "daily_budget_micros": 1_000},
    }
    last = [_ask(f"r{number}", START_MS + 3 * DAY_MS + number) for number in range(1, 10)]
    run = WhatIf.begin(1, auto_impressions=True, late=False)
    list(run.campaigns([Line("c", campaign)]))
    list(run.events([Line("e", event) for event in (_ask("r0", START_MS + HOUR_MS), lower, *last)]))
    assert run.finish()["campaigns"]["spring"]["impressions"] == 8
    early = WhatIf.begin(1, auto_impressions=True, late=False)
    list(early.campaigns([Line("c", campaign), Line("later", lower)]))
    list(early.events([Line("e", _ask("r0", START_MS))]))
    assert early.finish()["campaigns"]["spring"]["impressions"] == 1


def test_what_comes_through_a_pipe_can_be_read_twice(tmp_path: Path) -> None:
    """Events may come from another program, though they are looked through before the run."""
    pipe = tmp_path / "events"
    os.mkfifo(pipe)
    rows = b"".join(b'{"a": %d}\n' % number for number in range(20_000))
    with ThreadPoolExecutor(1) as writer:
        written = writer.submit(pipe.write_bytes, rows)
        with opened(pipe) as lines:
            assert written.result() == len(rows)
            assert list(lines) == list(lines)
            assert len(list(lines)) == 20_000


def test_a_file_of_lines_is_not_held_in_memory(tmp_path: Path) -> None:
    """However long a file is, its lines are read as they are needed, blank ones at its beginning and all."""
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"\n" + b'{"a": 1}\n' * 100_000)
    tracemalloc.start()
    with opened(path) as lines:
        places = deque((line.place for line in lines if isinstance(line, Line)), maxlen=1)
    most_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert places.pop() == "events.jsonl, line 100001"
    assert most_bytes < 1_000_000


def test_a_time_that_is_a_text_is_refused_with_what_is_wanted() -> None:
    """Whoever writes a date is told to write milliseconds."""
    run = WhatIf.begin(1)
    request = {**_ask("r0", 0), "time_ms": "2026-03-01T00:00:00Z"}
    assert list(run.events([Line("line 7", request)])) == []
    assert run.rejected == ["line 7: no ad request: time_ms: is a text; give a whole number of milliseconds"]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"caps": [{"window": "hour", "limit": 3}]}, "rolling (with length_ms: an hour is 3600000)"),
        (
            {"currency": "usd"},
            "upsert.campaign.currency: 'usd' is no currency; give an ISO 4217 code in capitals",
        ),
    ],
)
def test_a_definition_is_told_what_to_write_instead(wrong: dict[str, Any], told: str) -> None:
    """Whoever defines a campaign with a word that is not known here reads which ones are."""
    run = WhatIf.begin(1)
    campaign = {"campaign_id": "c", "account_id": "a", "price_micros": 5, "budget_micros": 100}
    assert list(run.campaigns([Line("line 1", {**campaign, **wrong})])) == []
    (said,) = run.rejected
    assert told in said


def test_null_in_a_definition_is_as_if_it_were_left_out() -> None:
    """A campaign whose program writes null for each field that it has nothing for is the campaign without them."""
    needed: dict[str, Any] = {"campaign_id": "c", "account_id": "a", "budget_micros": 5}
    everything = {**dict.fromkeys(Campaign.model_fields), **needed}
    assert Campaign.model_validate_json(json.dumps(everything)) == Campaign(**needed)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"user_id": "x" * 1025}, "user_id: has 1025 characters; at most 1024 are taken"),
        ({"slots": []}, "slots: is empty; leave it out, or give at least one entry"),
        (
            {"candidates": [{"campaign_id": "c", "creative_id": "x"}] * 1001},
            "candidates: has 1001 entries; at most 1000 are taken",
        ),
    ],
)
def test_what_is_too_much_is_told_in_numbers(wrong: dict[str, Any], told: str) -> None:
    """A field past its bounds is told how much it holds and how much it may."""
    run = WhatIf.begin(1)
    assert list(run.events([Line("line 7", {**_ask("r0", 0), **wrong})])) == []
    assert run.rejected == [f"line 7: no ad request: {told}"]


def test_a_person_whose_identity_is_long_is_shown_ads() -> None:
    """An identity as long as encrypted tokens are is decided for, shown and paid as any other."""
    run = WhatIf.begin(1, auto_impressions=True)
    campaign = {"campaign_id": "c", "account_id": "a", "price_micros": 5, "budget_micros": 100}
    assert list(run.campaigns([Line("line 1", {"account_id": "a"}), Line("line 2", campaign)]))
    request = {**_ask("r0", START_MS), "user_id": "t" * 1024, "labels": None}
    request["candidates"] = [{"campaign_id": "c", "creative_id": "x"}]
    assert list(run.events([Line("line 1", request)]))
    assert (run.rejected, run.finish()["campaigns"]["c"]["spent_micros"]) == ([], 5)


def test_an_impression_that_names_no_decision_is_refused() -> None:
    """An impression that names its request is told what to write, and not taken for a request seen before."""
    run = WhatIf.begin(1)
    shown = {"type": "impression", "request_id": "r0", "time_ms": START_MS}
    assert list(run.events([Line("line 1", _ask("r0", START_MS)), Line("line 2", shown)]))
    (told,) = run.rejected
    assert told.startswith(
        "line 2: no impression, click or completed view: impression.decision_id: Field required"
    )


def test_a_line_may_say_what_it_is() -> None:
    """A command, a campaign and an account are told apart by their fields; a type beside them is no field of theirs."""
    money = {"account_id": "a", "campaign_id": "c", "amount_micros": 1, "command_id": "k"}
    assert command_of(Line("f", {"type": "top-up", **money})) == {**money, "command": "top-up"}
    campaign = {"campaign_id": "c", "account_id": "a"}
    told = command_of(Line("f", {"type": "campaign", **campaign}))
    assert (told["command"], told["campaign"]) == ("upsert", campaign)
    told = command_of(Line("f", {"type": "account", "account_id": "a"}))
    assert (told["command"], told["account"]) == ("account", {"account_id": "a"})


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (
            {"campaing_id": "c", "account_id": "a", "budget_micros": 5},
            r"campaign_id is missing \(campaing_id stands",
        ),
        (
            {"account_id": "a", "budget_micros": 5, "caps": []},
            "campaign_id is missing; accounts have account_id,",
        ),
        (
            {"type": "topup", "account_id": "a", "amount_micros": 5},
            "command 'topup' is unknown; give one of account,",
        ),
        ({"type": "stop", "account_id": "a", "campaign_id": "c"}, "command 'stop' is unknown"),
        ({"type": "erase", "account_id": "a"}, "command 'erase' is unknown"),
        ({"account_id": "a", "amount_micros": 5}, "command is missing; give one of account,"),
        ({"request_id": "r", "time_ms": 1}, "no campaign .*, no account .* and no command"),
    ],
)
def test_what_cannot_be_told_for_sure_defines_nothing(data: dict[str, Any], told: str) -> None:
    """A campaign without its id, or a command that nobody knows, is refused rather than taken for an account's own
    budget, which cannot be taken away again."""
    run = WhatIf.begin(1)
    assert list(run.campaigns([Line("line 1", data)])) == []
    (rejected,) = run.rejected
    assert re.match(f"line 1: {told}", rejected)


def test_what_a_mixed_file_defines_is_judged_as_a_campaigns_file_is() -> None:
    """Among events too, a campaign without its id is named and the others go on."""
    run = WhatIf.begin(1)
    lines = [
        Line("line 1", {"account_id": "a", "budget_micros": 5, "caps": []}),
        Line("line 2", _ask("r", START_MS)),
    ]
    assert len(list(run.events(lines))) == 1
    assert run.rejected[0].startswith("line 1: campaign_id is missing")


def test_the_word_that_tells_commands_apart_is_not_called_misspelt() -> None:
    """A command without its id is told that the id is missing, and nothing of `command` itself."""
    run = WhatIf.begin(1)
    command = {"command": "top-up", "account_id": "a", "campaign_id": "c", "amount_micros": 5}
    assert list(run.campaigns([Line("line 1", command)])) == []
    assert run.rejected == ["line 1: no campaign command: top-up.command_id: Field required"]


def test_a_number_beyond_all_bounds_is_not_called_a_fraction() -> None:
    """A whole number beyond 64 bits, which JSON readers make a float of, is told to be too large."""
    run = WhatIf.begin(1)
    campaign = {"campaign_id": "c", "account_id": "a", "budget_micros": 1e20}
    assert list(run.campaigns([Line("line 1", campaign)])) == []
    assert run.rejected[0].endswith("budget_micros: is larger than any number that is taken")


@pytest.mark.parametrize(("shown_ms", "late"), [(69_999, False), (70_000, True)])
def test_late_is_what_comes_when_the_watermark_has_passed_its_reservation(shown_ms: int, late: bool) -> None:
    """Events come out of order by up to ten seconds, so a reservation of a minute ends that much later."""
    shown = {"decision_id": "r1", "type": "impression", "time_ms": START_MS + shown_ms}
    events = [Line("e", data) for data in (_ask("r1", START_MS), shown)]
    assert comes_late([Line("c", SPRING)], events) == late
