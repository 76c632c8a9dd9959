"""The quick way of reading an ad request never says anything else than its contract."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from adgovernor.contracts.events import Impression
from adgovernor.contracts.money import MOST_MICROS
from adgovernor.contracts.requests import AdRequest, Candidate, PlainCandidate, PlainRequest, read_request

ORDINARY: dict[str, Any] = {
    "request_id": "r1",
    "time_ms": 1_700_000_000_000,
    "user_id": "u1",
    "placement": "preroll",
    "labels": ["sports"],
    "metadata": {"page": "a", "age": 3, "score": 0.5, "new": True, "none": None},
    "deadline_ms": 1_700_000_000_500,
    "currency": "EUR",
    "candidates": [
        {"campaign_id": "c1", "creative_id": "x", "price_micros": 1000, "categories": ["IAB1"]},
        {
            "campaign_id": "c2",
            "creative_id": "y",
            "cpm_micros": 5,
            "duration_ms": 15_000,
            "tag_url": "https://a",
        },
    ],
}
NUMBERS = [-1, 0, 1, 1.0, 1.5, True, "1", None, MOST_MICROS, MOST_MICROS + 1, 2**53, 2**64, 10**30]
TEXTS = [
    "",
    "x",
    "é" * 256,
    "x" * 257,
    "x" * 1024,
    "x" * 1025,
    "EUR",
    "EUR\n",
    "eur",
    "\ud83d\ude00",
    "\x00",
    7,
    None,
    [],
    {},
]
ODD = [*NUMBERS, *TEXTS, [1], ["a", "b"], {"a": {"b": 1}}, {"a": [1]}, [{}], [["a"]]]


@dataclass(frozen=True)
class Twin:
    """Two types that must say the same of a value, and what one of them has more."""

    plain: type
    contract: type[AdRequest] | type[Candidate]
    more: frozenset[str]


TWINS = [
    Twin(
        PlainRequest,
        AdRequest,
        frozenset(
            {"consent", "slots", "pod", "pod_rules", "breaks", "content_duration_ms", "vmap"},
        ),
    ),
    Twin(PlainCandidate, Candidate, frozenset({"in_pod"})),
]


def said(value: Any) -> Any:
    """A value without its type: what its fields are."""
    if isinstance(value, tuple):
        return tuple(said(one) for one in value)
    for twin in TWINS:
        if isinstance(value, twin.plain | twin.contract):
            return {name: said(getattr(value, name)) for name in twin.plain.__struct_fields__}  # type: ignore[attr-defined]
    return value


def same(text: bytes) -> PlainRequest | AdRequest | None:
    """Reads a request both ways, and compares; None where it is none."""
    try:
        contract = AdRequest.model_validate_json(text)
    except ValidationError:
        with pytest.raises(ValidationError):
            read_request(text)
        return None
    found = read_request(text)
    if isinstance(found, PlainRequest):
        assert repr(said(found)) == repr(said(contract))
        assert all(getattr(contract, name) is None for name in TWINS[0].more)
        assert found.routing_id() == contract.routing_id()
        assert [one.price() for one in found.candidates] == [one.price() for one in contract.candidates]
    else:
        assert repr(found) == repr(contract)
    return found


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.plain.__name__)
def test_both_have_the_same_fields(twin: Twin) -> None:
    """A field that is new in the contract is new in its twin, or named here as one that an ordinary request lacks."""
    assert {*twin.plain.__struct_fields__} | twin.more == {*twin.contract.model_fields}  # type: ignore[attr-defined]


def test_an_ordinary_request_is_read_the_quick_way() -> None:
    """What most requests are needs no model."""
    assert isinstance(same(orjson.dumps(ORDINARY)), PlainRequest)


@pytest.mark.parametrize("more", [{"slots": 2}, {"pod_rules": {}}, {"consent": {}}, {"new": 1}])
def test_what_is_special_is_left_to_the_contract(more: dict[str, Any]) -> None:
    """A request with pods, consent or a field that is not known is what its contract says."""
    assert isinstance(same(orjson.dumps(ORDINARY | more)), AdRequest)


@pytest.mark.parametrize(
    "text",
    [
        b'{"request_id":"a","request_id":"b","time_ms":1}',
        b'{"request_id":"a","time_ms":1.0}',
        b'{"request_id":"a","time_ms":1e3}',
        b'{"request_id":"a","time_ms":01}',
        b'{"request_id":"a","time_ms":-0}',
        b'{"request_id":"\xff","time_ms":1}',
        b'{"request_id":"a","time_ms":1,"new":"\xff"}',
        b'{"request_id":"a","time_ms":1,"\xff":1}',
        b'{"request_id":"\\ud800","time_ms":1}',
        b'{"request_id":"\\ud800\\u0041","time_ms":1}',
        b'{"request_id":"\\ud83d\\ude00","time_ms":1}',
        b'{"request_id":"a","time_ms":1,"metadata":{"a":NaN}}',
        b'{"request_id":"a","time_ms":1,"metadata":{"a":1e999}}',
        b'{"request_id":"a","time_ms":1,"metadata":{"a":1,"a":"b"}}',
        b'{"request_id":"a","time_ms":1,"metadata":{"a":' + b"[" * 400 + b"]" * 400 + b"}}",
        b'{"request_id":"a","time_ms":1,"metadata":' + b'{"a":' * 5000 + b"1" + b"}" * 5001,
        b'{"request_id":"a","time_ms":1}x',
        b'\xef\xbb\xbf{"request_id":"a","time_ms":1}',
        b' \r\n{"request_id":"a","time_ms":1}\t',
        b'{"request_id":"a","time_ms":1,}',
        b"[]",
        b"nul",
        b"",
    ],
)
def test_odd_json_is_read_alike(text: bytes) -> None:
    """Parsers differ in what they forgive; a request is what the contract's parser says."""
    same(text)


