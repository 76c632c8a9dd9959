"""What sessions have done so far, in a state backend: kept with a time to live, and over restarts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Final

import orjson

from adgovernor.contracts.errors import Unavailable
from adgovernor.sessions.errors import StateUnavailableError
from adgovernor.sessions.governor import SessionChange, SessionState
from adgovernor.stores.backends import StateBackend, Transactions

_REMEMBERED: Final = 256
"""Changes of one session whose repetition is noticed; a player makes a few at a time."""


@contextmanager
def asking_state() -> Iterator[None]:
    """What cannot be answered is `StateUnavailableError`, as the seam says."""
    try:
        yield
    except Unavailable as error:
        raise StateUnavailableError(str(error)) from error


class SessionStates:
    """One value a session, under ``session/ID``."""

    def __init__(
        self, backend: StateBackend, *, ttl_ms: int = 6 * 3_600_000, deadline_s: float = 5.0
    ) -> None:
        """``ttl_ms``: how long a session is known after its last change."""
        self._backend = backend
        self._transactions = Transactions(backend, deadline_s)
        self._ttl_ms = ttl_ms

    async def get(self, session_id: str) -> SessionState | None:
        """The session's state; None when it is unknown or forgotten. Raises `StateUnavailableError`."""
        with asking_state():
            now = await self._backend.load(_key(session_id))
        return None if now is None else _state(orjson.loads(now.value))

    async def update(self, session_id: str, change: SessionChange) -> SessionState:
        """Adds a change, once for its id. Raises `StateUnavailableError`."""

        def decide(value: bytes | None) -> tuple[bytes | None, SessionState]:
            data = _NOTHING if value is None else orjson.loads(value)
            before = _state(data)
            if change.change_id in data["changes"]:
                return None, before
            after = before.plus(change)
            changes = [*data["changes"], change.change_id][-_REMEMBERED:]
            return orjson.dumps({"state": asdict(after), "changes": changes}), after

        with asking_state():
            return await self._transactions.apply(
                _key(session_id), f"change/{change.change_id}", decide, ttl_ms=self._ttl_ms
            )


_NOTHING: Final[dict[str, Any]] = {"state": {}, "changes": []}


def _key(session_id: str) -> str:
    return f"session/{session_id}"


def _state(data: dict[str, Any]) -> SessionState:
    state = data["state"]
    return SessionState(**{**state, "pod_positions": tuple(state.get("pod_positions", ()))})
