"""Structured logs on standard error: one event a line, with shard and request ids as fields.

Our own code logs through structlog; what libraries log through the standard library comes out the same way.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from typing import Any, Final, Literal

import structlog

_NOISY: Final = {
    "aiokafka": logging.WARNING,
    # A missing topic is an error of ours, which says what to do; the client repeats it ten times a second.
    "aiokafka.cluster": logging.CRITICAL,
    "asyncio": logging.WARNING,
    "httpx": logging.WARNING,
}
"""Libraries that tell what we tell ourselves, or what nobody asks; and from which level on they are heard."""


_AGAIN_S: Final = 10.0
_REMEMBERED: Final = 1_000


class _OnceInAWhile(logging.Filter):
    """Lets the same words of the Kafka client through once in `_AGAIN_S`: it says for each partition, and on each try,
    what is wrong with the whole connection."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("aiokafka"):
            return True
        now, said = time.monotonic(), (record.name, record.getMessage())
        if now - self._last.get(said, -_AGAIN_S) < _AGAIN_S:
            return False
        if len(self._last) >= _REMEMBERED:
            self._last.clear()
        self._last[said] = now
        return True


def configure(log_format: Literal["auto", "console", "json"], level: str) -> None:
    """Sets logging up for the whole process; call it once, at the start of a program."""
    json = log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    ending: list[Any] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if json
        else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
        )
    )
    handler.addFilter(_OnceInAWhile())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, least in _NOISY.items():
        logging.getLogger(name).setLevel(max(least, root.level))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self.messages:
            self.messages.append(message)


@contextlib.contextmanager
def captured(name: str) -> Iterator[list[str]]:
    """What a library's logger warns of meanwhile, each once, and nothing of it on the screen."""
    logger, collector = logging.getLogger(name), _Collector()
    kept = logger.handlers[:], logger.propagate, logger.level
    logger.handlers[:], logger.propagate = [collector], False
    logger.setLevel(logging.WARNING)
    try:
        yield collector.messages
    finally:
        logger.handlers[:], logger.propagate = kept[:2]
        logger.setLevel(kept[2])