def test_null_says_as_little_as_nothing() -> None:
    """A request whose program writes null for each field that it has nothing for is the request without them."""
    needed = {"request_id": "r1", "time_ms": 1}
    optional = set(AdRequest.model_fields) - set(needed)
    assert same(orjson.dumps({**needed, **dict.fromkeys(optional)})) == AdRequest(request_id="r1", time_ms=1)
    named = {"campaign_id": "c", "creative_id": "x"}
    optional = set(Candidate.model_fields) - set(named)
    found = same(orjson.dumps({**needed, "candidates": [{**named, **dict.fromkeys(optional)}]}))
    assert found is not None
    assert found.candidates == (Candidate(campaign_id="c", creative_id="x"),)


@pytest.mark.parametrize("name", ["household_id", "user_id", "device_id", "session_id"])
def test_an_identity_may_be_a_token(name: str) -> None:
    """An identity has up to 1,024 characters, as encrypted ones do, and its decision and impression can repeat it;
    a longer one is no request."""
    found = same(orjson.dumps({"request_id": "r1", "time_ms": 1, name: "t" * 1024}))
    assert found is not None
    shown = Impression(decision_id="r1", routing_id=found.routing_id(), time_ms=2)
    assert shown.routing_id == "t" * 1024
    with pytest.raises(ValidationError):
        read_request(orjson.dumps({"request_id": "r1", "time_ms": 1, name: "t" * 1025}))


@given(data=st.data())
def test_any_field_of_any_value_is_read_alike(data: st.DataObject) -> None:
    """Whatever stands in a request's or candidate's fields, both ways accept the same, and find the same in it."""
    first, second = (dict(one) for one in ORDINARY["candidates"])
    request = {**ORDINARY, "candidates": [first, second]}
    for _ in range(data.draw(st.integers(1, 3))):
        twin, place = data.draw(st.sampled_from([(TWINS[0], request), (TWINS[1], first)]))
        name = data.draw(st.sampled_from(sorted(twin.contract.model_fields)))
        if data.draw(st.booleans()):
            place[name] = data.draw(st.sampled_from(ODD))
        else:
            place.pop(name, None)
    same(json.dumps(request).encode())


@given(at=st.integers(0, 10_000), byte=st.binary(max_size=3), cut=st.integers(0, 3))
def test_any_damage_is_read_alike(at: int, byte: bytes, cut: int) -> None:
    """A request with some bytes changed is read alike, or is none to both."""
    text = orjson.dumps(ORDINARY)
    place = at % len(text)
    same(text[:place] + byte + text[place + cut :])
