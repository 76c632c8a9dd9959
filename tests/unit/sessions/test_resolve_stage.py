"""The resolve stage: decided tags become playable ads, each at least once, positions only behind what is published."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from shown_ads import Deaf, shown_ad, until
from vast_documents import Reply, TableTransport, inline, vast, wrapper

from adgovernor import subscribe
from adgovernor.app.embedded import Embedded
from adgovernor.app.resolve_metrics import ResolveMetrics
from adgovernor.contracts import topics
from adgovernor.contracts.ads import Ad, PlayableAd
from adgovernor.contracts.base import LONGEST_ID
from adgovernor.contracts.campaigns import Campaign, UpsertCampaign
from adgovernor.contracts.catalogue import contract_of
from adgovernor.contracts.decisions import Decision
from adgovernor.contracts.errors import BadInput, BadSettings, Gap, Unavailable
from adgovernor.contracts.events import MOST_POSITIONS, SessionUpdate
from adgovernor.contracts.requests import AdRequest, Candidate
from adgovernor.publish import Publisher
from adgovernor.sessions.errors import FetchTimeoutError
from adgovernor.sessions.playback import Playback
from adgovernor.sessions.resolve_stage import ResolveSettings, ResolveStage
from adgovernor.sessions.retry import NO_RETRY, RetryPolicy
from adgovernor.sessions.transport import HttpRequest, HttpResponse
from adgovernor.subscribe import AdReader, Position
from adgovernor.subscribe.kafka import RawMessage

TAG = "http://ads.example/tag"
CREATIVE = (
    "<Creative><Linear><Duration>00:00:10</Duration><TrackingEvents><Tracking event='start'>/start</Tracking>"
    "</TrackingEvents><MediaFiles><MediaFile type='video/mp4' width='1' height='2'>/a.mp4</MediaFile></MediaFiles>"
    "<VideoClicks><ClickThrough>http://brand/</ClickThrough><ClickTracking>/click</ClickTracking></VideoClicks>"
    "</Linear></Creative>"
)
DOCUMENTS: dict[str, Reply] = {
    TAG: vast(wrapper("w", "http://brand.example/ad")),
    "http://brand.example/ad": vast(inline("brand", creatives=CREATIVE)),
}


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def decision(number: int, *tags: str | None, age_ms: int = 0, partition: int = 0) -> Decision:
    """A decision with a winner for each tag; None: a winner that is none."""
    at = now_ms() - age_ms
    winners = [
        {
            "campaign_id": "c",
            "creative_id": f"x{slot}",
            "account_id": "a",
            "price_micros": 10,
            "currency": "EUR",
            "deadline_ms": at + 60_000,
        }
        | ({} if tag is None else {"tag_url": tag})
        for slot, tag in enumerate(tags)
    ]
    body = {
        "decision_id": f"d{number}",
        "routing_id": "u",
        "time_ms": at,
        "slots": [{"slot": slot, "winner": winner} for slot, winner in enumerate(winners)],
        "shard": f"u{partition}",
        "height": number,
        "index": 0,
        "dn": number,
    }
    return Decision.model_validate(body)


class Listed:
    """Decisions from a list; then the end, an error, or nothing any more."""

    def __init__(self, decisions: list[Decision], then: Exception | str | None = None) -> None:
        self._decisions = decisions
        self._then = then
        self._number = 0

    def positions(self) -> dict[int, Position]:
        return {0: Position(self._number, self._number)}

    async def __aiter__(self) -> AsyncIterator[Decision]:
        for each in self._decisions:
            self._number = each.dn
            yield each
        if isinstance(self._then, Exception):
            raise self._then
        if self._then == "wait":
            await asyncio.Event().wait()


class Taken:
    """What a stage published, and where it said it was."""

    def __init__(self) -> None:
        self.ads: list[Ad] = []
        self.told: list[SessionUpdate] = []
        self.kept: list[int] = []
        self.lost = 0
        """How many of the next publications fail."""
        self.most_bytes = 1_000_000
        self.refuses = False
        self.refusals = 0

    async def raw(
        self, topic: str, key: bytes | None, value: bytes | None, headers: Any = None, partition: Any = None
    ) -> None:
        assert topic == topics.ADS
        if self.lost:
            self.lost -= 1
            raise Unavailable("Kafka is away")
        if self.refuses:
            self.refusals += 1
            raise BadSettings("the topic may not be written")
        if len(value or b"") > self.most_bytes:
            raise BadInput(f"a message of {len(value or b'')} bytes is too large")
        ad = contract_of(topic).parse(value or b"")
        assert key == ad.routing_id.encode()
        assert dict(headers)["ce_id"] == f"{ad.decision_id}/{ad.slot}".encode()
        self.ads.append(ad)

    async def user_event(self, event: SessionUpdate) -> None:
        self.told.append(event)

    async def commit(self, positions: Mapping[int, Position]) -> None:
        self.kept += [at.dn for at in positions.values()]


async def no_sleep(seconds: float) -> None:
    """Return at once."""


def stage(source: Listed, taken: Taken, transport: TableTransport, **options: Any) -> ResolveStage:
    defaults: dict[str, Any] = {
        "settings": ResolveSettings(retry=RetryPolicy(2, 1, 1), commit_interval_s=0.01),
        "commit": taken.commit,
        "sleep": no_sleep,
    }
    return ResolveStage(source, taken, transport, **(defaults | options))  # type: ignore[arg-type]


async def test_a_tag_becomes_a_playable_ad_with_the_tracking_of_its_chain() -> None:
    """Media, clicks, events and impressions are absolute, the ad's own before the Wrapper's; other winners are left."""
    taken, transport = Taken(), TableTransport(DOCUMENTS)
    await stage(Listed([decision(1, TAG, None)]), taken, transport).run()
    (ad,) = taken.ads
    assert (ad.decision_id, ad.slot, ad.tag_url, ad.session_id) == ("d1", 0, TAG, "u")
    assert ad.requested == (TAG, "http://brand.example/ad")
    (playable,) = ad.ads
    assert (playable.ad_id, playable.wrappers, playable.duration_ms) == ("brand", 1, 10_000)
    assert playable.impressions == ("http://i/brand", "http://i/w")
    assert [(found.event, found.uri) for found in playable.tracking] == [
        ("start", "http://brand.example/start")
    ]
    assert playable.media_files[0].uri == "http://brand.example/a.mp4"
    assert playable.click_tracking == ("http://brand.example/click",)
    assert playable.errors[-1].startswith("http://e/")
    assert ad.errors == ()
    assert taken.kept[-1] == 1


async def test_a_tag_that_comes_to_nothing_says_why_and_tells_the_chain() -> None:
    """An upstream without an ad, and one that is away, give an event with VAST's code; Error addresses are told."""
    transport = TableTransport(
        {TAG: vast(wrapper("w", "http://gone.example/")), "http://none.example/": vast()}
    )
    taken = Taken()
    await stage(Listed([decision(1, TAG, "http://none.example/")]), taken, transport).run()
    assert [[error.code for error in ad.errors] for ad in taken.ads] == [[301], [303]]
    assert all(not ad.ads for ad in taken.ads)
    assert "http://e/w?301" in transport.urls


