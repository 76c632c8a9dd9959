"""An event loop in virtual time, with processes that can be killed and stopped.

Nothing real is waited for: when no callback is ready, the clock jumps to the next timer. Every callback belongs to
the `Process` whose context it was made in (none: the world outside). A killed process's callbacks never run again,
as after SIGKILL; a stopped one's are kept and run when it is continued, as after SIGSTOP and SIGCONT.
"""

from __future__ import annotations

import asyncio
import contextvars
from asyncio import events
from collections.abc import Callable, Coroutine
from typing import Any

_PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


class Stuck(Exception):
    """The simulation does not come to an end: nothing is left to happen, or far too much happens."""


class Process:
    """Tasks that live, stop and die together."""

    def __init__(self, name: str, loop: VirtualLoop) -> None:
        self.name = name
        self.dead = False
        self._loop = loop
        self._frozen: list[Callable[[], None]] | None = None
        self._context = contextvars.copy_context()
        self._context.run(_PROCESS.set, self)
        self.tasks: list[asyncio.Task[Any]] = []

    @property
    def stopped(self) -> bool:
        """Whether it does not run at present, or never again."""
        return self._frozen is not None

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Starts a task of this process; the tasks which that one starts are the process's as well."""
        return self._loop.create_task(work, context=self._context.copy())

    def kill(self) -> None:
        """Nothing of it runs any more, not even its clean-up."""
        self.stop()
        self.dead = True

    def stop(self) -> None:
        """Keeps what would run until `resume`."""
        if self._frozen is None:
            self._frozen = []

    def resume(self) -> None:
        """Lets it run on, as if no time had passed for it. The dead stay where they are."""
        if not self.dead:
            self._thaw()

    def _thaw(self) -> None:
        kept, self._frozen = self._frozen or [], None
        for run in kept:
            run()

    def keep(self, run: Callable[[], None]) -> None:
        """Puts something off until `resume`."""
        assert self._frozen is not None
        self._frozen.append(run)

    def bury(self) -> None:
        """After the run: cancels all tasks, those of the dead, too, so that none is left pending."""
        self.dead = False
        for task in self.tasks:
            task.cancel()
        self._thaw()


class _Timer:
    """A timer's callback that respects its process."""

    __slots__ = ("args", "callback", "context", "handle", "loop", "process")

    def __init__(
        self,
        loop: VirtualLoop,
        process: Process,
        context: contextvars.Context | None,
        callback: Callable[..., Any],
        args: tuple[Any, ...],
    ) -> None:
        self.loop = loop
        self.process = process
        self.context = context
        self.callback = callback
        self.args = args
        self.handle: asyncio.TimerHandle | None = None

    def __call__(self) -> None:
        process = self.process
        if self.handle is not None and self.handle.cancelled():
            return
        if process.stopped:
            process.keep(lambda: self._again())
        else:
            self.callback(*self.args)

    def _again(self) -> None:
        self.loop.call_soon(self, context=self.context)


class _Jump:
    """Stands in for the selector: to wait is to move the clock."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        """Moves the clock by ``timeout``."""
        if timeout is None:
            raise Stuck("nothing is left that could happen")
        self._loop.advance(timeout)
        return []

    def close(self) -> None:
        """There is nothing to close."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs callbacks in the order of virtual time, the same for every run."""

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0
        self._selector = _Jump(self)
        self._clock_resolution = 1e-9
        self.outside = contextvars.Context()
        """The context of what is no process: networks, servers, the people outside."""
        self.set_task_factory(self._task)
        self.set_exception_handler(self._ignore)
        self.failures: list[str] = []
        self.over = False
        """The run has ended: nothing has an effect any more."""

    # --- What asyncio asks of a loop --------------------------------------------------------------------------

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Moves the clock on."""
        self._now_s += max(0.0, seconds)

    def _process_events(self, event_list: list[Any]) -> None:
        """There are no events but timers and callbacks."""

    def _write_to_self(self) -> None:
        """No other thread wakes this loop."""

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """See `asyncio.AbstractEventLoop.call_soon`."""
        process = _PROCESS.get() if context is None else context.get(_PROCESS, None)
        if process is not None and process.stopped:
            handle = events.Handle(callback, args, self, context)
            process.keep(lambda: self._ready.append(handle))  # type: ignore[attr-defined]
            return handle
        return super().call_soon(callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """See `asyncio.AbstractEventLoop.call_at`."""
        process = _PROCESS.get() if context is None else context.get(_PROCESS, None)
        if process is None:
            return super().call_at(when, callback, *args, context=context)
        own = contextvars.copy_context() if context is None else context
        timer = _Timer(self, process, own, callback, args)
        timer.handle = super().call_at(when, timer, context=own)
        return timer.handle

    def later(self, delay_s: float, callback: Callable[..., Any], *args: Any) -> None:
        """Calls from outside of every process, after a delay."""
        super().call_at(self._now_s + delay_s, callback, *args, context=self.outside)

    # --- Tasks ------------------------------------------------------------------------------------------------

    def _task(self, loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **options)
        context = options.get("context")
        process = _PROCESS.get() if context is None else context.get(_PROCESS, None)
        if process is not None:
            process.tasks.append(task)
        return task

    def _ignore(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # What nobody looked at any more when its owner was dropped; every engine's own end is looked at.
        error = context.get("exception")
        if error is not None and not isinstance(error, asyncio.CancelledError):
            self.failures.append(f"{context.get('message')}: {error!r}")


def current_process() -> Process | None:
    """The process that is running, None outside of all."""
    return _PROCESS.get()
