"""Which contract travels on which public topic, how its messages are keyed and what names them.

One table, read by whoever publishes, subscribes or documents: a new public event needs a row here and nothing
else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from adgovernor.contracts import topics
from adgovernor.contracts.ads import Ad
from adgovernor.contracts.campaigns import (
    BudgetExhausted,
    BudgetThreshold,
    CampaignChange,
    CampaignPaused,
    CampaignResumed,
    Command,
)
from adgovernor.contracts.decisions import Decision
from adgovernor.contracts.errors import BadInput, Undecodable
from adgovernor.contracts.events import Engagement, Impression, UserEvent
from adgovernor.contracts.misspelt import alike
from adgovernor.contracts.pods import PodEvent
from adgovernor.contracts.requests import AdRequest

_REASONS_SHOWN: Final = 3
"""Enough to mend a line; a document of another kind would otherwise list every field that it lacks."""


@dataclass(frozen=True, slots=True)
class TopicContract:
    """The contract of a public topic's messages.

    Attributes:
        title: what one message is, in a few words.
        key_is: what the message's key holds.
        adapter: validates and serialises the value.
        key: an event's key.
        event_id: the CloudEvents id of an event that a publisher writes; None for what workers write, whose
            id is its place in the ledger, and for resolved ads.
    """

    topic: str
    title: str
    key_is: str
    adapter: TypeAdapter[Any]
    key: Callable[[Any], str]
    event_id: Callable[[Any], str] | None = None
    untagged: TypeAdapter[Any] | None = None

    def parse(self, value: bytes | str) -> Any:
        """The event in ``value``.

        Raises:
            Undecodable: ``empty``, ``not_json`` or ``invalid``; the message names the fields.
        """
        if not value:
            raise Undecodable("empty", f"an empty value is no {self.title}")
        try:
            return self._validated(value)
        except ValidationError as error:
            problems = error.errors(include_url=False)
            if problems and problems[0]["type"] == "json_invalid":
                raise Undecodable("not_json", _not_json(value, str(problems[0]["msg"]))) from error
            raise Undecodable("invalid", f"no {self.title}: {_named(problems)}") from error

    def _validated(self, value: bytes | str) -> Any:
        try:
            return self.adapter.validate_json(value)
        except ValidationError as error:
            if self.untagged is None or error.errors()[0]["type"] != "union_tag_not_found":
                raise
        return self.untagged.validate_json(value)

    def encode(self, event: Any) -> bytes:
        """The event as its message's value; fields that are null are left out."""
        return self.adapter.dump_json(event, exclude_none=True)


def _not_json(value: bytes | str, told: str) -> str:
    if isinstance(value, bytes):
        try:
            value.decode()
        except UnicodeDecodeError as error:
            return f"not UTF-8 at byte {error.start + 1}; give JSON in UTF-8"
    # The value is one line of something larger: only the column helps to find the place.
    return told.replace(" at line 1 column ", " at column ")


def _named(problems: list[Any]) -> str:
    shown = [
        f"{'.'.join(str(part) for part in problem['loc']) or 'value'}: {_told(problem)}"
        for problem in problems[:_REASONS_SHOWN]
    ]
    if len(problems) > _REASONS_SHOWN:
        shown.append(f"and {len(problems) - _REASONS_SHOWN} more")
    return "; ".join(shown)


_TAGS: Final = ("command", "type")
"""What tells several models apart: in its place, whatever it is near to."""


def _told(problem: Any) -> str:
    told = str(problem["msg"]).removeprefix("Value error, ")
    given = problem.get("input")
    if problem["type"] == "int_type" and isinstance(given, str | float):
        # A whole number beyond 64 bits is read as a float.
        if isinstance(given, float) and given.is_integer() and abs(given) >= 2**63:
            return "is larger than any number that is taken"
        told = f"is {'a text' if isinstance(given, str) else 'a fraction'}; give a whole number"
        return told + (" of milliseconds" if str(problem["loc"][-1]).endswith("_ms") else "")
    bounds = problem.get("ctx", {})
    if problem["type"] == "too_long":
        return f"has {bounds['actual_length']} entries; at most {bounds['max_length']} are taken"
    if problem["type"] == "too_short":
        return "is empty; leave it out, or give at least one entry"
    if problem["type"] == "string_too_long" and isinstance(given, str):
        return f"has {len(given)} characters; at most {bounds['max_length']} are taken"
    if problem["type"] == "string_pattern_mismatch" and "currency" in str(problem["loc"][-1]):
        return f"{given!r} is no currency; give an ISO 4217 code in capitals, such as EUR"
    if problem["type"] == "missing" and isinstance(given, Mapping):
        near = alike(str(problem["loc"][-1]), [str(name) for name in given if name not in _TAGS])
        told += f" ({near} stands there; is it misspelt?)" if near else ""
    return told


def _campaign_key(event: Any) -> str:
    return str(event.account_id)


_ROWS: Final = (
    TopicContract(
        topics.AD_REQUESTS,
        "ad request",
        "the routing id: the widest identity that the request gives",
        TypeAdapter(AdRequest),
        lambda event: str(event.routing_id()),
        lambda event: str(event.request_id),
    ),
    TopicContract(
        topics.IMPRESSIONS,
        "impression, click or completed view",
        "the decision's routing id",
        TypeAdapter(Engagement),
        lambda event: str(event.routing_id),
        lambda event: f"{event.decision_id}/{event.slot}/{event.type}",
        TypeAdapter(Impression),
    ),
    TopicContract(
        topics.USER_EVENTS,
        "user event",
        "the person's routing id",
        TypeAdapter(UserEvent),
        lambda event: str(event.routing_id),
        lambda event: f"{event.routing_id}/{event.type}/{getattr(event, 'change_id', event.time_ms)}",
    ),
    TopicContract(
        topics.CAMPAIGNS,
        "campaign command",
        "the account id",
        TypeAdapter(Command),
        _campaign_key,
        lambda event: str(event.command_id),
    ),
    TopicContract(
        topics.DECISIONS,
        "decision",
        "the routing id",
        TypeAdapter(Decision),
        lambda event: str(event.routing_id),
    ),
    TopicContract(
        topics.PODS,
        "pod created, completed or abandoned",
        "the decision's id",
        TypeAdapter(PodEvent),
        lambda event: str(event.decision_id),
    ),
    TopicContract(
        topics.ADS,
        "resolved ad",
        "the decision's routing id",
        TypeAdapter(Ad),
        lambda event: str(event.routing_id),
    ),
    *(
        TopicContract(topic, title, "the account id", TypeAdapter(model), _campaign_key)
        for topic, title, model in (
            (topics.CAMPAIGN_CHANGES, "campaign change", CampaignChange),
            (topics.BUDGET_EXHAUSTED, "budget exhausted", BudgetExhausted),
            (topics.BUDGET_THRESHOLDS, "budget threshold", BudgetThreshold),
            (topics.CAMPAIGN_PAUSED, "campaign paused", CampaignPaused),
            (topics.CAMPAIGN_RESUMED, "campaign resumed", CampaignResumed),
        )
    ),
)

CATALOGUE: Final[Mapping[str, TopicContract]] = MappingProxyType({row.topic: row for row in _ROWS})


def contract_of(topic: str) -> TopicContract:
    """The contract of a topic (logical name).

    Raises:
        BadInput: where the topic has none.
    """
    try:
        return CATALOGUE[topic]
    except KeyError:
        raise BadInput(f"no contract for topic {topic!r}; it must be one of {', '.join(CATALOGUE)}") from None
