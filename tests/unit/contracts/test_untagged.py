"""Impressions need not say that they are impressions."""

from __future__ import annotations

import pytest

from adgovernor.contracts import topics
from adgovernor.contracts.catalogue import contract_of
from adgovernor.contracts.errors import Undecodable
from adgovernor.contracts.events import Impression


def test_an_impression_may_leave_out_its_type() -> None:
    """The fields that an impression must have are enough to publish it, as they are for workers."""
    event = contract_of(topics.IMPRESSIONS).parse(b'{"decision_id":"r1","routing_id":"u1","time_ms":5}')
    assert event == Impression(decision_id="r1", routing_id="u1", time_ms=5)


def test_what_is_missing_of_an_impression_without_type_is_named() -> None:
    """The refusal is about the impression's fields, not about its type."""
    with pytest.raises(Undecodable, match="time_ms: Field required"):
        contract_of(topics.IMPRESSIONS).parse(b'{"decision_id":"r1","routing_id":"u1"}')
    with pytest.raises(Undecodable, match="type"):
        contract_of(topics.IMPRESSIONS).parse(
            b'{"type":"glance","decision_id":"r1","routing_id":"u1","time_ms":5}'
        )
