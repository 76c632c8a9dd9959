"""Frequency caps over a state backend: the core's history of a person, under the core's caps."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal

import orjson

from adgovernor.contracts.campaigns import DAY_MS, WEEK_MS, Account, Cap
from adgovernor.contracts.decisions import Reason, reasons_of
from adgovernor.contracts.errors import BadInput
from adgovernor.core.caps import CompiledCap, Context, blockers, count, horizon_ms
from adgovernor.core.history import SHOWN, Person, Serving
from adgovernor.library.given import made, named, several
from adgovernor.stores.backends import StateBackend, Transactions
from adgovernor.stores.clock import wall_clock_ms

HOUR_MS: Final = 3_600_000
Scope = Literal["creative", "campaign", "advertiser", "category", "label"]


def limits(
    *,
    hour: int | None = None,
    day: int | None = None,
    week: int | None = None,
    lifetime: int | None = None,
    scope: Scope = "campaign",
    label: str | None = None,
    calendar: bool = False,
) -> tuple[Cap, ...]:
    """The caps of these limits; 0 means never, None no limit.

    Windows are rolling, any stretch of that length; ``calendar`` makes days and weeks those of the campaign's zone.
    Other windows and events are `Cap`'s to say. Raises `BadInput` for a limit below 0, or a scope without its label.
    """
    found = []
    for length_ms, limit in ((HOUR_MS, hour), (DAY_MS, day), (WEEK_MS, week)):
        if limit is not None:
            window: Literal["calendar", "rolling"] = (
                "calendar" if calendar and length_ms > HOUR_MS else "rolling"
            )
            terms = {"scope": scope, "window": window, "length_ms": length_ms, "limit": limit, "label": label}
            found.append(made(Cap, "limits", **terms))
    if lifetime is not None:
        found.append(made(Cap, "limits", scope=scope, window="lifetime", limit=lifetime, label=label))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class CampaignLimits:
    """What caps need to know of a campaign. Raises `BadInput` for an unknown time zone."""

    campaign_id: str
    caps: tuple[Cap, ...] = ()
    advertiser_id: str = ""
    categories: tuple[str, ...] = ()
    time_zone: str = "UTC"
    """IANA name: whose days and weeks calendar caps follow."""

    def __post_init__(self) -> None:
        made(Account, f"limits of {self.campaign_id}", account_id="-", time_zone=self.time_zone)
        several("categories", self.categories)


@dataclass(frozen=True, slots=True)
class CapAnswer:
    """Whether one more serving is within every cap, and every cap that it is not within."""

    allowed: bool
    reasons: tuple[Reason, ...] = ()
    duplicate: bool = False
    """The serving is recorded already; nothing was counted."""


@dataclass(frozen=True, slots=True)
class _Ad:
    """One serving that is asked for."""

    user_id: str
    limits: CampaignLimits
    caps: tuple[Cap, ...]
    creative_id: str
    categories: tuple[str, ...]
    labels: tuple[str, ...]
    session_id: str | None
    time_ms: int
    serving_id: str

    def context(self, watermark_ms: int) -> Context:
        return Context(self.serving_id, self.time_ms, self.session_id, self.labels, watermark_ms)

    def compiled(self, cap: Cap) -> CompiledCap:
        return CompiledCap(cap, self.limits.campaign_id, self.limits.advertiser_id)

    def counts(self, person: Person, watermark_ms: int, cap: Cap) -> list[int]:
        """What a cap has counted, in each scope of the ad that it bears on."""
        context, zone = self.context(watermark_ms), self.limits.time_zone
        scopes = self.compiled(cap).scopes(self.creative_id, self.categories, self.labels)
        return [count(person, cap, scope, context, zone) for scope in scopes]

    def reasons(self, person: Person, watermark_ms: int) -> tuple[Reason, ...]:
        """Every cap that forbids it."""
        where = self.limits
        found = blockers(
            person,
            tuple(map(self.compiled, self.caps)),
            self.creative_id,
            list(self.categories),
            self.context(watermark_ms),
            where.time_zone,
        )
        return tuple(reasons_of(found or ()))


class FrequencyCapper:
    """What each person has seen, and what they may see.

    Times are event times in milliseconds and default to the clock; events may come out of order, and a cap holds in
    every window that contains the serving. Every method raises `Unavailable` where the backend does not answer.
    A person's state has no time to live: caps and the memory of what was recorded depend on it; `forget` removes it.
    """

    def __init__(
        self,
        backend: StateBackend,
        campaigns: Iterable[CampaignLimits] = (),
        *,
        clock_ms: Callable[[], int] = wall_clock_ms,
        remember_ms: int = HOUR_MS,
        skew_ms: int = 5_000,
        deadline_s: float = 30.0,
    ) -> None:
        """
        Args:
            campaigns: their limits; a campaign that is not named has none.
            remember_ms: how long a serving's id is known, so that recording it again counts nothing.
            skew_ms: how far ahead of the clock an event time may be.
            deadline_s: longest time that one call may take.
        """
        self._backend = backend
        self._transactions = Transactions(backend, deadline_s)
        self._clock_ms = clock_ms
        self._remember_ms = remember_ms
        self._skew_ms = skew_ms
        self._limits: dict[str, CampaignLimits] = {}
        self._horizon_ms = DAY_MS
        for campaign in campaigns:
            self.limit(campaign)

    def limit(self, campaign: CampaignLimits) -> None:
        """Sets or replaces a campaign's limits. A longer window than all before sees what is still remembered."""
        self._limits[campaign.campaign_id] = campaign
        self._horizon_ms = max(self._horizon_ms, horizon_ms(campaign.caps))

    async def check(
        self,
        user_id: str,
        campaign_id: str,
        *,
        creative_id: str = "",
        categories: Iterable[str] = (),
        labels: Iterable[str] = (),
        session_id: str | None = None,
        extra: tuple[Cap, ...] = (),
        time_ms: int | None = None,
        serving_id: str | None = None,
    ) -> CapAnswer:
        """Whether the person may see the ad once more; a serving that is recorded already may be.

        Args:
            extra: caps beside the campaign's own.
        """
        name = serving_id or ""
        ad = self._ad(user_id, campaign_id, creative_id, categories, labels, session_id, extra, time_ms, name)
        person, watermark_ms, _ = await self._read(user_id)
        if self._knows(person, name, watermark_ms):
            return CapAnswer(True, duplicate=True)
        reasons = ad.reasons(person, watermark_ms)
        return CapAnswer(not reasons, reasons)

    async def remaining(
        self,
        user_id: str,
        campaign_id: str,
        *,
        creative_id: str = "",
        categories: Iterable[str] = (),
        labels: Iterable[str] = (),
        session_id: str | None = None,
        extra: tuple[Cap, ...] = (),
        time_ms: int | None = None,
    ) -> int | None:
        """How often the person may still see the ad at this time; None where no cap bears on it."""
        ad = self._ad(user_id, campaign_id, creative_id, categories, labels, session_id, extra, time_ms, "")
        person, watermark_ms, _ = await self._read(user_id)
        rooms = [cap.limit - seen for cap in ad.caps for seen in ad.counts(person, watermark_ms, cap)]
        return max(0, min(rooms)) if rooms else None

    async def seen(self, user_id: str, campaign_id: str, cap: Cap, *, time_ms: int | None = None) -> int:
        """How many servings a cap counts for the person at this time, whatever its limit."""
        ad = self._ad(user_id, campaign_id, "", (), (), None, (cap,), time_ms, "")
        person, watermark_ms, _ = await self._read(user_id)
        return max(ad.counts(person, watermark_ms, cap), default=0)

    async def record(
        self,
        user_id: str,
        campaign_id: str,
        *,
        serving_id: str | None = None,
        creative_id: str = "",
        categories: Iterable[str] = (),
        labels: Iterable[str] = (),
        session_id: str | None = None,
        extra: tuple[Cap, ...] = (),
        time_ms: int | None = None,
        enforce: bool = True,
    ) -> CapAnswer:
        """Checks and counts a serving, in one step: of all who try, no more than the limit are allowed.

        Args:
            serving_id: names it; recorded once. Left out: a new one.
            enforce: refuse what a cap forbids. Without it everything counts: what was shown was shown.
        """
        name = serving_id or str(uuid.uuid4())
        ad = self._ad(user_id, campaign_id, creative_id, categories, labels, session_id, extra, time_ms, name)

        def decide(value: bytes | None) -> tuple[bytes | None, CapAnswer]:
            person, watermark_ms, kept_ms = _decode(value)
            if self._knows(person, name, watermark_ms):
                return None, CapAnswer(True, duplicate=True)
            reasons = ad.reasons(person, watermark_ms)
            if reasons and enforce:
                return None, CapAnswer(False, reasons)
            watermark_ms = max(watermark_ms, ad.time_ms)
            kept_ms = max(kept_ms, self._horizon_ms)
            person.requests[name] = (ad.time_ms, 0, 0)
            person.add(_serving(ad))
            person.prune(watermark_ms, self._remember_ms, kept_ms)
            return _encode(person, watermark_ms, kept_ms), CapAnswer(not reasons, reasons)

        return await self._transactions.apply(_key(user_id), f"record/{name}", decide)

    async def forget(self, user_id: str) -> None:
        """Removes all that is known of a person."""
        named("user_id", user_id)
        await self._transactions.remove(_key(user_id))

    def _ad(
        self,
        user_id: str,
        campaign_id: str,
        creative_id: str,
        categories: Iterable[str],
        labels: Iterable[str],
        session_id: str | None,
        extra: tuple[Cap, ...],
        time_ms: int | None,
        serving_id: str,
    ) -> _Ad:
        if not user_id:
            raise BadInput("a frequency cap counts for somebody: give a user_id")
        named("user_id", user_id)
        if serving_id:
            named("serving_id", serving_id)
        now_ms = self._clock_ms()
        at_ms = now_ms if time_ms is None else time_ms
        if not 0 <= at_ms <= now_ms + self._skew_ms:
            raise BadInput(
                f"time_ms is {at_ms}, the clock says {now_ms}: give the serving's time in milliseconds since 1970, "
                f"at most {self._skew_ms} ms ahead"
            )
        known = self._limits.get(campaign_id) or CampaignLimits(campaign_id)
        return _Ad(
            user_id,
            known,
            (*known.caps, *extra),
            creative_id,
            several("categories", (*known.categories, *several("categories", categories))),
            several("labels", labels),
            session_id,
            at_ms,
            serving_id,
        )

    def _knows(self, person: Person, serving_id: str, watermark_ms: int) -> bool:
        known = person.requests.get(serving_id)
        return known is not None and known[0] + self._remember_ms > watermark_ms

    async def _read(self, user_id: str) -> tuple[Person, int, int]:
        now = await self._backend.load(_key(user_id))
        return _decode(None if now is None else now.value)


def _serving(ad: _Ad) -> Serving:
    return Serving(
        (
            ad.time_ms,
            ad.serving_id,
            0,
            ad.creative_id,
            ad.limits.campaign_id,
            ad.limits.advertiser_id,
            list(ad.categories),
            list(ad.labels),
            ad.session_id,
            SHOWN,
            0,
            0,
        )
    )


def _key(user_id: str) -> str:
    return f"person/{user_id}"


def _decode(value: bytes | None) -> tuple[Person, int, int]:
    """The person, the newest event time seen, and how far back servings are kept."""
    if value is None:
        return Person(), 0, 0
    data = orjson.loads(value)
    return Person.decode(orjson.dumps(data["history"])), data["watermark_ms"], data["kept_ms"]


def _encode(person: Person, watermark_ms: int, kept_ms: int) -> bytes:
    return orjson.dumps(
        {
            "watermark_ms": watermark_ms,
            "kept_ms": kept_ms,
            "history": orjson.Fragment(person.encode() or b"{}"),
        }
    )
