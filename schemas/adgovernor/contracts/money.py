"""Money: integer micro-units (1,000,000 to the currency's unit) and the place where CPM becomes a price."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from typing import Final

MICROS: int = 1_000_000
"""Micro-units in one unit of a currency."""
MOST_MICROS: Final = 2**62
"""The largest amount that is said or stored: JSON's writers take whole numbers below 2^64."""


def sayable(micros: int) -> int:
    """A sum as it can be said: what is above the largest amount counts as that."""
    return min(micros, MOST_MICROS)


def price_of_cpm(cpm_micros: int) -> int:
    """The price of one impression, in micros, at a price per thousand of ``cpm_micros``.

    Rounded half up, and at least 1 when the CPM is above 0, so that no paid impression is free.

    Raises:
        ValueError: when ``cpm_micros`` is negative.
    """
    if cpm_micros < 0:
        raise ValueError(f"cpm_micros is {cpm_micros}; a price is never negative")
    if cpm_micros == 0:
        return 0
    return max(1, (cpm_micros + 500) // 1000)


def micros_of(amount: Decimal) -> int:
    """A decimal amount of currency units as micros, rounded half up."""
    return int((amount * MICROS).to_integral_value(rounding=ROUND_HALF_UP))


def decimal_of(micros: int) -> Decimal:
    """Micros as a decimal amount of currency units, exactly."""
    return Decimal(micros) / MICROS
