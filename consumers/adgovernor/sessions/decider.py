"""Having requests decided by the stream, from beside it: ask on one topic, hear the answer on another."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from adgovernor.contracts.decisions import Decision
from adgovernor.contracts.errors import AdGovernorError, Unavailable
from adgovernor.contracts.events import Impression, SessionUpdate
from adgovernor.contracts.requests import AdRequest
from adgovernor.publish import Publisher
from adgovernor.subscribe import Subscriber


class StreamDecider:
    """Publishes ad requests and hands each decision to whoever waits for it.

    ``publisher`` and ``decisions`` are open, and stay the caller's to close. Requests that others publish are decided
    on the same topic and passed over.
    """

    def __init__(
        self,
        publisher: Publisher,
        decisions: Subscriber[Decision],
        *,
        answer_s: float = 10.0,
    ) -> None:
        """``answer_s``: how long a decision may take."""
        self._publisher = publisher
        self._decisions = decisions
        self._answer_s = answer_s
        self._waiting: dict[str, asyncio.Future[Decision]] = {}
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._listen(), name="decisions")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait({self._task})
        if error is None and not self._task.cancelled() and (failure := self._task.exception()) is not None:
            raise failure

    async def decide(self, request: AdRequest) -> Decision:
        """Publishes a request and waits for its decision.

        Raises:
            Unavailable: when none comes in time, as for a request whose id was decided before.
        """
        if self._task is None or self._task.done():
            raise Unavailable("decisions are not listened to any more") from (
                None if self._task is None or self._task.cancelled() else self._task.exception()
            )
        name = request.request_id
        if name in self._waiting:
            raise Unavailable(f"request {name} is being decided already")
        answer: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        self._waiting[name] = answer
        try:
            async with asyncio.timeout(self._answer_s):
                await self._publisher.ad_request(request)
                return await answer
        except TimeoutError:
            raise Unavailable(
                f"no decision on request {name} within {self._answer_s:g} s; a repeated request gets none"
            ) from None
        finally:
            del self._waiting[name]

    async def tell(self, event: Impression | SessionUpdate) -> None:
        """Publishes what happened."""
        if isinstance(event, Impression):
            await self._publisher.impression(event)
        else:
            await self._publisher.user_event(event)

    async def _listen(self) -> None:
        try:
            async for decision in self._decisions:
                answer = self._waiting.get(decision.decision_id)
                if answer is not None and not answer.done():
                    answer.set_result(decision)
        except AdGovernorError as error:
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(Unavailable(f"decisions cannot be read any more: {error}"))
            raise
