"""What people write under a misspelt name is noticed."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from adgovernor.contracts import topics
from adgovernor.contracts.catalogue import contract_of
from adgovernor.contracts.errors import Undecodable
from adgovernor.contracts.misspelt import misspelt

CAMPAIGN: dict[str, Any] = {
    "campaign_id": "c",
    "account_id": "a",
    "budget_micros": 5,
    "price_micros": 1,
    "caps": [{"window": "day", "limit": 3}],
}


def upsert(**fields: Any) -> dict[str, Any]:
    return {
        "command": "upsert",
        "command_id": "k",
        "account_id": "a",
        "time_ms": 1,
        "campaign": {**CAMPAIGN, **fields},
    }


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, []),
        ({"name": "Spring", "notes": {"budget": 3}}, []),
        (
            {"dialy_budget_micros": 5},
            ["campaign.dialy_budget_micros is no field; is daily_budget_micros meant?"],
        ),
        ({"budgets_micros": 5}, []),
        (
            {"caps": [{"window": "day", "limit": 3}, {"window": "day", "limit": 3, "scpe": "creative"}]},
            ["campaign.caps.1.scpe is no field; is scope meant?"],
        ),
        (
            {"policies": {"degrade": "closed"}},
            ["campaign.policies.degrade is no field; is degraded meant?"],
        ),
    ],
)
def test_a_near_name_of_a_field_left_out_is_told(fields: dict[str, Any], told: list[str]) -> None:
    """A name near a field that is left out is told with its path; other unknown names, and names near a field that
    is given as well, are not."""
    given = upsert(**fields)
    assert list(misspelt(contract_of(topics.CAMPAIGNS).parse(orjson.dumps(given)), given)) == told


@pytest.mark.parametrize(
    ("value", "reason", "told"),
    [
        (
            b'{"request_id":"r","timems":1}',
            "invalid",
            "time_ms: Field required (timems stands there; is it misspelt?)",
        ),
        (b'{"request_id":"r","time_ms":1,"slots":-1}', "invalid", "slots: slots must be between 1 and 64"),
        (
            b'{"request_id":1,"time_ms":"x","slots":"x","candidates":5,"metadata":6}',
            "invalid",
            "metadata: Input should be an object; and 2 more",
        ),
        (b'{"request_id": oops}', "not_json", "Invalid JSON: expected value at column 16"),
        (b'{"request_id":"\xff"}', "not_json", "not UTF-8 at byte 16; give JSON in UTF-8"),
    ],
)
def test_what_is_wrong_is_said_so_that_it_can_be_mended(value: bytes, reason: str, told: str) -> None:
    """A missing field names what may be it misspelt; places are columns of the line; wrong bytes are named."""
    with pytest.raises(Undecodable) as caught:
        contract_of(topics.AD_REQUESTS).parse(value)
    assert (caught.value.reason, told in str(caught.value)) == (reason, True), str(caught.value)
