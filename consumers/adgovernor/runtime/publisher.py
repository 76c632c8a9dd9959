"""Publishes the outputs of accepted blocks, in order, in the background."""

from __future__ import annotations

import asyncio
from collections import deque

from adgovernor.contracts.errors import Unavailable
from adgovernor.runtime.chain import Spine
from adgovernor.runtime.keyring import Keyring
from adgovernor.runtime.ports import Output
from adgovernor.runtime.world import StartOver, World


class Publisher:
    """The queue of accepted blocks whose outputs are not acknowledged. Nothing is skipped: the first failure ends
    it, and the shard is taken over again."""

    def __init__(self, world: World, spine: Spine, keyring: Keyring | None = None) -> None:
        self._world = world
        self._keyring = keyring
        self._spine = spine
        self._queue: deque[tuple[int, list[Output]]] = deque()
        self._task: asyncio.Task[None] | None = None

    @property
    def backlog(self) -> int:
        """How many accepted blocks have outputs that are not acknowledged."""
        return len(self._queue)

    def put(self, height: int, outputs: list[Output]) -> None:
        """Takes the outputs of a block that has just been accepted."""
        self._queue.append((height, outputs))
        if self._task is None or (self._task.done() and self._task.exception() is None):
            self._task = asyncio.create_task(self._run(), name=f"publish-{self._world.shard}")

    def check(self) -> None:
        """Raises `StartOver` where an output failed."""
        if self._task is not None and self._task.done():
            error = self._task.exception()
            if isinstance(error, Unavailable):
                raise StartOver("publish", str(error), claim=True) from error
            if error is not None:
                raise error

    async def drain(self, deadline_s: float) -> bool:
        """Waits until all is acknowledged; False where it is not by then."""
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=deadline_s)
        self.check()
        return not self._queue

    def discard(self) -> None:
        """Drops what is not acknowledged; what is in flight may still land."""
        self._queue.clear()
        if self._task is not None and not self._task.cancel() and not self._task.cancelled():
            self._task.exception()  # It was acted on, or nothing depends on it any more.

    async def _run(self) -> None:
        world, queue, loop = self._world, self._queue, asyncio.get_running_loop()
        try:
            while queue:
                blocks = len(queue)
                outputs = queue[0][1] if blocks == 1 else [output for _, some in queue for output in some]
                began = loop.time()
                if outputs:
                    await world.log.publish(outputs, world.settings.publish_deadline_s)
                height = queue[blocks - 1][0]
                if self._keyring is not None:
                    await self._keyring.destroy_up_to(height)
                for _ in range(blocks):
                    queue.popleft()
                self._spine.published_up_to(height)
                world.observer.published(
                    world.shard, height=height, outputs=len(outputs), seconds=loop.time() - began
                )
                world.nudge.set()
        finally:
            world.nudge.set()
