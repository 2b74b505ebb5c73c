"""The event loop on which everything of this process runs, in a thread of its own.

One loop for all: gRPC's have to share what they are woken by, and wake each other for nothing. It starts when it is first
needed and ends with the process. What runs on it is a `BackgroundTask`, for which callers wait in their own threads.
"""

import asyncio
import atexit
import concurrent.futures
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")
LEAVE_S = 10.0
"""How long an orderly end may take that nobody waits for in particular."""
_lock = threading.Lock()
_running: "tuple[int, asyncio.AbstractEventLoop, threading.Thread] | None" = None


def loop() -> asyncio.AbstractEventLoop:
    """The loop, started if it is not there. A process that was forked from another has one of its own."""
    global _running
    with _lock:
        if _running is None or _running[0] != os.getpid():
            made = asyncio.new_event_loop()
            thread = threading.Thread(target=made.run_forever, name="zowarmup", daemon=True)
            thread.start()
            if _running is None:
                atexit.register(_end)
            _running = os.getpid(), made, thread
        return _running[1]


def _end() -> None:
    """At the end of the process: what still runs is cancelled, and has a moment for its own end."""
    if _running is None or _running[0] != os.getpid():
        return
    _, ending, thread = _running

    async def leave() -> None:
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        if rest:
            await asyncio.wait(rest, timeout=LEAVE_S)
        ending.stop()

    ending.call_soon_threadsafe(lambda: ending.create_task(leave()))
    thread.join(LEAVE_S + 1)


class BackgroundTask(Generic[T]):
    """A coroutine at work on the loop. What it raises is raised by `wait`.

    Args:
        work: The coroutine.
        stop: Asks it to end in order, on the loop; without one it is cancelled.
    """

    def __init__(self, work: Coroutine[Any, Any, T], stop: Callable[[], None] | None = None) -> None:
        self._stop = stop
        self._over: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._task: asyncio.Task[T] | None = None
        self._loop = loop()
        self._loop.call_soon_threadsafe(self._start, work)

    def _start(self, work: Coroutine[Any, Any, T]) -> None:
        self._task = self._loop.create_task(work)
        self._task.add_done_callback(self._settle)

    def _settle(self, task: "asyncio.Task[T]") -> None:
        if task.cancelled():
            self._over.cancel()
            self._over.set_running_or_notify_cancel()
        elif (error := task.exception()) is not None:
            self._over.set_exception(error)
        else:
            self._over.set_result(task.result())

    @property
    def done(self) -> bool:
        return self._over.done()

    @property
    def error(self) -> BaseException | None:
        """What it raised; None where it has not ended so."""
        return None if not self._over.done() or self._over.cancelled() else self._over.exception()

    def ended(self, within_s: float) -> bool:
        """Wait for its end, for at most so many seconds; whether it has ended."""
        return bool(concurrent.futures.wait([self._over], within_s).done)

    def wait(self, timeout_s: float | None = None) -> T:
        """Its result. Raises what it raised, TimeoutError where it takes longer, and CancelledError of
        `concurrent.futures` where it was cancelled."""
        return self._over.result(timeout_s)

    def end(self, within_s: float = LEAVE_S) -> None:
        """Ask it to end, and wait until it has: `within_s`, seconds, and then it is cancelled."""
        if self._over.done():
            return
        if self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop)
            concurrent.futures.wait([self._over], within_s)
        if not self._over.done():
            self._loop.call_soon_threadsafe(self._cancel)
            concurrent.futures.wait([self._over], within_s)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()


def now(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine on the loop; Ctrl-C cancels it."""
    task = BackgroundTask(work)
    try:
        return task.wait()
    except BaseException:
        task.end()
        raise
