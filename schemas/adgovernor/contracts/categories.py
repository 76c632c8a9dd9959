"""Content categories: which is a part of which."""

from __future__ import annotations

from collections.abc import Collection


def whole_of(category: str) -> str:
    """The category that one is a part of, as IAB7 is of IAB7-3 (IAB content taxonomy 1.0, OpenRTB 2.6 list "Content
    Categories"); itself where it is none. Categories of another make have no parts, whatever they are called."""
    return category.partition("-")[0] if category.startswith("IAB") else category


def is_among(category: str, listed: Collection[str]) -> bool:
    """Tell whether a list of categories names this one, or the one that it is a part of."""
    return category in listed or whole_of(category) in listed
