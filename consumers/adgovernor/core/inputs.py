"""From bytes to inputs: the one place where what a topic carries is decoded and checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson
from pydantic import TypeAdapter, ValidationError

from adgovernor.contracts import topics
from adgovernor.contracts.campaigns import Command
from adgovernor.contracts.errors import BadInput
from adgovernor.contracts.events import Engagement, Impression, UserEvent
from adgovernor.contracts.ledger import is_plain_json
from adgovernor.contracts.requests import AdRequest, read_request
from adgovernor.core.breaks import with_breaks
from adgovernor.core.identities import narrower
from adgovernor.core.machine import Input, Poison

MAX_VALUE_BYTES: Final = 500_000
"""A larger input is poison: a block, and the message that carries it, must be able to hold it."""

_impression: Final[Callable[[bytes], Impression]] = Impression.__pydantic_validator__.validate_json
_engagement: Final[Callable[[bytes], Any]] = TypeAdapter(Engagement).validate_json
_user_event: Final[Callable[[bytes], Any]] = TypeAdapter(UserEvent).validate_json
_command: Final[Callable[[bytes], Any]] = TypeAdapter(Command).validate_json


def read(topic: str, offset: int, key: bytes | None, value: bytes | None) -> Input:
    """Decodes an input of any topic. Never raises for what the input holds: bad bytes become `Poison`."""
    if value is None or not value:
        return _poisoned(
            topic, offset, key, value, "empty", f"a message of {topic} needs a JSON object as its value"
        )
    if len(value) > MAX_VALUE_BYTES:
        size = len(value)
        return _poisoned(
            topic,
            offset,
            key,
            value,
            "too_large",
            f"the value has {size} bytes, at most {MAX_VALUE_BYTES} are taken",
        )
    try:
        if topic == topics.AD_REQUESTS:
            return _request(topic, offset, key, value)
        if topic == topics.IMPRESSIONS:
            # `type` may be left out of an impression, and a tagged union has no default for its tag.
            event = _engagement(value) if b'"type"' in value else _impression(value)
        elif topic == topics.USER_EVENTS:
            event = _user_event(value)
        elif topic == topics.CAMPAIGNS:
            return Input(topic, offset, key, value, _command(value), -1, is_json=is_plain_json(value))
        else:
            return _side(topic, offset, key, value)
    except BadInput as error:
        return _poisoned(topic, offset, key, value, "invalid", str(error))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        kind = "not_json" if first["type"].startswith("json") else "invalid"
        return _poisoned(topic, offset, key, value, kind, _explain(first, error.error_count()))
    return Input(
        topic,
        offset,
        key,
        value,
        event,
        event.time_ms,
        event.routing_id,
        None,
        event.routing_id,
        is_plain_json(value),
    )


def _request(topic: str, offset: int, key: bytes | None, value: bytes) -> Input:
    request = read_request(value)
    if isinstance(request, AdRequest) and request.vmap is not None:
        request = with_breaks(request)
    routing = request.routing_id()
    return Input(
        topic,
        offset,
        key,
        value,
        request,
        request.time_ms,
        routing,
        request.session_id,
        routing,
        is_plain_json(value),
        None if request.device_id is None and request.household_id is None else narrower(request),
    )


def _side(topic: str, offset: int, key: bytes | None, value: bytes) -> Input:
    try:
        message = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        return _poisoned(topic, offset, key, value, "not_json", str(error))
    shape = {"source": str, "destination": str, "number": int, "hash": str, "payload": dict}
    if not isinstance(message, dict) or not all(
        isinstance(message.get(name), kind) for name, kind in shape.items()
    ):
        return _poisoned(
            topic, offset, key, value, "invalid", "not a side message; only workers write to this topic"
        )
    return Input(topic, offset, key, value, message, -1)


def _explain(first: Mapping[str, Any], count: int) -> str:
    place = ".".join(str(part) for part in first["loc"]) or "the value"
    more = f" (and {count - 1} more)" if count > 1 else ""
    return f"{place}: {first['msg']}{more}"


def _poisoned(
    topic: str, offset: int, key: bytes | None, value: bytes | None, reason: str, message: str
) -> Input:
    splice = False
    if value and reason == "invalid":
        try:
            orjson.loads(value)
            splice = True
        except orjson.JSONDecodeError:
            splice = False
    return Input(topic, offset, key, value, Poison(reason, message), -1, is_json=splice)
