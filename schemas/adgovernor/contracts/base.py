"""What every public model shares: frozen, strict about types, tolerant of fields that it does not know.

Types that ad requests use say each bound twice, side by side: as ``Field`` for the models, and as ``Meta`` for
`requests.PlainRequest`, which another library decodes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar

from msgspec import Meta
from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, Strict
from pydantic_core import CoreSchema, core_schema

from adgovernor.contracts.money import MOST_MICROS

Micros = Annotated[
    int,
    Field(ge=0, le=MOST_MICROS, description="An amount of money in micro-units of the currency."),
    Meta(ge=0, le=MOST_MICROS),
]
LATEST_MS: Final = 253_370_764_800_000
"""The start of the year 9999 in UTC: the last year whose days, weeks and months every calendar can name."""
TimeMs = Annotated[
    int,
    Field(ge=0, le=LATEST_MS, description="A point in time: milliseconds since 1970-01-01 UTC."),
    Meta(ge=0, le=LATEST_MS),
]
DurationMs = Annotated[
    int, Field(ge=0, le=2**52, description="A length of time in milliseconds."), Meta(ge=0, le=2**52)
]
RatePpm = Annotated[
    int, Field(ge=0, le=1_000_000, description="A share in parts per million."), Meta(ge=0, le=1_000_000)
]
T = TypeVar("T")
Many = Annotated[tuple[T, ...], Strict(False)]
"""Any number of values: an array in JSON; in Python a list will do as well as a tuple."""


class _NullIsDefault:
    """Reads null as if the field had been left out, as many programs write what they have nothing for."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def given(value: Any) -> Any:
            return self._make() if value is None else value

        nullable = core_schema.nullable_schema(handler(source))
        return core_schema.no_info_after_validator_function(given, nullable)


ManyOrNull = Annotated[Many[T], _NullIsDefault(tuple)]
"""As `Many`; null is none."""
Metadata = Annotated[dict[str, Any], _NullIsDefault(dict)]
TagUrl = Annotated[
    str,
    Field(min_length=1, max_length=8192, description="An http or https address; macros are filled in."),
    Meta(min_length=1, max_length=8192),
]
LONGEST_ID = 256
Id = Annotated[str, Field(min_length=1, max_length=LONGEST_ID), Meta(min_length=1, max_length=LONGEST_ID)]
LONGEST_IDENTITY: Final = 1024
"""Identities are longer than other names: exchanges and identity providers hand out encrypted tokens."""
Identity = Annotated[str, Field(max_length=LONGEST_IDENTITY), Meta(max_length=LONGEST_IDENTITY)]
"""Of a person, device or session, as the publisher writes it; an empty one is none."""
RoutingId = Annotated[Identity, Field(min_length=1)]


CurrencyCode = Annotated[str, Field(pattern=r"^[A-Z]{3}$"), Meta(pattern=r"^[A-Z]{3}\Z")]
"""ISO 4217. The two libraries' ``$`` differ before a line's end."""


class Contract(BaseModel):
    """A frozen value. Types are strict (the text ``"5"`` is not the number 5); unknown fields are ignored,
    so that a newer publisher can talk to an older reader."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", use_attribute_docstrings=True)
