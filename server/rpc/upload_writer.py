"""Uploads written, hashed, measured and checked as they arrive, beside the event loop.

An upload's chunks queue here, and one of a few threads takes them to the disk in order while the next are on their way:
when the last has come, little more than the sync is left to do. What waits in memory is bounded for all uploads
together, so the more there are, the sooner each is kept waiting. Whatever breaks, what was added goes to the spool,
from where the upload is taken up again.
"""

import asyncio
import contextlib
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

import numpy as np

from zowarmup.common.algorithms.vectors import ApproximateNorm
from zowarmup.common.exact.layout import digesting
from zowarmup.common.messages.values import LARGEST_DELTA
from zowarmup.server.core.errors import Rejected
from zowarmup.server.store.blobs import BlobError, Blobs, DiskRefused

THREADS = 2
BATCH_BYTES, BATCH_S = 1 << 20, 0.05
"""A thread is woken for so many bytes, or when they have waited so long."""
ROOM_BYTES = 16 << 20
"""What all uploads together may have waiting for the disk, beyond one chunk of each."""


class UploadWriter:
    """Where all uploads come in. `lengths`: the Euclidean norms of those that came in whole, roughly, by name;
    `finishing`: those that a thread is making whole, which are not on the disk yet."""

    def __init__(self, blobs: Blobs) -> None:
        self.blobs = blobs
        self.lengths: dict[str, float] = {}
        self.finishing: set[str] = set()
        self.threads = ThreadPoolExecutor(THREADS, thread_name_prefix="uploads")
        self.open = 0

    @property
    def room_bytes(self) -> int:
        """What one of the open uploads may have waiting."""
        return ROOM_BYTES // max(1, self.open)