async def test_ads_that_the_topic_cannot_hold_cost_their_own_slot_alone() -> None:
    """A huge answer becomes an event with an error, told from one that says that nothing may be written at all."""
    companion = f"<Companion><HTMLResource>{'x' * 9_000}</HTMLResource></Companion>"
    huge = f"<Creative><CompanionAds>{companion}</CompanionAds></Creative>"
    transport = TableTransport({**DOCUMENTS, "http://huge.example/": vast(inline("1", creatives=huge))})
    taken = Taken()
    taken.most_bytes = 5_000
    await stage(Listed([decision(1, "http://huge.example/"), decision(2, TAG)]), taken, transport).run()
    first, second = sorted(taken.ads, key=lambda ad: ad.decision_id)
    assert ([error.code for error in first.errors], first.ads, first.requested) == ([900], (), ())
    assert len(second.ads) == 1
    assert "left out: a message of" in first.errors[0].message
    assert taken.kept[-1] == 2
    taken.refuses = True
    with pytest.raises(BadSettings):
        await stage(Listed([decision(3, TAG)]), taken, transport).run()
    assert taken.refusals == 1


async def test_the_longest_names_and_the_most_positions_are_told_too() -> None:
    """What a request may be called, and how many slots it may have, never stops the stage."""
    taken = Taken()
    asked = decision(1, *[TAG] * 1_200).model_copy(update={"decision_id": "d" * LONGEST_ID})
    await stage(Listed([asked]), taken, TableTransport(DOCUMENTS)).run()
    assert len(taken.ads) == 1_200
    assert [len(event.pod_positions) for event in taken.told] == [MOST_POSITIONS]
    again = Taken()
    await stage(Listed([asked]), again, TableTransport(DOCUMENTS)).run()
    assert again.told[0].change_id == taken.told[0].change_id


