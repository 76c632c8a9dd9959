"""Several identities of one person: the widest is the routing id and holds the state; a cap may count for another.

A household's state has the servings of all its members and devices, each once. A serving remembers the identities that
are narrower than the routing id, so a cap ``per`` user or device counts those that say the same; a serving that does
not say is nobody's. Where the request does not say, the campaign's policy for nobody known decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from adgovernor.core.history import Serving

Ids = tuple[str | None, str | None]
"""User and device, where they are narrower than the routing id."""

_USER: Final = "user"
_DEVICE: Final = "device"
_PLACES: Final = {_USER: 0, _DEVICE: 1}
ALL: Final = ("", "")
"""The identity is the routing id itself: the whole state is its."""


class Identities(Protocol):
    """Who asks, such as an ad request."""

    @property
    def household_id(self) -> str | None: ...

    @property
    def user_id(self) -> str | None: ...

    @property
    def device_id(self) -> str | None: ...

    @property
    def session_id(self) -> str | None: ...


def narrower(who: Identities) -> Ids | None:
    """The identities narrower than the routing id; None where there are none."""
    if who.household_id:
        user, device = who.user_id or None, who.device_id or None
    elif who.user_id:
        user, device = None, who.device_id or None
    else:
        return None
    return (user, device) if user or device else None


def place_of(who: Identities, per: str) -> tuple[str, str] | None:
    """Which of a serving's narrower identities is asked for, and what it must be; `ALL` where every serving counts;
    None where the request does not say."""
    if per == "household":
        return ALL if who.household_id else None
    if per == "user":
        if not who.user_id:
            return None
        return (_USER, who.user_id) if who.household_id else ALL
    if not who.device_id:
        return None
    return (_DEVICE, who.device_id) if who.household_id or who.user_id else ALL


def servings_of(servings: Iterable[Serving], who: Identities, per: str) -> list[Serving]:
    """The servings that a cap ``per`` this kind counts; those of the session where the request does not say."""
    place = place_of(who, per)
    if place is None:
        session = who.session_id
        return [serving for serving in servings if session and serving.session == session]
    if place is ALL:
        return list(servings)
    at, word = _PLACES[place[0]], place[1]
    return [serving for serving in servings if (ids := serving.ids) and ids[at] == word]


def totals_suffix(who: Identities, per: str) -> str | None:
    """Behind which scope's name lifetime totals keep what such a cap counts; None where they keep nothing of it."""
    place = place_of(who, per)
    if place is None:
        return None
    return "" if place is ALL else f"#{place[0]}:{place[1]}"
