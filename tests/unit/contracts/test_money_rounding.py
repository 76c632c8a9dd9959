"""Money arithmetic: integers, one rounding rule, in one place."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adgovernor.contracts.campaigns import Campaign
from adgovernor.contracts.money import MICROS, decimal_of, micros_of, price_of_cpm


@given(st.integers(0, 2**62))
def test_a_cpm_becomes_a_price_rounded_half_up(cpm_micros: int) -> None:
    """A thousandth, rounded half up, and at least 1 when the CPM is above 0."""
    exact = (Decimal(cpm_micros) / 1000).quantize(Decimal(1), rounding=ROUND_HALF_UP)
    assert price_of_cpm(cpm_micros) == (max(1, int(exact)) if cpm_micros else 0)


@pytest.mark.parametrize(
    ("cpm_micros", "price"),
    [(0, 0), (1, 1), (499, 1), (500, 1), (1_499, 1), (1_500, 2), (2_500, 3), (2_500_000, 2_500)],
)
def test_cpm_examples(cpm_micros: int, price: int) -> None:
    """The edges of rounding: halves go up, never to even, and nothing paid is free."""
    assert price_of_cpm(cpm_micros) == price


def test_a_negative_cpm_is_an_error() -> None:
    """A price is never negative."""
    with pytest.raises(ValueError, match="never negative"):
        price_of_cpm(-1)


@given(st.integers(-(2**62), 2**62))
def test_micros_and_decimals_are_the_same_amount(micros: int) -> None:
    """An amount survives the way to a decimal and back."""
    assert micros_of(decimal_of(micros)) == micros


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9, places=9))
def test_a_decimal_amount_is_off_by_at_most_half_a_micro(amount: Decimal) -> None:
    """Rounding to micros never moves an amount by more than half of one."""
    assert abs(micros_of(amount) - amount * MICROS) <= Decimal("0.5")


@pytest.mark.parametrize(
    ("fields", "price", "least", "one"),
    [
        ({"price_micros": 700}, 700, 700, 700),
        ({"cpm_micros": 1_500}, 2, 2, 2),
        ({"price_micros": 700, "min_price_micros": 300}, 700, 300, 300),
        ({"price_micros": 0}, 0, 0, 1),
        ({}, 0, 0, 1),
        ({"min_price_micros": 0, "price_micros": 5}, 5, 0, 1),
        ({"budget_micros": 0}, 0, 0, 0),
    ],
)
def test_the_unit_of_leases(fields: dict[str, int], price: int, least: int, one: int) -> None:
    """One price is the least price, and at least 1 where there is a budget to spend."""
    campaign = Campaign(campaign_id="c1", account_id="a1", **{"budget_micros": 10, **fields})  # type: ignore[arg-type]
    assert (campaign.price(), campaign.least_price(), campaign.one_price()) == (price, least, one)
