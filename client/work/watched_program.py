"""The run's program within the memory and the time of this device, which a coordinator's could exceed by design.

The runtime's allocator refuses what is beyond the memory. What is beyond its time, as it is loaded or in a forward pass, is
told to end, which it does between two operators; the event loop looks, as the thread that computes cannot. What does not end
even so, within a single operator, can only end with the process.

Code and constants that a library uses once, at import, stay resident until the kernel is short of memory. Unmapped, their
pages are the page cache's alone, and the few still in use come back from there when they are touched. A low-tier client
on digits peaks at 67 MB instead of 89, and then holds 57. And what a fetched snapshot has left free in the C library's
heap, up to 20 MB by chance, goes back as well.
"""

import asyncio
import contextlib
import ctypes
import os
import re
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.exact.replica import Replica
from zowarmup.common.models.base import Constant
from zowarmup.common.models.program import Crossing, Halt, Program, ProgramMemory, limit_memory
from zowarmup.common.text import amount

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
        self._stopped, self._turn = False, threading.Lock()

    def timed(self, what: str, compute: Callable[[], _T]) -> _T:
        """What `compute` gives, under the watch. Raises Overlong where that was stopped."""
        with self._turn:
            self.began = time.monotonic()
        try:
            return compute()
        except Exception:
            if self._stopped:
                raise Overlong(f"{what} takes longer than the {self.most_s:g} s that this device allows") from None
            raise
        finally:
            with self._turn:
                self.began, self._stopped = 0.0, False

    def overdue_s(self) -> float:
        """For how long something has been going on beyond its time, seconds; at most 0 where nothing has."""
        began = self.began
        return time.monotonic() - began - self.most_s if began else 0.0

    def stop(self) -> None:
        """End what is beyond its time, and not what has begun since somebody looked."""
        with self._turn:
            if self.overdue_s() > 0:
                self._stopped = True
                self.halt.stop()


class WatchedProgram:
    """A program of which nothing takes longer than the watch allows, nor its loading.

    Args:
        load: Loads it; ends where the Halt says so.
        watch: Over its loading and its passes.
        memory_bytes: What its allocator was limited to.

    Raises:
        Overlong: Loading takes too long. And whatever `load` raises.
    """

    def __init__(self, load: Callable[[Halt], Program], watch: Watch, memory_bytes: int) -> None:
        self._watch, self._memory_bytes = watch, memory_bytes
        self._program = watch.timed("loading the program", lambda: load(watch.halt))

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The shape of one example; None where an extent varies."""
        return self._program.shape

    @property
    def tokens(self) -> bool:
        """Whether an example is tokens."""
        return self._program.tokens

    @property
    def outputs(self) -> int:
        """How many numbers it gives for an example."""
        return self._program.outputs

    @property
    def own(self) -> frozenset[str]:
        """The tensors of the layout of which each example of a pass may have its own."""
        return self._program.own

    def load(self, weights: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._program.load(weights)

    def forward(self, inputs: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """As the program's. Raises Overlong, or MemoryError where it needs more than the limit."""
        return self._timed(lambda: self._program.forward(inputs))

    def forward_each(
        self, inputs: NDArray[Any], vectors: NDArray[np.float32], of: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """As the program's. Raises as `forward`."""
        return self._timed(lambda: self._program.forward_each(inputs, vectors, of))

    def lower(self, inputs: NDArray[Any]) -> Crossing:
        """As the program's. Raises as `forward`."""
        return self._timed(lambda: self._program.lower(inputs))

    def upper(self, inputs: NDArray[Any], crossing: Crossing) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """As the program's. Raises as `forward`."""
        return self._timed(lambda: self._program.upper(inputs, crossing))

    def _timed(self, compute: Callable[[], _T]) -> _T:
        try:
            return self._watch.timed("a forward pass", compute)
        except ProgramMemory:
            raise MemoryError(
                f"a forward pass takes more than the {amount(self._memory_bytes)} that this device has for it"
            ) from None


@contextlib.asynccontextmanager
async def watching(
    watch: Watch, give_up: Callable[[str], Awaitable[None]], least_grace_s: float = LEAST_GRACE_S
) -> AsyncIterator[None]:
    """Stop what takes too long. `give_up` is called with a sentence where it has not stopped after as long again, and
    `least_grace_s`, seconds, at least."""

    async def look() -> None:
        while True:
            await asyncio.sleep(min(LOOK_EVERY_S, watch.most_s))
            overdue_s = watch.overdue_s()
            if overdue_s > max(least_grace_s, watch.most_s):
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


_MADV_DONTNEED = 4
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r-[x-]p \S+ \S+ [1-9]\d* +/")


def release_code() -> None:
    """Unmap the resident pages of files that are mapped read-only. Linux; elsewhere it does nothing."""
    try:
        with open("/proc/self/smaps") as smaps:
            text = smaps.read()
        madvise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for entry in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", text):
        mapping = _MAPPING.match(entry)
        # Anonymous pages in such a mapping were written by the dynamic linker before it was made read-only: they are
        # nowhere else, and must stay.
        if mapping and re.search(r"^Anonymous: +0 kB$", entry, re.MULTILINE):
            start, stop = int(mapping[1], 16), int(mapping[2], 16)
            madvise(start, stop - start, _MADV_DONTNEED)


def release_heap() -> None:
    """Return the free pages of the heap. With the GNU C library; with another it does nothing."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def load_program(
    onnx: bytes,
    replica: Replica,
    threads: int,
    most_bytes: int = 0,
    halt: Halt | None = None,
    constants: Mapping[str, Constant] | None = None,
    apart: bool = False,
) -> Program:
    """The run's program over the replica's weights.

    Args:
        onnx: The program.
        replica: Its weights are bound.
        threads: To compute with.
        most_bytes: Of memory that passes may take beside the weights; 0: no limit.
        halt: Ends the loading, and passes.
        constants: The tensors of the run's base, where it has one.
        apart: Whether no pass is to have less memory for what another took (`Program`).

    Raises:
        ValueError: ONNX Runtime cannot run it.
    """
    release_heap()
    release_code()  # before ONNX Runtime is loaded, and after
    if most_bytes:
        limit_memory(most_bytes)
    program = Program(onnx, replica.layout, replica.weights, threads, halt, constants, apart)
    release_code()
    return program
