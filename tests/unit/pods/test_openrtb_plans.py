"""Plans of random OpenRTB documents against a second reading of the standard."""

from __future__ import annotations

from decimal import Decimal
from random import Random

import pytest
from openrtb_yardstick import best, random_request, random_response

from adgovernor.app.pods_plan import plan
from adgovernor.contracts.openrtb import parse_request, parse_response
from adgovernor.contracts.openrtb_documents import BadOpenRtb


@pytest.mark.parametrize("seed", range(8))
def test_a_plan_is_the_best_that_the_standard_allows(seed: int) -> None:
    """Of every set of bids that may play together the plan takes the one worth most, then the fewest ads, then the
    shortest."""
    draw = Random(seed)
    planned = 0
    for _ in range(40):
        request = random_request(draw)
        response = random_response(draw, request)
        try:
            read = parse_request(request)
        except BadOpenRtb:
            continue
        result = plan(read, parse_response(response))
        time = sum(entry["duration_s"] or 0 for entry in result["fill"])
        value = sum((Decimal(str(entry["price"])) for entry in result["fill"]), Decimal(0))
        assert (value, -len(result["fill"]), -time) == best(request, response), (request, response)
        assert result["proven"]
        planned += 1
    assert planned > 20
