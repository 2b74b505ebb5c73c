"""Programs within their time and memory, which a coordinator's could exceed by design, as it is loaded or in a forward pass.

The runtime's allocator refuses what is beyond the memory. What is beyond its time is told to end, which it does between two
operators; the event loop looks, as the thread that computes cannot. What does not end even so, within a single operator,
can only end with the process.
"""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.models.program import Halt, Program, ProgramMemory
from zowarmup.common.units import amount

_T = TypeVar("_T")
LOOK_EVERY_S = 1.0
LEAST_GRACE_S = 30.0


class Overlong(Exception):
    """Something has not ended in its time."""


class Watch:
    """The time that one thing at a time takes, which another thread sees: at most `most_s` seconds each."""

    def __init__(self, most_s: float) -> None:
        self.most_s, self.halt = most_s, Halt()
        self.began = 0.0
        self._stopped = False

    def timed(self, what: str, compute: Callable[[], _T]) -> _T:
        """What `compute` gives, under the watch. Raises Overlong where that was stopped."""
        self.began = time.monotonic()
        try:
            return compute()
        except Exception:
            if self._stopped:
                raise Overlong(f"{what} takes longer than the {self.most_s:g} s that this device allows") from None
            raise
        finally:
            self.began, self._stopped = 0.0, False

    def overdue_s(self) -> float:
        """For how long something has been going on beyond its time, seconds; at most 0 where nothing has."""
        began = self.began
        return time.monotonic() - began - self.most_s if began else 0.0

    def stop(self) -> None:
        self._stopped = True
        self.halt.stop()


class WatchedProgram:
    """A program of which nothing takes longer than the watch allows, nor its loading. `memory_bytes`: what its allocator was
    limited to. Raises Overlong, or what `load` raises."""

    def __init__(self, load: Callable[[Halt], Program], watch: Watch, memory_bytes: int) -> None:
        self._watch, self._memory_bytes = watch, memory_bytes
        self._program = watch.timed("loading the program", lambda: load(watch.halt))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self._program.shape

    @property
    def outputs(self) -> int:
        """How many numbers it gives for an example."""
        return self._program.outputs

    def load(self, weights: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._program.load(weights)

    def forward(self, inputs: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """As the program's. Raises Overlong, or MemoryError where it needs more than the limit."""
        try:
            return self._watch.timed("a forward pass", lambda: self._program.forward(inputs))
        except ProgramMemory:
            raise MemoryError(
                f"a forward pass takes more than the {amount(self._memory_bytes)} that this device has for it"
            ) from None


@contextlib.asynccontextmanager
async def watching(watch: Watch, give_up: Callable[[str], Awaitable[None]]) -> AsyncIterator[None]:
    """Stop what takes too long. `give_up` is called with a sentence where it does not stop."""

    async def look() -> None:
        while True:
            await asyncio.sleep(min(LOOK_EVERY_S, watch.most_s))
            overdue_s = watch.overdue_s()
            if overdue_s > max(LEAST_GRACE_S, watch.most_s):
                await give_up(f"the program does not end, {overdue_s:.0f} s beyond the {watch.most_s:g} s that it has")
            elif overdue_s > 0:
                watch.stop()

    task = asyncio.create_task(look())
    try:
        yield
    finally:
        task.cancel()


def end_process(sentence: str) -> None:
    """Leave at once: a thread that computes cannot be ended."""
    print(f"zowarmup-client: {sentence}", file=sys.stderr, flush=True)
    os._exit(1)
