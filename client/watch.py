"""Forward passes within their time and memory, which a coordinator's program could exceed by design.

The runtime's allocator refuses what is beyond the memory. A pass beyond its time is told to end, which it does between two
operators; the event loop looks, as the thread that computes cannot. One that does not end even so, within a single operator,
can only end with the process.
"""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.amount import amount
from zowarmup.common.program import Program, ProgramMemory

LOOK_EVERY_S = 1.0
LEAST_GRACE_S = 30.0


class Overlong(Exception):
    """A forward pass has not ended in its time."""


class WatchedProgram:
    """A program whose passes are stopped after `most_s` seconds each; `memory_bytes`: what its allocator was limited to."""

    def __init__(self, program: Program, most_s: float, memory_bytes: int) -> None:
        self._program, self.most_s, self._memory_bytes = program, most_s, memory_bytes
        self.began = 0.0
        self._stopped = False

    def load(self, weights: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._program.load(weights)

    def forward(self, inputs: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """As the program's. Raises Overlong, or MemoryError where it needs more than the limit."""
        self.began = time.monotonic()
        try:
            return self._program.forward(inputs)
        except ProgramMemory:
            raise MemoryError(
                f"a forward pass takes more than the {amount(self._memory_bytes)} that this device has for it"
            ) from None
        except Exception:
            if self._stopped:
                raise Overlong(
                    f"a forward pass takes longer than the {self.most_s:g} s that this device allows"
                ) from None
            raise
        finally:
            self.began, self._stopped = 0.0, False

    def overdue_s(self) -> float:
        """For how long a pass has been going on beyond its time, seconds; at most 0 where none has."""
        began = self.began
        return time.monotonic() - began - self.most_s if began else 0.0

    def stop(self) -> None:
        self._stopped = True
        self._program.stop()


@contextlib.asynccontextmanager
async def watching(program: WatchedProgram, give_up: Callable[[str], Awaitable[None]]) -> AsyncIterator[None]:
    """Stop passes of the program that take too long. `give_up` is called with a sentence where one does not stop."""

    async def look() -> None:
        while True:
            await asyncio.sleep(min(LOOK_EVERY_S, program.most_s))
            overdue_s = program.overdue_s()
            if overdue_s > max(LEAST_GRACE_S, program.most_s):
                await give_up(
                    f"a forward pass does not end, {overdue_s:.0f} s beyond the {program.most_s:g} s that it has"
                )
            elif overdue_s > 0:
                program.stop()

    task = asyncio.create_task(look())
    try:
        yield
    finally:
        task.cancel()


def end_process(sentence: str) -> None:
    """Leave at once: a thread that computes cannot be ended."""
    print(f"zowarmup-client: {sentence}", file=sys.stderr, flush=True)
    os._exit(1)
