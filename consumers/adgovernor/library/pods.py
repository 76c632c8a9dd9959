"""Ad pods that are filled position by position: the core's fill says whether one more ad fits beside the others."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

import orjson

from adgovernor.contracts.campaigns import DAY_MS
from adgovernor.contracts.errors import BadInput
from adgovernor.core.podfill import MAX_ADS, PodCandidate, PodSegment, PodSpec, Separation, fill
from adgovernor.library.errors import (
    CreativeRepeatedError,
    PodExistsError,
    PodRuleError,
    PodTooLargeError,
    PositionFilledError,
    UnknownPodError,
)
from adgovernor.library.given import named, several
from adgovernor.stores.backends import StateBackend, Transactions

_SURE: Final = 10**9
"""The value of an ad that plays already: no new one, worth 1, is ever preferred to it."""


@dataclass(frozen=True, slots=True)
class PodPosition:
    """One position of a pod, from 1, and the ad that plays there; none where ``creative_id`` is empty."""

    position: int
    creative_id: str = ""
    duration_ms: int = 0
    advertiser_domain: str = ""
    categories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PodStatus:
    """A pod and what is in it."""

    pod_id: str
    positions: tuple[PodPosition, ...]
    total_ms: int
    """The longest that the pod may be; 0: no bound."""

    @property
    def filled(self) -> tuple[int, ...]:
        """The positions that have an ad."""
        return tuple(place.position for place in self.positions if place.creative_id)

    @property
    def open(self) -> tuple[int, ...]:
        """The positions that have none."""
        return tuple(place.position for place in self.positions if not place.creative_id)

    @property
    def duration_ms(self) -> int:
        """How long the ads in it play."""
        return sum(place.duration_ms for place in self.positions)

    @property
    def complete(self) -> bool:
        """Whether every position has an ad."""
        return not self.open


class AdPodManager:
    """Pods under construction. Each lives for ``ttl_ms`` after its last change; every method raises `Unavailable`
    where the backend does not answer."""

    def __init__(
        self,
        backend: StateBackend,
        *,
        max_positions: int = 12,
        ttl_ms: int = DAY_MS,
        deadline_s: float = 30.0,
    ) -> None:
        """``max_positions``: of one pod, at most `core.podfill.MAX_ADS`."""
        if not 1 <= max_positions <= MAX_ADS:
            raise BadInput(f"max_positions is {max_positions}; it must be 1 to {MAX_ADS}")
        self._transactions = Transactions(backend, deadline_s)
        self._max = max_positions
        self._ttl_ms = ttl_ms

    async def create(
        self,
        pod_id: str,
        positions: int,
        *,
        total_ms: int = 0,
        min_ms: int = 0,
        max_ms: int = 0,
        durations_ms: Sequence[int] = (),
        advertiser_separation: Separation = "pod",
        category_separation: Separation = "none",
    ) -> PodStatus:
        """Makes an empty pod; made again with the same rules it is left as it is.

        Args:
            total_ms: the longest that the pod may be; 0: no bound.
            min_ms, max_ms, durations_ms: how long each ad may be; empty: any length.
            advertiser_separation, category_separation: how far apart ads of one advertiser or category must be.

        Raises:
            PodTooLargeError: more positions than a pod may have.
            PodExistsError: another pod of that id is there.
            BadInput: no id, no position at all, a negative time, or a separation that there is not.
        """
        named("pod_id", pod_id)
        if positions > self._max:
            raise PodTooLargeError(f"pod {pod_id}: {positions} positions; at most {self._max} are allowed")
        if positions < 1 or min(total_ms, min_ms, max_ms, *durations_ms) < 0:
            raise BadInput(f"pod {pod_id}: give at least one position, and no negative time")
        wrong = {advertiser_separation, category_separation}.difference(get_args(Separation))
        if wrong:
            raise BadInput(
                f"pod {pod_id}: separation is {wrong.pop()!r}; it must be one of {', '.join(get_args(Separation))}"
            )
        rules = {
            "positions": positions,
            "total_ms": total_ms,
            "min_ms": min_ms,
            "max_ms": max_ms,
            "durations_ms": list(durations_ms),
            "advertiser_separation": advertiser_separation,
            "category_separation": category_separation,
        }

        def decide(value: bytes | None) -> tuple[bytes | None, PodStatus]:
            if value is None:
                pod = {"rules": rules, "ads": []}
                return orjson.dumps(pod), _status(pod_id, pod)
            pod = orjson.loads(value)
            if pod["rules"] != rules:
                raise PodExistsError(f"pod {pod_id} is there already, with other rules")
            return None, _status(pod_id, pod)

        return await self._transactions.apply(
            _key(pod_id), f"create/{uuid.uuid4()}", decide, ttl_ms=self._ttl_ms
        )

    async def record(
        self,
        pod_id: str,
        position: int,
        creative_id: str,
        *,
        duration_ms: int = 0,
        advertiser_domain: str = "",
        categories: Sequence[str] = (),
    ) -> PodStatus:
        """Puts an ad at a position, from 1.

        Raises:
            UnknownPodError, PositionFilledError, CreativeRepeatedError: as they say.
            PodRuleError: another rule forbids it.
            BadInput: no creative, or a negative duration.
        """
        named("pod_id", pod_id)
        if not creative_id or duration_ms < 0:
            raise BadInput(f"pod {pod_id}: an ad has a creative_id, and no negative duration_ms")
        found = list(several("categories", categories))
        ad = [position, creative_id, duration_ms, advertiser_domain, found]

        def decide(value: bytes | None) -> tuple[bytes | None, PodStatus]:
            pod = _known(pod_id, value)
            _check(pod_id, pod, ad)
            pod["ads"].append(ad)
            return orjson.dumps(pod), _status(pod_id, pod)

        return await self._transactions.apply(
            _key(pod_id), f"record/{uuid.uuid4()}", decide, ttl_ms=self._ttl_ms
        )

    async def status(self, pod_id: str) -> PodStatus:
        """The pod. Raises `UnknownPodError`."""
        named("pod_id", pod_id)
        return await self._transactions.apply(
            _key(pod_id), "status", lambda value: (None, _status(pod_id, _known(pod_id, value)))
        )


def _key(pod_id: str) -> str:
    return f"pod/{pod_id}"


def _known(pod_id: str, value: bytes | None) -> dict[str, Any]:
    if value is None:
        raise UnknownPodError(f"there is no pod {pod_id}: create it first; a pod is forgotten after a while")
    pod: dict[str, Any] = orjson.loads(value)
    return pod


def _check(pod_id: str, pod: dict[str, Any], ad: list[Any]) -> None:
    """Raises where the ad may not play there beside those that do."""
    position, creative_id = ad[0], ad[1]
    if any(there[0] == position for there in pod["ads"]):
        raise PositionFilledError(f"pod {pod_id}: position {position} is filled")
    rules = pod["rules"]
    spec = PodSpec(
        tuple(
            PodSegment(
                str(number),
                min_ms=rules["min_ms"],
                max_ms=rules["max_ms"],
                durations_ms=tuple(rules["durations_ms"]),
            )
            for number in range(1, rules["positions"] + 1)
        ),
        total_ms=rules["total_ms"],
        advertiser_separation=rules["advertiser_separation"],
        category_separation=rules["category_separation"],
    )
    new = _candidate(ad, 1)
    result = fill(spec, [*(_candidate(there, _SURE) for there in pod["ads"]), new])
    for loser in result.losers:
        reasons: tuple[str, ...] = loser.reasons
        if "creative_repeated" in reasons:
            raise CreativeRepeatedError(f"pod {pod_id}: creative {creative_id} plays in it already")
        if reasons == ("outbid",):
            # Nothing bids here: what stands against it is that together they would be too long or stand too close.
            reasons = ("no_room",)
        raise PodRuleError(
            reasons,
            f"pod {pod_id}: creative {creative_id} may not play at position {position}: {', '.join(reasons)}",
        )


def _candidate(ad: list[Any], value: int) -> PodCandidate:
    position, creative_id, duration_ms, domain, categories = ad
    return PodCandidate(
        creative_id,
        value,
        duration_ms,
        creative_id=creative_id,
        advertiser_domains=(domain.lower(),) if domain else (),
        categories=tuple(categories),
        segments=(str(position),),
    )


def _status(pod_id: str, pod: dict[str, Any]) -> PodStatus:
    rules = pod["rules"]
    ads = {ad[0]: ad for ad in pod["ads"]}
    places = []
    for number in range(1, rules["positions"] + 1):
        if number in ads:
            _, creative_id, duration_ms, domain, categories = ads[number]
            places.append(PodPosition(number, creative_id, duration_ms, domain, tuple(categories)))
        else:
            places.append(PodPosition(number))
    return PodStatus(pod_id, tuple(places), rules["total_ms"])
