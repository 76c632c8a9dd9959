"""The context of a session and the macros of its requests."""

from __future__ import annotations

import dataclasses
import random
from datetime import UTC, datetime
from typing import Any

import pytest

from adgovernor.sessions.context import SessionContext
from adgovernor.sessions.request_macros import RequestMacros
from adgovernor.video import WITHHELD

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_create_fills_what_is_not_given() -> None:
    """Identifiers, a positive correlator, an aware time and eight digits are made up."""
    context = SessionContext.create()
    assert context.session_id != context.request_id
    assert context.correlator > 0
    assert context.timestamp.tzinfo is not None
    assert len(context.cachebusting) == 8
    assert context.cachebusting.isdecimal()
    assert (context.user_id, context.cookies, context.metadata) == (None, (), ())


def test_create_keeps_what_is_given() -> None:
    """Nothing that was said is made up again."""
    context = SessionContext.create(
        session_id="s",
        request_id="r",
        correlator=7,
        timestamp=NOON,
        cachebusting="12345678",
        user_id="u",
        cookies={"a": "1"},
        metadata={"b": 2, "a": 1},
    )
    assert (context.request_id, context.timestamp, context.user_id) == ("r", NOON, "u")
    assert (context.session_id, context.correlator, context.cachebusting) == ("s", 7, "12345678")
    assert (context.cookies, context.metadata) == ((("a", "1"),), (("a", 1), ("b", 2)))


def test_create_is_repeatable_with_a_random_source() -> None:
    """The same seed and time give the same context."""
    first = SessionContext.create(rng=random.Random(1), timestamp=NOON)
    assert first == SessionContext.create(rng=random.Random(1), timestamp=NOON)


@pytest.mark.parametrize(
    "wrong",
    [{"correlator": 0}, {"timestamp": datetime(2026, 1, 1)}, {"cachebusting": "1"}],
)
def test_create_refuses_what_cannot_be(wrong: dict[str, object]) -> None:
    """A correlator is positive, a time has a zone, a cachebusting number eight digits."""
    with pytest.raises(ValueError):
        SessionContext.create(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        dataclasses.replace(SessionContext.create(), **wrong)  # type: ignore[arg-type]


def test_a_context_is_immutable_and_hashable() -> None:
    """It can be shared among tasks and used as a key."""
    context = SessionContext.create(cookies={"a": "1"}, metadata={"x": ("y", 1)})
    assert {context: 1}[dataclasses.replace(context)] == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        context.user_id = "other"  # type: ignore[misc]


def test_with_metadata_makes_a_new_context() -> None:
    """The old one stays as it was; entries of the same name are replaced."""
    context = SessionContext.create(metadata={"a": 1, "b": 1})
    changed = context.with_metadata(b=2, c=3)
    assert (dict(context.metadata), dict(changed.metadata)) == ({"a": 1, "b": 1}, {"a": 1, "b": 2, "c": 3})
    assert changed.session_id == context.session_id


@pytest.mark.parametrize("value", [["a"], {"a": 1}, None, (["a"],)])
def test_metadata_that_can_change_is_refused(value: object) -> None:
    """A context with a list in it would not be hashable, so it is not made."""
    wrong: dict[str, Any] = {"x": value}
    with pytest.raises(TypeError, match="metadata x"):
        SessionContext.create(metadata=wrong)
    with pytest.raises(TypeError, match="metadata x"):
        SessionContext.create().with_metadata(**wrong)


def test_what_the_context_knows_becomes_macros() -> None:
    """Its own fields, and metadata named like a standard macro."""
    context = SessionContext.create(
        correlator=5, ip_address="192.0.2.7", user_agent="A/1", content_url="http://c", device_id="ifa-1",
        metadata={"pageurl": "http://p", "REGULATIONS": ("gdpr", "coppa"), "own": 1, "LIMITADTRACKING": False},
    )  # fmt: skip
    values = context.macro_values()
    assert values["CORRELATOR"] == 5
    assert (values["DEVICEIP"], values["DEVICEUA"], values["CONTENTURI"]) == ("192.0.2.7", "A/1", "http://c")
    assert (values["PAGEURL"], values["REGULATIONS"], values["IFA"]) == (
        "http://p",
        ("gdpr", "coppa"),
        "ifa-1",
    )
    assert "OWN" not in values
    assert values["LIMITADTRACKING"] == 0


@pytest.mark.parametrize("word", [True, 1, "1"])
def test_limited_tracking_withholds_the_identifier(word: str | int) -> None:
    """Who asked not to be followed is sent as -2, however players write that."""
    context = SessionContext.create(device_id="ifa-1", metadata={"limitadtracking": word})
    assert context.macro_values()["IFA"] is WITHHELD


def test_device_headers_are_sent_as_far_as_they_are_known() -> None:
    """X-Device-IP and X-Device-User-Agent; a value that could break out of a header is not sent."""
    context = SessionContext.create(ip_address="192.0.2.7", user_agent="A/1")
    assert context.device_headers() == (("X-Device-IP", "192.0.2.7"), ("X-Device-User-Agent", "A/1"))
    for unlawful in ("A\r\nX-Evil: 1", "Änderung/1"):
        assert SessionContext.create(user_agent=unlawful).device_headers() == ()


def test_transaction_is_constant_and_random_numbers_are_not() -> None:
    """TRANSACTIONID stays through a chain; CACHEBUSTING begins with the context's and is new each time."""
    context = SessionContext.create(cachebusting="12345678")
    macros = RequestMacros(context, now=lambda: NOON, rng=random.Random(3))
    first, second = macros(), macros()
    assert first["TRANSACTIONID"] == second["TRANSACTIONID"] == macros.transaction_id
    assert first["CACHEBUSTING"] == "12345678"
    assert second["CACHEBUSTING"] != "12345678"
    assert len(str(second["CACHEBUSTING"])) == 8
    assert first["TIMESTAMP"] == "2026-03-01T12:00:00.000+00:00"
