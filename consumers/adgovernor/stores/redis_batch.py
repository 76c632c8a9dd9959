"""Commands asked for in one turn of the event loop, sent to one server together.

The shards of a worker write their states at about the same moment, because their blocks are acknowledged together. A
system call for each of them, and another for each answer, would cost more than the commands themselves.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from redis.asyncio import Redis

_AT_ONCE: Final = 16
"""Most commands in one batch: each waits for the answers of those before it."""


class Batches:
    """One server's commands. A batch is sent once; each command has its own answer or error."""

    def __init__(self, server: Redis) -> None:
        self._server = server
        self._waiting: list[tuple[tuple[Any, ...], asyncio.Future[Any]]] = []
        self._sending: set[asyncio.Task[None]] = set()

    async def execute(self, command: tuple[Any, ...]) -> Any:
        """Sends a command and gives its answer.

        Raises:
            RedisError: the server's or the connection's, as the client raises it.
            OSError: likewise.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._flush)
        self._waiting.append((command, answer))
        try:
            return await answer
        finally:
            # An error holds this frame, and its future the error: a cycle that would keep the command's bytes.
            del command, answer

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), _AT_ONCE):
            task = asyncio.create_task(self._send(waiting[start : start + _AT_ONCE]), name="redis-batch")
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _send(self, batch: list[tuple[tuple[Any, ...], asyncio.Future[Any]]]) -> None:
        try:
            answers = await self._answers([command for command, _ in batch])
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.done():
                continue  # Whoever asked has gone.
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    async def _answers(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """One answer or error for each. Knows no futures: an error holds the frame in which it was caught."""
        try:
            if len(commands) == 1:
                return [await self._server.execute_command(*commands[0])]  # type: ignore[no-untyped-call]
            pipeline = self._server.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            return await pipeline.execute(raise_on_error=False)
        except Exception as error:  # noqa: BLE001 - it is raised to everybody who asked
            return [error] * len(commands)