async def test_the_slots_of_a_pod_wait_for_one_another() -> None:
    """However many slots a decision has, no more tags are followed at once than configured."""
    at_once: list[int] = [0, 0]

    class Counting(TableTransport):
        async def send(self, request: HttpRequest, *, timeout_s: float, max_body_bytes: int) -> HttpResponse:
            at_once[0] += 1
            at_once[1] = max(at_once)
            await asyncio.sleep(0)
            at_once[0] -= 1
            return await super().send(request, timeout_s=timeout_s, max_body_bytes=max_body_bytes)

    taken = Taken()
    settings = ResolveSettings(concurrent=3, retry=NO_RETRY)
    await stage(Listed([decision(1, *[TAG] * 20)]), taken, Counting(DOCUMENTS), settings=settings).run()
    assert (len(taken.ads), at_once[1]) == (20, 3)


async def test_an_upstream_that_fails_for_a_moment_is_asked_again() -> None:
    """A time-out is retried, as often as the policy says; a final refusal is not."""
    tries = []

    def flaky(request: Any) -> Any:
        tries.append(request.url)
        if len(tries) == 1:
            raise FetchTimeoutError("slow")
        return HttpResponse(200, (), vast(wrapper("w", "http://brand.example/ad")))

    transport = TableTransport({**DOCUMENTS, TAG: flaky})
    taken = Taken()
    await stage(Listed([decision(1, TAG), decision(2, "ftp://x/")]), taken, transport).run()
    ads = sorted(taken.ads, key=lambda ad: ad.decision_id)
    assert len(tries) == 2
    assert [bool(ad.ads) for ad in ads] == [True, False]


async def test_positions_never_pass_an_ad_that_is_not_published() -> None:
    """While the first decision's upstream is slow, later ones are published and the position stays before the first."""
    release = asyncio.Event()

    class Slow(TableTransport):
        async def send(self, request: Any, **options: Any) -> Any:
            if request.url == "http://slow.example/":
                await release.wait()
            return await super().send(request, **options)

    taken = Taken()
    transport = Slow({**DOCUMENTS, "http://slow.example/": vast(inline("late"))})
    working = stage(
        Listed([decision(1, None), decision(2, "http://slow.example/"), decision(3, TAG)], "wait"),
        taken,
        transport,
    )
    running = asyncio.create_task(working.run())
    await until(lambda: bool(taken.ads) and 1 in taken.kept)
    assert [ad.decision_id for ad in taken.ads] == ["d3"]
    assert max(taken.kept) == 1
    release.set()
    await until(lambda: taken.kept[-1] == 3)
    working.stop()
    await running
    assert [ad.decision_id for ad in taken.ads] == ["d3", "d2"]


