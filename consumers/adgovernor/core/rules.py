"""The parameters of the rules. They are part of a shard's state: the ledger records which were in force."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from adgovernor.contracts.errors import BadSettings
from adgovernor.contracts.pod_requests import MOST_BREAKS, MOST_CANDIDATES, MOST_SLOTS


@dataclass(frozen=True, slots=True)
class Rules:
    """All times in milliseconds of event time (watermark) unless said otherwise."""

    partitions: int = 1
    """How many user shards, and how many treasuries, there are. Fixed for a deployment."""
    lateness_ms: int = 10_000
    """How far events may come out of order: watermark = newest accepted event time − this."""
    skew_ms: int = 5_000
    """How far ahead of the worker's clock a request may claim to be."""
    reservation_ms: int = 60_000
    """How long a decided ad's price stays reserved, from its request's time; in a pod, from when its turn comes."""
    late_grace_ms: int = 1_800_000
    """How long after that an impression is still accepted as late."""
    late_prior_ppm: int = 1_000_000
    """Until it is known what becomes of expired reservations: how many of a million are taken to come late, so that
    their money is kept back for the late grace. 0: none, what expires is free at once until late events were seen."""
    dedupe_ms: int = 3_600_000
    """How long a request id, its reservations and tombstones are remembered, from its request's time. A break that is
    known to come later is not sold (``too_far``): nobody would know its impressions."""
    break_wait_ms: int = 14_400_000
    """How long after its request an ad break of a stream is waited for at most, and where nobody says when it comes: so
    much longer its ads' prices stay reserved. Never so long that a late event would come after the decision is
    forgotten (dedupe_ms − lateness_ms − late_grace_ms): raise dedupe_ms for long programmes."""
    history_ms: int = 86_400_000
    """How long servings are kept even where no cap in force needs them."""
    session_ttl_ms: int = 21_600_000
    """How long the state of a session with upstream ad servers is kept after its last change."""
    ask_cooldown_ms: int = 1_000
    """How long a shard waits after a deny before it asks again."""
    report_interval_ms: int = 1_000
    """At most one report on ticks in so much of the worker's clock."""
    early_lease_ms: int = 60_000
    """How long before midnight the next day's leases may be granted (at least ``lateness_ms``)."""
    day_grace_ms: int = 691_200_000
    """How long after an account day's end (and at least dedupe_ms) its settled money is still kept by itself (eight
    days); from then on only in a sum."""
    lease_divisor: int = 2
    """A lease is the available money divided by the number of shards times this."""
    sealing: bool = False
    """Whether what names a person is encrypted in the ledger, with a key for each. Fixed for a deployment: what was
    written unsealed stays readable."""

    most_slots: int = MOST_SLOTS
    """Slots that a pod may ask for; a larger request is refused (``too_large``), here and below."""
    most_ads: int = MOST_SLOTS
    """Ads that the dynamic parts of a pod may ask for together."""
    most_breaks: int = MOST_BREAKS
    """Breaks that a request may ask for."""
    most_candidates: int = MOST_CANDIDATES
    """Candidates that a request may have."""
    most_preferences: int = 1_000
    """Advertisers and categories that one person may have refused or allowed. A refusal more takes the place of the
    oldest permission; where there is none, the event goes to the dead letters. A refusal of all ads always counts."""

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(self)):
            if getattr(self, name) < 0:
                raise BadSettings(f"{name} is {getattr(self, name)}; it must not be negative")
        if self.partitions < 1 or self.lease_divisor < 1 or self.reservation_ms < 1:
            raise BadSettings("partitions, lease_divisor and reservation_ms must be at least 1")
        if self.late_prior_ppm > 1_000_000:
            raise BadSettings(f"late_prior_ppm is {self.late_prior_ppm}; it must be at most 1000000")
        for name, most in (
            ("most_slots", MOST_SLOTS),
            ("most_ads", MOST_SLOTS),
            ("most_breaks", MOST_BREAKS),
            ("most_candidates", MOST_CANDIDATES),
        ):
            if not 1 <= getattr(self, name) <= most:
                raise BadSettings(f"{name} is {getattr(self, name)}; it must be between 1 and {most}")
        least = self.lateness_ms + self.reservation_ms + self.late_grace_ms
        if self.dedupe_ms < least:
            raise BadSettings(
                f"dedupe_ms is {self.dedupe_ms}, but lateness_ms + reservation_ms + late_grace_ms is {least}: "
                "a request would be forgotten while its impressions may still come; raise dedupe_ms"
            )

    def longest_reservation_ms(self) -> int:
        """The longest life of a reservation whose late events still find their decision remembered."""
        return self.dedupe_ms - self.lateness_ms - self.late_grace_ms

    def opens_early_ms(self) -> int:
        """How long before the watermark reaches a day its money may be leased: not later than its first requests can
        come, which are ahead of the watermark."""
        return max(self.early_lease_ms, self.lateness_ms)

    def keeps_day_until_ms(self, end_ms: int) -> int:
        """Until when the money of a day that ended then is kept by itself: no event can reach it any more."""
        return end_ms + max(self.day_grace_ms, self.dedupe_ms)

    def as_dict(self) -> dict[str, int]:
        """As recorded in the ledger."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Rules:
        """As read back; parameters that this release does not know are ignored."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in data.items() if name in known})