class IncomingUpload:
    """The upload `name` of `size` bytes whose digest shall be `digest` (hex), of which `have` are here. Used on the event
    loop, within its context, which ends when all that was added is written."""

    def __init__(self, writer: UploadWriter, name: str, digest: str, size: int, have: int) -> None:
        self._writer, self._blobs, self._name, self._digest = writer, writer.blobs, name, digest
        self._size = size
        self._have, self._taken = have, 0
        self._hash, self._length, self._odd = digesting(), ApproximateNorm(), b""
        self._loop, self._lock = asyncio.get_running_loop(), threading.Lock()
        self._soon: asyncio.TimerHandle | None = None
        self._finishing: asyncio.Future[None] | None = None
        # Under the lock.
        self._waiting: list[bytes | memoryview] = []
        self._waiting_bytes = 0
        self._working = False
        self._patient: tuple[int, asyncio.Future[None]] | None = None
        self._fault: BaseException | None = None

    async def __aenter__(self) -> Self:
        self._writer.open += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        """However often the call is cancelled meanwhile: whoever comes next finds nobody at work on the file."""
        self._writer.open -= 1
        leaving, cancelled = asyncio.ensure_future(self._leave()), False
        while not leaving.done():
            try:
                await asyncio.shield(leaving)
            except asyncio.CancelledError:
                cancelled = True
        if cancelled:
            raise asyncio.CancelledError

    async def add(self, chunk: bytes | memoryview) -> None:
        """Take the next bytes; waits while too many wait. Raises what an earlier chunk met: DiskRefused or Rejected."""
        with self._lock:
            self._waiting.append(chunk)
            self._waiting_bytes += len(chunk)
        if self._waiting_bytes >= BATCH_BYTES:
            self._begin()
        elif self._soon is None:
            self._soon = self._loop.call_later(BATCH_S, self._begin)
        await self._until(self._writer.room_bytes)

    async def settle(self) -> None:
        """Until all that was added is in the spool. Raises as `add`."""
        self._begin()
        await self._until(-1)

    async def finish(self) -> None:
        """Make it a whole upload, durably. Raises Rejected, and drops it, where it is not what it should be; DiskRefused."""
        await self.settle()
        self._finishing = self._loop.run_in_executor(self._writer.threads, self._finish)
        await asyncio.shield(self._finishing)

    async def _leave(self) -> None:
        if self._finishing is not None:
            await asyncio.wait({self._finishing})
            self._finishing.exception()  # seen: whoever waited for it has it, or is gone
        with contextlib.suppress(Exception):  # it was raised before, or the upload has broken off
            await self.settle()

    def _begin(self) -> None:
        """Let a thread take what waits, if none is at it."""
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        with self._lock:
            if self._working or not self._waiting:
                return
            self._working = True
        self._writer.threads.submit(self._work).add_done_callback(self._ended)

    async def _until(self, most: int) -> None:
        """Until at most so many bytes wait; -1: until no thread is at work."""
        while True:
            with self._lock:
                if self._fault is not None:
                    raise self._fault
                if not (self._working or self._waiting) or 0 <= self._waiting_bytes <= most:
                    return
                woken = self._loop.create_future()
                self._patient = (most, woken)
            self._begin()
            await woken

    def _work(self) -> None:
        """In a thread: what waits, in order, until nothing does."""
        self._take_up()
        if not self._have:
            self._blobs.reuse(self._name, self._size)
        size = 0
        while chunks := self._next(size):
            size = sum(map(len, chunks))
            try:
                self._blobs.spool(self._name, self._have, *chunks)
            except DiskRefused:
                raise
            except BlobError as error:
                raise Rejected("offset", f"{error}: ask GetUpload, and go on from there") from error
            self._have += size
            for chunk in chunks:
                self._take(chunk)

    def _ended(self, work: "Future[None]") -> None:
        if fault := work.exception():
            with self._lock:
                self._fault = fault
                self._waiting.clear()
                self._working = False
                self._wake()

    def _next(self, done: int) -> list[bytes | memoryview]:
        """What waits, now that so many bytes more are done; they count as waiting until then."""
        with self._lock:
            chunks, self._waiting = self._waiting, []
            self._waiting_bytes -= done
            self._working = bool(chunks)
            if self._patient and (not chunks or self._waiting_bytes <= self._patient[0]):
                self._wake()
            return chunks

    def _wake(self) -> None:
        if self._patient:
            _, woken = self._patient
            self._patient = None
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(lambda: None if woken.done() else woken.set_result(None))

    def _take_up(self) -> None:
        """What an earlier call brought."""
        while self._taken < self._have:
            self._take(self._blobs.spooled_bytes(self._name, self._taken, min(1 << 20, self._have - self._taken)))

    def _take(self, chunk: bytes | memoryview) -> None:
        self._taken += len(chunk)
        self._hash.update(chunk)
        chunk = self._odd + chunk if self._odd else chunk
        whole = len(chunk) - len(chunk) % 4
        chunk, self._odd = chunk[:whole], bytes(chunk[whole:])
        values = np.frombuffer(chunk, dtype="<f4")
        self._length.add(values)

    def _finish(self) -> None:
        self._take_up()
        # No value is longer than the vector, so that few vectors need a second look.
        if not self._length.value < LARGEST_DELTA / 2 and not self._is_moderate():
            self._blobs.drop_part(self._name)
            raise Rejected("too_large", f"the delta holds values that are not finite or reach {LARGEST_DELTA:g}")
        self._writer.finishing.add(self._name)
        try:
            # Two deltas of one digest can be made: the length is that of the one that stays.
            if self._blobs.finish(self._name, self._digest, self._hash.hexdigest()):
                self._writer.lengths[self._name] = self._length.value
        except DiskRefused:
            raise
        except BlobError as error:
            raise Rejected("damaged", str(error)) from error
        finally:
            self._writer.finishing.discard(self._name)

    def _is_moderate(self) -> bool:
        """Whether every value is less than LARGEST_DELTA in magnitude. NaN is not."""
        for start in range(0, self._have, 1 << 20):
            values = np.frombuffer(self._blobs.spooled_bytes(self._name, start, 1 << 20), dtype="<f4")
            if not (values.min() > -LARGEST_DELTA and values.max() < LARGEST_DELTA):
                return False
        return True