async def test_what_cannot_be_published_is_tried_again_and_then_ends_the_stage() -> None:
    """A moment without Kafka loses nothing; a long one ends the stage with the position before the ad."""
    taken = Taken()
    taken.lost = 3
    await stage(Listed([decision(1, TAG)]), taken, TableTransport(DOCUMENTS)).run()
    assert [ad.decision_id for ad in taken.ads] == ["d1"]
    taken = Taken()
    taken.lost = 10**9
    impatient = ResolveSettings(publish_patience_s=0.0, retry=NO_RETRY)
    with pytest.raises(Unavailable, match="away"):
        await stage(
            Listed([decision(1, TAG)], "wait"), taken, TableTransport(DOCUMENTS), settings=impatient
        ).run()
    assert max(taken.kept, default=0) == 0


async def test_decisions_that_are_missing_end_the_stage() -> None:
    """A gap in the decisions is the stage's end, not something to pass over."""
    gap = Gap("decisions", 0, 2, 3, "missing")
    with pytest.raises(Gap):
        await stage(Listed([decision(1, TAG)], gap), Taken(), TableTransport(DOCUMENTS)).run()


async def test_a_decision_whose_time_is_over_is_not_asked_for() -> None:
    """An old decision gets an event that says so, and nobody is asked; unless that is wanted. Up to a minute past its
    deadline, which is a minute after its time, a decision is worked on."""
    recent, old = decision(1, TAG, age_ms=90_000), decision(1, TAG, age_ms=3_600_000)
    taken, transport = Taken(), TableTransport(DOCUMENTS)
    await stage(Listed([recent]), taken, TableTransport(DOCUMENTS)).run()
    assert taken.ads.pop().ads
    await stage(Listed([old]), taken, transport).run()
    assert [(ad.ads, [error.code for error in ad.errors]) for ad in taken.ads] == [((), [900])]
    assert transport.urls == []
    await stage(Listed([old]), taken, transport, settings=ResolveSettings(grace_ms=None)).run()
    assert taken.ads[-1].ads


async def test_no_more_than_so_many_are_worked_on_at_once() -> None:
    """The bound on decisions under way holds."""
    under_way = 0
    most = 0

    class Counting(TableTransport):
        async def send(self, request: Any, **options: Any) -> Any:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0)
            under_way -= 1
            return await super().send(request, **options)

    taken = Taken()
    await stage(
        Listed([decision(n, "http://brand.example/ad") for n in range(1, 30)]),
        taken,
        Counting(DOCUMENTS),
        settings=ResolveSettings(concurrent=3),
    ).run()
    assert len(taken.ads) == 29
    assert most == 3


async def test_one_persons_cookies_stay_with_them() -> None:
    """A cookie that an upstream set comes back with the same person's next tag."""
    setting = HttpResponse(200, (("set-cookie", "seen=1"),), vast(inline("a")))
    transport = TableTransport({TAG: setting})
    await stage(
        Listed([decision(1, TAG), decision(2, TAG)]),
        Taken(),
        transport,
        settings=ResolveSettings(concurrent=1),
    ).run()
    assert [dict(r.headers).get("Cookie") for r in transport.requests] == [None, "seen=1"]


async def test_errors_of_two_people_share_no_cookie() -> None:
    """What an Error address sets for one person is not sent with another's, and is sent with their own."""
    setting = HttpResponse(200, (("set-cookie", "seen=1; Path=/"),), b"")
    transport = TableTransport({TAG: vast(errors=("http://e/",)), "http://e/": setting})
    people = [decision(1, TAG), decision(2, TAG).model_copy(update={"routing_id": "v"}), decision(3, TAG)]

    class Paced(Listed):
        """One after the other, so that each finds what the ones before have left."""

        async def __aiter__(self) -> AsyncIterator[Decision]:
            for each in people:
                await until(lambda: transport.urls.count("http://e/") == self._number)
                self._number = each.dn
                yield each

    await stage(Paced([]), Taken(), transport).run()
    cookies = [dict(r.headers).get("Cookie") for r in transport.requests if r.url == "http://e/"]
    assert cookies == [None, None, "seen=1"]


