"""Uploads from their first chunk until nobody needs them.

`UploadStore` owns them: who may upload and how much, which upload is whose, what is whole, and when one goes. An upload is dropped here
alone: one that its client has replaced by another, and at a round's end all but those that are being aggregated. What a contribution names,
in the state or on its way there, stays. A client may name only what it has uploaded itself: an upload's name has its client's in it. Two deltas of one
digest can be made, so a whole upload is never replaced by another of its name.

`Upload` receives one, beside the event loop: chunks queue, and one of a few threads writes them in order, and digests, measures and checks
them, while the next are on their way: when the last has come, little more than the sync is left to do. What waits in memory is bounded for
all uploads together, so the more there are, the sooner each waits (back-pressure). Whatever breaks, what was added is kept, and the upload goes
on from there.
"""

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self
from weakref import WeakValueDictionary

import numpy as np

from zowarmup.common.layout import digesting
from zowarmup.common.methods.rough import RoughLength
from zowarmup.common.methods.vector import Vector
from zowarmup.common.work import LARGEST_DELTA, Delta
from zowarmup.server import events as ev
from zowarmup.server.blob_store import ResumableUploads
from zowarmup.server.combining import uploads_of
from zowarmup.server.disk import BlobError, DiskRefused
from zowarmup.server.housekeeping import Housekeeping
from zowarmup.server.membership import revoked
from zowarmup.server.rejection import Rejected
from zowarmup.server.spool import upload_name
from zowarmup.server.state import State

THREADS = 2
BATCH_BYTES, BATCH_S = 1 << 20, 0.05
"""A thread is woken for so many bytes, or when they have waited so long."""
ROOM_BYTES = 16 << 20
"""What all uploads together may have waiting for the disk, beyond one chunk of each."""


class UploadStore:
    """The uploads of one run. Used on the event loop, but for `vector` and `norm`.

    Args:
        files: Where they are kept.
        quota_bytes: For the deltas of the round in progress, whole or not, each counted whole.
        state: The run's as it begins, or goes on.
    """

    def __init__(self, files: ResumableUploads, quota_bytes: int, state: State) -> None:
        self.files, self.receiving = files, 0
        self.threads = ThreadPoolExecutor(THREADS, thread_name_prefix="uploads")
        self._quota_bytes = quota_bytes
        self._held: dict[str, tuple[str, int]] = {}  # its upload's name, and size
        self._named = set(uploads_of(state.current).values())
        self._being_named: Counter[str] = Counter()
        self._finishing: set[str] = set()  # a thread is making them whole: they are not on the disk yet
        self._norms: dict[str, float] = {}
        self._left_over = True  # there may be what came before a restart, held by nobody
        self._calls: dict[str, asyncio.Task[object]] = {}
        self._revoked: dict[asyncio.Task[object], Rejected] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._housekeeping = Housekeeping()

    @contextlib.asynccontextmanager
    async def only(self, client: str) -> AsyncIterator[None]:
        """The client's one call about its upload. An older one, perhaps over a link that broke, is ended first, and what
        it had added is written: it is interrupted, and raises Rejected, as it does where the client is revoked."""
        task = asyncio.current_task()
        assert task is not None
        if older := self._calls.get(client):
            older.cancel()
        self._calls[client] = task
        turn = self._turns.setdefault(client, asyncio.Lock())
        try:
            async with turn:
                yield
        except asyncio.CancelledError:
            shut_out = self._revoked.get(task)
            if self._calls.get(client) is task and shut_out is None:
                raise
            task.uncancel()
            if shut_out is not None:
                raise shut_out from None
            raise Rejected("superseded", f"a newer upload of {client} has superseded this one") from None
        finally:
            self._revoked.pop(task, None)
            if self._calls.get(client) is task:
                del self._calls[client]

    async def received(self, client: str, digest: str, size_bytes: int) -> int:
        """How many bytes of the client's upload with that digest (hex) are here. Another one that it uploaded for this round is dropped.
        Raises Rejected where there is no room."""
        name = self._hold(client, digest, size_bytes)
        if self.files.has(name):
            return size_bytes
        have = self.files.received(name, size_bytes)
        if have == size_bytes:  # all of it came, and the call broke before it was whole
            async with Upload(self, name, digest, size_bytes, have) as upload:
                await upload.finish()
        return have

    def receive(self, client: str, digest: str, size_bytes: int, offset: int) -> "Upload":
        """The client's upload with that digest (hex), to go on from an offset. Another one that it uploaded for this round is dropped.
        Raises Rejected where there is no room, or other bytes are here than that offset says."""
        name = self._hold(client, digest, size_bytes)
        have = self.files.received(name, size_bytes)
        if offset != have:
            raise Rejected("offset", f"{have} bytes of this delta are here: go on from there, not {offset}")
        return Upload(self, name, digest, size_bytes, have)

    @contextlib.contextmanager
    def naming(self, client: str, digest: str) -> Iterator[None]:
        """While the client's contribution that names this delta is on its way into the state, the delta stays. Raises
        Rejected where it is not one that the client has uploaded, durably and whole."""
        name = upload_name(client, digest)
        if not self.files.has(name) or name in self._finishing:
            raise Rejected("malformed", f"{client} has not uploaded the delta it names: ask GetUpload")
        self._being_named[name] += 1
        try:
            yield
        finally:
            self._being_named -= Counter((name,))  # which forgets what nobody is naming any more

    def vector(self, name: str) -> Vector:
        """A whole upload. Raises BlobError where there is none."""
        return self.files.vector(name)

    def norm(self, name: str) -> float | None:
        """The Euclidean norm of an upload that came in whole since the coordinator started, roughly; else None."""
        return self._norms.get(name)

    def resume(self, state: State) -> int:
        """After a restart, before anyone is let in: drop what no round can use. How many files went."""
        current = state.current
        going_on = current.seeds if current is not None and not current.closed else ()
        if any(map(state.trains, going_on)):
            return 0  # they may still be resumed and named
        return self.files.sweep(set(uploads_of(current).values()))

    def __call__(self, now: float, events: Sequence[ev.Event], state: State) -> None:
        """Observe."""
        for event in events:
            if isinstance(event, ev.ClientRevoked) and (call := self._calls.get(event.client)):
                self._revoked[call] = revoked(event.client, event.reason)
                call.cancel()
            if isinstance(event, ev.Contributed) and isinstance(event.contribution, Delta):
                self._named.add(upload_name(event.client, event.contribution.digest))
        if any(isinstance(event, ev.RoundClosed | ev.RoundAbandoned | ev.Committed) for event in events):
            there_were = bool(self._held or self._named) or self._left_over
            self._named = set(uploads_of(state.current).values())
            self._left_over = there_were
            if there_were:
                with self._housekeeping.attempt("drop the uploads of rounds that are over"):
                    self.files.retain(self._kept)
                    self._left_over = False
            self._held = {client: held for client, held in self._held.items() if held[0] in self._kept}
            for name in self._norms.keys() - self._kept:
                del self._norms[name]

    def finish(self, name: str, digest: str, found: str, norm: float) -> None:
        """Make an upload whole, in a thread. Raises Rejected where it is not what its header said, DiskRefused."""
        self._finishing.add(name)
        try:
            # Two deltas of one digest can be made: the norm is that of the one that stays.
            if self.files.finish(name, digest, found):
                self._norms[name] = norm
        except DiskRefused:
            raise
        except BlobError as error:
            raise Rejected("damaged", str(error)) from error
        finally:
            self._finishing.discard(name)

    def _hold(self, client: str, digest: str, size_bytes: int) -> str:
        """The name of the client's upload with that digest, for which there is room from now on."""
        name = upload_name(client, digest)
        before, _ = self._held.get(client, (None, 0))
        taken = sum(size for _, size in self._held.values())
        if before is None and taken + size_bytes > self._quota_bytes:
            raise Rejected(
                "spool_full",
                f"{len(self._held)} deltas of this round take {taken >> 20} of the "
                f"{self._quota_bytes >> 20} MB that server.spool_mb allows: try again later",
            )
        if before is not None and before != name:
            with self._housekeeping.attempt("drop an upload that another has replaced"):
                self.files.drop_part(before)
                if before not in self._kept:
                    self.files.drop(before)
                    self._norms.pop(before, None)
        self._held[client] = name, size_bytes
        return name

    @property
    def _kept(self) -> set[str]:
        return self._named | self._being_named.keys()


