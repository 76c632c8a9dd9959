"""A closed connection under uvloop, in the words that the Kafka client understands.

Where a broker goes away between two turns of the event loop, its connection's transport is closed before the client
has heard of it. A request written to it then raises `RuntimeError` under uvloop, where asyncio's own loop would drop
it; the client looks for an `OSError`, so that its fetcher would end for good, and the worker with it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError


def translate_closed_transports() -> None:
    """From now on a request to a connection that was closed fails as one to a connection that broke, which the client
    opens anew. Changes the client's own class; once is enough, and more does no harm."""
    send: Callable[..., Any] = AIOKafkaConnection.send
    if hasattr(send, "__wrapped__"):
        return

    @wraps(send)
    def translated(self: Any, *args: Any, **options: Any) -> Any:
        try:
            return send(self, *args, **options)
        except RuntimeError as error:
            self.close(reason=CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(f"Connection at {self.host}:{self.port} closed: {error}") from error

    AIOKafkaConnection.send = translated  # type: ignore[method-assign]