async def test_the_stage_tells_what_it_does() -> None:
    """Outcomes, codes and retries are counted, and the session's shard hears of its requests and positions."""
    metrics, taken = ResolveMetrics(process=False), Taken()
    taken.lost = 1
    await stage(
        Listed([decision(1, TAG, "http://none.example/"), decision(2, TAG, age_ms=10**7)]),
        taken,
        TableTransport(DOCUMENTS),
        observer=metrics,
    ).run()
    text = metrics.text().decode()
    for line in (
        'adgovernor_resolved_tags_total{outcome="ad"} 1.0',
        'adgovernor_resolved_tags_total{outcome="no_ad"} 1.0',
        'adgovernor_resolved_tags_total{outcome="stale"} 1.0',
        'adgovernor_resolve_errors_total{code="301"} 1.0',
        'adgovernor_resolve_retries_total{what="publish"} 1.0',
        "adgovernor_resolve_pending 0.0",
    ):
        assert line in text
    (told,) = taken.told
    assert (told.routing_id, told.change_id, told.requests, told.pod_positions) == (
        "u",
        "resolve/d1",
        3,
        (0,),
    )


async def test_from_a_request_to_the_impression() -> None:
    """Through the whole governor: the tag is resolved, the impression fired and published, and its money spent."""
    campaign = Campaign(campaign_id="c", account_id="a", currency="EUR", budget_micros=1_000, price_micros=10)
    transport = TableTransport({**DOCUMENTS, "http://i/brand": b"", "http://i/w": b""})
    async with (
        Embedded(partitions=2) as governor,
        asyncio.timeout(30),
        Publisher(governor) as publisher,
        subscribe.decisions(governor) as decisions,
        AdReader(governor) as ads,
        Playback(publisher, transport) as playback,
    ):
        await governor.command(
            UpsertCampaign(command="upsert", command_id="1", account_id="a", campaign=campaign)
        )
        working = ResolveStage(decisions, publisher, transport)
        running = asyncio.create_task(working.run())
        request = AdRequest(
            request_id="r",
            time_ms=now_ms(),
            user_id="u",
            candidates=(Candidate(campaign_id="c", creative_id="x", tag_url=TAG),),
        )
        await governor.decide(request)
        ad = await anext(aiter(ads))
        assert ad.ads[0].ad_id == "brand"
        assert await playback.fire_impression(ad) == 2
        assert await playback.fire_impression(ad) == 0
        await governor.settle()
        working.stop()
        await running
        report = await governor.audit()
    assert report.green
    assert report.campaigns["c"]["spent_micros"] == 10
    assert {"http://i/brand", "http://i/w"} <= set(transport.urls)


async def test_a_transaction_is_one_from_the_tag_to_its_tracking() -> None:
    """The tag and all tracking of its ad name the same transaction, each request a random number of its own."""
    macros = "tx=[TRANSACTIONID]&cb=[CACHEBUSTING]"
    transport = TableTransport()
    await stage(Listed([decision(1, f"{TAG}?{macros}")]), Taken(), transport).run()
    uris = tuple(f"http://i/{number}?{macros}" for number in range(2))
    async with Playback(Deaf(), transport) as playback:  # type: ignore[arg-type]
        await playback.fire_impression(shown_ad("d1", PlayableAd(impressions=uris)))
        await until(lambda: len(transport.urls) == 3)
    asked = [dict(parse_qsl(urlsplit(url).query)) for url in transport.urls]
    assert len({each["tx"] for each in asked}) == 1
    assert len({each["cb"] for each in asked}) == 3


