"""Who a session is for and what identifies it: immutable, hashable, safe to share among tasks."""

from __future__ import annotations

import random
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from adgovernor.video import STANDARD_MACROS, WITHHELD, MacroValue

MetadataValue = str | int | float | bool | tuple[str | int | float, ...]

# The one source of randomness here; a test passes its own.
_SYSTEM_RANDOM = random.SystemRandom()


def new_cachebusting(rng: random.Random) -> str:
    """A random number of exactly eight digits, as ``[CACHEBUSTING]`` asks."""
    return str(rng.randrange(10_000_000, 100_000_000))


@dataclass(frozen=True, slots=True)
class SessionContext:
    """One viewer's session with the upstream ad servers.

    *correlator* is a positive integer, the same for the whole page view; *timestamp* is when the session was created,
    with a time zone; *cachebusting* has eight digits. *cookies* (name, value) go to the session's own upstream hosts
    only. *metadata* holds anything else; an entry named like a standard macro (``ifa``, ``PAGEURL``) is that macro's
    value.

    Raises :class:`ValueError` for a correlator below 1, a timestamp without a time zone or a cachebusting number that
    has not eight digits, and :class:`TypeError` for metadata that can change.
    """

    session_id: str
    request_id: str
    correlator: int
    timestamp: datetime
    cachebusting: str
    user_id: str | None = None
    device_id: str | None = None
    ip_address: str | None = None
    user_agent: str | None = None
    content_url: str | None = None
    cookies: tuple[tuple[str, str], ...] = ()
    metadata: tuple[tuple[str, MetadataValue], ...] = ()

    def __post_init__(self) -> None:
        if self.timestamp.tzinfo is None:
            raise ValueError("timestamp has no time zone; give an aware datetime")
        if self.correlator < 1:
            raise ValueError(f"correlator is {self.correlator}; it is a positive integer")
        if not (len(self.cachebusting) == 8 and self.cachebusting.isdecimal()):
            raise ValueError(f"cachebusting is {self.cachebusting!r}; it is a number of eight digits")
        for name, value in self.metadata:
            for part in value if isinstance(value, tuple) else (value,):
                if not isinstance(part, (str, int, float, bool)):
                    raise TypeError(
                        f"metadata {name} has a {type(part).__name__}; give text, a number or a tuple of them"
                    )

    @classmethod
    def create(
        cls,
        *,
        session_id: str | None = None,
        request_id: str | None = None,
        correlator: int | None = None,
        timestamp: datetime | None = None,
        cachebusting: str | None = None,
        user_id: str | None = None,
        device_id: str | None = None,
        ip_address: str | None = None,
        user_agent: str | None = None,
        content_url: str | None = None,
        cookies: Mapping[str, str] | None = None,
        metadata: Mapping[str, MetadataValue] | None = None,
        rng: random.Random | None = None,
    ) -> SessionContext:
        """A context with everything that is not given filled in from *rng* and the present time (UTC)."""
        source = rng or _SYSTEM_RANDOM
        return cls(
            session_id=session_id or str(_uuid(source)),
            request_id=request_id or str(_uuid(source)),
            correlator=correlator if correlator is not None else source.randrange(1, 2**53),
            timestamp=timestamp if timestamp is not None else datetime.now(UTC),
            cachebusting=new_cachebusting(source) if cachebusting is None else cachebusting,
            user_id=user_id,
            device_id=device_id,
            ip_address=ip_address,
            user_agent=user_agent,
            content_url=content_url,
            cookies=tuple((cookies or {}).items()),
            metadata=_sorted(metadata or {}),
        )

    def with_metadata(self, **metadata: MetadataValue) -> SessionContext:
        """A new context with *metadata* added, replacing entries of the same name."""
        return replace(self, metadata=_sorted(dict(self.metadata) | metadata))

    def macro_values(self) -> dict[str, MacroValue]:
        """What this context says about the standard macros; times and random numbers are the request's to add."""
        known = {
            "DEVICEIP": self.ip_address,
            "DEVICEUA": self.user_agent,
            "CONTENTURI": self.content_url,
            "IFA": self.device_id,
        }
        values: dict[str, MacroValue] = {name: value for name, value in known.items() if value is not None}
        values |= {"CORRELATOR": self.correlator, "SERVERSIDE": 1}
        for key, value in self.metadata:
            if key.upper() in STANDARD_MACROS:
                values[key.upper()] = int(value) if isinstance(value, bool) else value
        if values.get("LIMITADTRACKING") in (1, "1"):
            # The person asked not to be followed: the identifier is known and may not be shared.
            values["IFA"] = WITHHELD
        return values

    def device_headers(self) -> tuple[tuple[str, str], ...]:
        """What a server sends on the device's behalf (VAST 4.3 §1.2.2), as far as it is known."""
        headers = []
        for name, value in (("X-Device-IP", self.ip_address), ("X-Device-User-Agent", self.user_agent)):
            if value is not None and value.isprintable() and value.isascii():
                headers.append((name, value))
        return tuple(headers)


def _sorted(metadata: Mapping[str, MetadataValue]) -> tuple[tuple[str, MetadataValue], ...]:
    """The entries by name, so that contexts that say the same are equal."""
    return tuple(sorted(metadata.items()))


def _uuid(source: random.Random) -> uuid.UUID:
    return uuid.UUID(int=source.getrandbits(128), version=4)
