"""What people are and want in a run: several identities, consent, preferences; that they are forgotten; and what their
sessions with upstream ad servers did."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, Final

from tests.simulation.themes import BROAD, Theme

_MEMBERS: Final = (None, "mum", "kid")
_DEVICES: Final = (None, "tv", "phone")
_PERS: Final = ("household", "user", "device")


class Minds:
    """Half of the broad runs have people with minds; the others do not even draw for them."""

    def __init__(self, rng: random.Random, theme: Theme = BROAD) -> None:
        self._rng = rng
        self._theme = theme
        self.on = rng.random() < theme.minds

    def cap(self, cap: dict[str, Any]) -> None:
        """Some caps count for one of several identities."""
        if self.on and self._rng.random() < 0.4:
            cap["per"] = self._rng.choice(_PERS)

    def campaign(self, campaign: dict[str, Any]) -> None:
        """Some campaigns choose whom they are for."""
        if self.on and self._rng.random() < 0.3:
            campaign.setdefault("policies", {})["personalised"] = True

    def request(self, request: dict[str, Any]) -> None:
        """A publisher names who asks, as far as it knows, and what they agreed to."""
        rng = self._rng
        if not self.on:
            return
        narrower = [("device_id", _DEVICES)] if "user_id" in request or "household_id" in request else []
        if "household_id" in request:
            narrower.append(("user_id", _MEMBERS))
        for name, words in narrower:
            word = rng.choice(words)
            if word is not None:
                request[name] = word
        if rng.random() < 0.3:
            request["consent"] = {"storage": rng.random() < 0.5, "personalisation": rng.random() < 0.5}

    def late_s(self) -> float:
        """How long something was under way."""
        return self._rng.uniform(0, 0.8) if self._rng.random() < 0.9 else self._rng.uniform(1, 5)

    def events(
        self,
        load_s: float,
        people: Sequence[str],
        sessions: Sequence[str],
        accounts: Sequence[str],
        categories: Sequence[str],
    ) -> Iterator[tuple[float, dict[str, Any]]]:
        """What people say of their own accord: (second, event)."""
        rng = self._rng
        if not self.on:
            return
        for _ in range(rng.randint(*self._theme.wishes)):
            scope = rng.choice(("all", "advertiser", "category", "category"))
            event: dict[str, Any] = {
                "type": "preference",
                "choice": rng.choice(("refuse", "allow", "allow", "neither")),
                "scope": scope,
            }
            if rng.random() < 0.3:
                event = {"type": rng.choice(("opt-out", "opt-in")), "scope": scope}
            if scope != "all":
                event["value"] = rng.choice(accounts if scope == "advertiser" else categories)
            yield rng.uniform(1, load_s), {**event, "routing_id": rng.choice(people)}
        for _ in range(rng.choice((0, 1, 3))):
            yield rng.uniform(3, load_s), {"type": "erasure", "routing_id": rng.choice(people)}
        for number in range(rng.randint(0, 8)):
            change = {
                "type": "session",
                "routing_id": rng.choice(sessions),
                "change_id": f"k{number}",
                "requests": rng.randint(0, 2),
                "impressions": rng.randint(0, 3),
                "pod_positions": rng.sample(range(6), rng.randint(0, 3)),
                "spend_micros": rng.choice((0, 700)),
            }
            for _ in range(rng.choice((1, 1, 2))):
                yield rng.uniform(1, load_s), change