class _Repeating:
    """A log whose ads topic holds the messages given."""

    def __init__(self, messages: list[RawMessage]) -> None:
        self._messages = messages

    def reader(self, topic: str) -> Any:
        assert topic == topics.ADS
        return self

    full_name = "ads"
    next: dict[int, int]

    async def open(self) -> list[int]:
        return [0]

    async def close(self) -> None: ...

    async def ends(self, partitions: Any) -> dict[int, int]:
        return {0: len(self._messages)}

    async def read_from(self, offsets: Mapping[int, int]) -> None:
        self.next = dict(offsets)

    async def read(self, max_messages: int, wait_s: float) -> list[RawMessage]:
        found = self._messages[self.next[0] :][:1]
        self.next[0] += len(found)
        if not found:
            raise Unavailable("the end")
        return found


async def test_a_reader_of_ads_sees_each_once() -> None:
    """Repeated ads are not delivered again, and what is no ad is passed over."""
    taken = Taken()
    await stage(Listed([decision(1, TAG, TAG), decision(2, TAG)]), taken, TableTransport(DOCUMENTS)).run()
    values = [contract_of(topics.ADS).encode(ad) for ad in taken.ads]
    messages = [
        RawMessage(0, offset, 0, b"u", value, ())
        for offset, value in enumerate([*values, b"{}", values[0], values[2]])
    ]
    async with AdReader(_Repeating(messages)) as ads:
        reading = aiter(ads)
        seen = [(ad.decision_id, ad.slot) for ad in [await anext(reading) for _ in range(3)]]
        with pytest.raises(Unavailable, match="the end"):
            await anext(reading)
    assert sorted(seen) == [("d1", 0), ("d1", 1), ("d2", 0)]
    assert ads.repeated == 2
    assert ads.positions() == {0: 6}


async def test_a_share_is_handed_over_done_and_kept() -> None:
    """Before shares change the stage finishes what is under way, and keeps its positions."""
    taken, transport = Taken(), TableTransport(DOCUMENTS, {TAG: 0.2})
    source = Listed([decision(1, TAG), decision(2, TAG)], then="wait")
    settings = ResolveSettings(commit_interval_s=60)
    running = stage(source, taken, transport, settings=settings)
    task = asyncio.create_task(running.run())
    await until(lambda: transport.urls.count(TAG) == 2)
    await running.revoked()
    assert (len(taken.ads), taken.kept) == (2, [2])
    running.stop()
    await task


async def test_what_becomes_anothers_is_left_to_them() -> None:
    """Work on a partition that went to another stage ends, also where it waits for its turn; the rest goes on."""
    slow = "http://slow.example/"
    taken = Taken()
    transport = TableTransport({**DOCUMENTS, slow: vast(inline("1"))}, {slow: 30.0})
    theirs = [decision(1, slow, partition=0), decision(2, slow, partition=0)]
    settings = ResolveSettings(concurrent=1, handover_s=0.01, commit_interval_s=60)
    running = stage(Listed(theirs, then="wait"), taken, transport, settings=settings)
    task = asyncio.create_task(running.run())
    await until(lambda: slow in transport.urls)
    await running.revoked()
    assert taken.kept == [0]
    running.assigned({1: Position(5, 5)}, frozenset({1}))
    await asyncio.sleep(0.05)
    assert (transport.urls, taken.ads, dict(running.positions())) == ([slow], [], {1: Position(5, 5)})
    running.stop()
    await task


async def test_a_partition_that_another_stage_had_meanwhile_begins_anew() -> None:
    """What a stage began before others went further is not published as well."""
    taken, transport = Taken(), TableTransport(DOCUMENTS, {TAG: 30.0})
    settings = ResolveSettings(handover_s=0.01, commit_interval_s=60)
    running = stage(Listed([decision(1, TAG)], then="wait"), taken, transport, settings=settings)
    task = asyncio.create_task(running.run())
    await until(lambda: TAG in transport.urls)
    running.assigned({0: Position(9, 9)}, frozenset({0}))
    assert dict(running.positions()) == {0: Position(9, 9)}
    running.stop()
    async with asyncio.timeout(5):
        await task
    assert taken.ads == []