class Upload:
    """The upload `name` of `size` bytes whose digest shall be `digest` (hex), of which `have` are here. Used on the event
    loop, within its context, which ends when all that was added is written."""

    def __init__(self, store: UploadStore, name: str, digest: str, size: int, have: int) -> None:
        self._store, self._files, self._name, self._digest = store, store.files, name, digest
        self._size = size
        self._have, self._taken = have, 0
        self._hash, self._norm, self._odd = digesting(), RoughLength(), b""
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
        self._store.receiving += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        """However often the call is cancelled meanwhile: whoever comes next finds nobody at work on the file."""
        self._store.receiving -= 1
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
        await self._until(ROOM_BYTES // max(1, self._store.receiving))

    async def settle(self) -> None:
        """Until all that was added is in the spool. Raises as `add`."""
        self._begin()
        await self._until(-1)

    async def finish(self) -> None:
        """Make it a whole upload, durably. Raises Rejected, and drops it, where it is not what it should be; DiskRefused."""
        await self.settle()
        self._finishing = self._loop.run_in_executor(self._store.threads, self._finish)
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
        self._store.threads.submit(self._work).add_done_callback(self._ended)

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
            self._files.begin(self._name, self._size)
        size = 0
        while chunks := self._next(size):
            size = sum(map(len, chunks))
            try:
                self._files.write(self._name, self._have, *chunks)
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
            self._take(self._files.read(self._name, self._taken, min(1 << 20, self._have - self._taken)))

    def _take(self, chunk: bytes | memoryview) -> None:
        self._taken += len(chunk)
        self._hash.update(chunk)
        chunk = self._odd + chunk if self._odd else chunk
        whole = len(chunk) - len(chunk) % 4
        chunk, self._odd = chunk[:whole], bytes(chunk[whole:])
        values = np.frombuffer(chunk, dtype="<f4")
        self._norm.add(values)

    def _finish(self) -> None:
        self._take_up()
        # No value is longer than the vector, so that few vectors need a second look.
        if not self._norm.value < LARGEST_DELTA / 2 and not self._is_moderate():
            self._files.drop_part(self._name)
            raise Rejected("too_large", f"the delta holds values that are not finite or reach {LARGEST_DELTA:g}")
        self._store.finish(self._name, self._digest, self._hash.hexdigest(), self._norm.value)

    def _is_moderate(self) -> bool:
        """Whether every value is less than LARGEST_DELTA in magnitude. NaN is not."""
        for start in range(0, self._have, 1 << 20):
            values = np.frombuffer(self._files.read(self._name, start, 1 << 20), dtype="<f4")
            if not (values.min() > -LARGEST_DELTA and values.max() < LARGEST_DELTA):
                return False
        return True
