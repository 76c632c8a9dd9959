"""The macro values of one resolution's requests."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterable

from adgovernor.sessions.context import SessionContext, new_cachebusting
from adgovernor.sessions.fetch import Now, utc_now
from adgovernor.video import MacroValue, timestamp


def transaction_of(decision_id: str, slot: int) -> str:
    """``[TRANSACTIONID]`` of a decided ad: the same for its tag, its chain and its tracking, also when said again."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{decision_id}/{slot}"))


def ad_values(
    sequence: int | None, ad_serving_id: str | None, universal_ids: Iterable[tuple[str, str]]
) -> dict[str, MacroValue]:
    """What an ad says of itself in its tracking: its place in the pod, its serving, and its registered identities
    (registry and value each)."""
    values: dict[str, MacroValue] = {}
    if sequence is not None:
        values["PODSEQUENCE"] = sequence
    if ad_serving_id is not None:
        values["ADSERVINGID"] = ad_serving_id
    if ids := tuple(f"{registry} {value}" for registry, value in universal_ids):
        values["UNIVERSALADID"] = ids
    return values


class RequestMacros:
    """A :data:`~adgovernor.sessions.resolver.MacroSource`.

    ``[TRANSACTIONID]`` is made once and stays for the whole chain and pod; ``[TIMESTAMP]`` and ``[CACHEBUSTING]`` are
    new for every request, the first random number being the context's own.
    """

    def __init__(
        self,
        context: SessionContext,
        *,
        now: Now = utc_now,
        rng: random.Random | None = None,
        transaction_id: str | None = None,
    ) -> None:
        self._now = now
        self._rng = rng or random.SystemRandom()
        self._values = context.macro_values()
        self._next_cachebusting = context.cachebusting
        self.transaction_id = transaction_id or str(uuid.UUID(int=self._rng.getrandbits(128), version=4))

    def __call__(self) -> dict[str, MacroValue]:
        """The values of the next request."""
        cachebusting, self._next_cachebusting = self._next_cachebusting, new_cachebusting(self._rng)
        return {
            "TRANSACTIONID": self.transaction_id,
            **self._values,
            "TIMESTAMP": timestamp(self._now()),
            "CACHEBUSTING": cachebusting,
        }
