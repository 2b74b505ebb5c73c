"""Uploads from their first chunk until nobody needs them.

`UploadStore` owns them: how much may be uploaded, which upload is whose, what is whole, and when one goes. Only here are
uploads dropped: one that its client has replaced by another, and at a round's end all that are for it or an earlier one, but
those that are being aggregated. What a contribution names, in the state or on its way there, stays. A client may name only what
it has uploaded itself: an upload's name has its client's in it. Two deltas of one digest can be made, so a whole upload is never
replaced by another of its name.

What is for a later round is never dropped: where several coordinators serve a run, its client may have begun it before this one
has heard of that round.

`Upload` receives one beside the event loop: chunks queue, and one of a few threads writes, hashes, measures and checks them in
order while the next are on their way. When the last has come, little more than the sync is left to do. What waits in memory is
bounded for all uploads together, so the more there are, the sooner each waits (back-pressure). Whatever breaks, what was added
is written, and the upload is resumed from there.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import numpy as np

from zowarmup.common.algorithms.vectors import ApproximateNorm
from zowarmup.common.exact.layout import digesting
from zowarmup.common.messages.values import LARGEST_DELTA, Computation, Delta
from zowarmup.server.core import events as ev
from zowarmup.server.core.contributions import is_over, last_over, upload_name, uploads_of
from zowarmup.server.core.errors import Rejected
from zowarmup.server.core.state import State
from zowarmup.server.store.blobs import PIECE, BlobStore, BlobVector, UploadError
from zowarmup.server.store.housekeeping import Housekeeping

THREADS = 2
BATCH_BYTES, BATCH_S = 1 << 20, 0.05
"""A thread is woken for so many bytes, or when they have waited so long."""
ROOM_BYTES = 16 << 20
"""What all uploads together may have waiting for the disk, beyond one chunk of each."""


class UploadStore:
    """The uploads of one run. Used on the event loop, but for `vector`, `norm` and `add`.

    Args:
        store: Where they are kept, and nothing else is.
        quota_bytes: For the deltas of the round in progress, whole or not, each counted whole.
        state: The run's as it begins, or goes on.
        room_bytes: So much may wait for the disk, of all uploads together.
    """

    def __init__(self, store: BlobStore, quota_bytes: int, state: State, *, room_bytes: int = ROOM_BYTES) -> None:
        self.store, self._quota_bytes = store, quota_bytes
        self.threads = ThreadPoolExecutor(THREADS, thread_name_prefix="uploads")
        self.receiving, self.room_bytes = 0, room_bytes
        self._held: dict[str, tuple[str, int]] = {}  # its upload's name, and size
        self._named = set(uploads_of(state.current).values())
        self._being_named: Counter[str] = Counter()
        self._finishing: set[str] = set()  # a thread makes them whole: they are not on the disk yet
        self._norms: dict[str, float] = {}
        self._left_over = True  # there may be what came before a restart, held by nobody
        self._housekeeping = Housekeeping()

    def resume(self, state: State) -> int:
        """After a restart, before anyone is let in: drop what no round can use. How many files went."""
        return self._drop_through(last_over(state))

    async def received(self, client: str, round: int, digest: str, size_bytes: int) -> int:
        """How many bytes of the client's upload for that round with that digest (hex) are here. Another one that it uploaded
        here for this round is dropped. Raises Rejected where there is no room."""
        name = self._hold(client, round, digest, size_bytes)
        if self.store.has(name):
            return size_bytes
        if (have := self._have(name, size_bytes)) == size_bytes:  # the call broke before the upload was whole
            async with Upload(self, name, digest, have) as upload:
                await upload.finish()
        return have

    def receive(self, client: str, round: int, digest: str, size_bytes: int, offset: int) -> "Upload":
        """The client's upload for that round with that digest (hex), to be resumed from an offset. Raises as `received`, and
        where another number of bytes is here."""
        name = self._hold(client, round, digest, size_bytes)
        if (have := self._have(name, size_bytes)) != offset:
            raise Rejected("offset", f"{have} bytes of this delta are here: go on from there, not {offset}")
        return Upload(self, name, digest, have)

    @contextlib.contextmanager
    def naming(self, client: str, round: int, digest: str) -> Iterator[None]:
        """While the client's contribution that names this delta is on its way into the state, the delta stays. Raises
        Rejected where it is not one that the client has uploaded, durably and whole."""
        name = upload_name(client, round, digest)
        if not self.store.has(name) or name in self._finishing:
            raise Rejected("malformed", f"{client} has not uploaded the delta it names: ask GetUpload")
        self._being_named[name] += 1
        try:
            yield
        finally:
            self._being_named -= Counter((name,))  # which forgets what nobody is naming any more

    def vector(self, name: str) -> BlobVector:
        """A whole upload. Raises BlobError where there is none."""
        return self.store.vector(name)

    def norm(self, name: str) -> float | None:
        """The Euclidean norm of an upload that came in whole since the coordinator started, approximately; else None."""
        return self._norms.get(name)

    def finish(self, name: str, digest: str, found: str, norm: float) -> None:
        """Make an upload whole that has the digest `found`, in a thread. Raises UploadError, and drops it, where that is not
        `digest`; DiskRefused."""
        self._finishing.add(name)
        try:
            if found != digest:
                self.store.drop(name)
                raise UploadError(f"the upload's digest is {found}, its header said {digest}: send it again")
            if self.store.finish(name, name):  # the norm is that of the one that stays
                self._norms[name] = norm
        finally:
            self._finishing.discard(name)

    def __call__(self, now: float, events: Sequence[ev.Event], state: State) -> None:
        """Observe."""
        for event in events:
            match event:
                case ev.RoundOpened():
                    trains = (state.rules.computation(tier) is Computation.TRAINING for tier in state.tiers)
                    self._left_over |= any(trains)
                case ev.Contributed(client, Delta() as delta):
                    self._named.add(upload_name(client, delta.round, delta.digest))
                case ev.RoundClosed() | ev.RoundAbandoned() | ev.Committed():
                    self._end(event.round, state)

    def _end(self, ended: int, state: State) -> None:
        """A round is over, but for those of its uploads that are being aggregated."""
        self._named = set(uploads_of(state.current).values())
        if self._left_over:
            with self._housekeeping.attempt("drop the uploads of rounds that are over"):
                self._drop_through(ended)
                self._left_over = bool(self._kept)
        self._held = {client: held for client, held in self._held.items() if not self._is_over(held[0], ended)}
        self._norms = {name: norm for name, norm in self._norms.items() if not self._is_over(name, ended)}

    def _hold(self, client: str, round: int, digest: str, size_bytes: int) -> str:
        """The name of the client's upload with that digest, for which there is room from now on."""
        name = upload_name(client, round, digest)
        before, _ = self._held.get(client, (name, 0))
        taken = sum(size for _, size in self._held.values())
        if client not in self._held and taken + size_bytes > self._quota_bytes:
            raise Rejected(
                "uploads_full",
                f"{len(self._held)} deltas of this round take {taken >> 20} of the "
                f"{self._quota_bytes >> 20} MB that server.uploads_mb allows: try again later",
            )
        if before != name:
            with self._housekeeping.attempt("drop an upload that another has replaced"):
                self._drop({before} - self._kept, [before])
        self._held[client] = name, size_bytes
        return name

    def _have(self, name: str, size_bytes: int) -> int:
        if (have := self.store.received(name)) > size_bytes:
            self.store.drop(name)
            return 0
        return have

    def _drop_through(self, ended: int) -> int:
        """What is over with the round `ended`; how many."""
        names = {name for name in self.store.names() if self._is_over(name, ended)}
        parts = {part for part in self.store.parts() if self._is_over(part, ended)}
        self._drop(names, parts)
        return len(names) + len(parts)

    def _is_over(self, name: str, ended: int) -> bool:
        return is_over(name, ended, self._kept)

    def _drop(self, names: Collection[str], parts: Collection[str]) -> None:
        for name in names:
            self.store.delete(name)
            self._norms.pop(name, None)
        for part in parts:
            self.store.drop(part)
        if names or parts:
            self.threads.submit(self._free)

    def _free(self) -> None:
        with self._housekeeping.attempt("remove uploads that are no longer needed"):
            self.store.free()

    @property
    def _kept(self) -> set[str]:
        return self._named | self._being_named.keys()


class Upload:
    """The upload `name` whose digest shall be `digest` (hex), of which `have` bytes are here. Used on the event loop, within
    its context, which ends when all that was added is written."""

    def __init__(self, uploads: UploadStore, name: str, digest: str, have: int) -> None:
        self._uploads, self._store, self._name, self._digest = uploads, uploads.store, name, digest
        self._have, self._checked = have, 0
        self._hash, self._norm, self._odd = digesting(), ApproximateNorm(), b""
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._queue: list[bytes | memoryview] = []
        self._waiting_bytes = 0  # in the queue, or with the thread
        self._work: asyncio.Future[None] | None = None  # what a thread is doing
        self._fault: BaseException | None = None

    async def __aenter__(self) -> Self:
        self._uploads.receiving += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        """However often the call is cancelled meanwhile: whoever comes next finds nobody at work on the file."""
        self._uploads.receiving -= 1
        leaving, cancelled = asyncio.ensure_future(self._written(0)), False
        while not leaving.done():
            try:
                await asyncio.wait({leaving})
            except asyncio.CancelledError:
                cancelled = True
        leaving.exception()  # it was raised before, or the upload has broken off
        if cancelled:
            raise asyncio.CancelledError

    async def add(self, chunk: bytes | memoryview) -> None:
        """Take the next bytes; waits while too many wait. Raises what an earlier chunk met: DiskRefused or Rejected."""
        if self._fault is None:
            self._queue.append(chunk)
            self._waiting_bytes += len(chunk)
        self._begin_soon()
        await self._written(self._uploads.room_bytes // max(1, self._uploads.receiving))

    async def settle(self) -> None:
        """Until all that was added is written. Raises as `add`."""
        await self._written(0)

    async def finish(self) -> None:
        """Make it a whole upload, durably. Raises Rejected, and drops it, where it is not what it should be; DiskRefused."""
        await self._written(0)
        self._hand_over(self._loop.run_in_executor(self._uploads.threads, self._finish), 0)
        await self._written(0)

    async def _written(self, most: int) -> None:
        """Until at most so many bytes wait; 0: and no thread is at work."""
        while self._fault is None and (self._waiting_bytes > most or (self._work and not most)):
            self._begin()
            assert self._work is not None
            await asyncio.wait({self._work})
        if self._fault is not None:
            raise self._fault

    def _begin_soon(self) -> None:
        if self._waiting_bytes >= BATCH_BYTES:
            self._begin()
        elif self._queue and self._timer is None:
            self._timer = self._loop.call_later(BATCH_S, self._begin)

    def _begin(self) -> None:
        """Let a thread write what waits, if none is at it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._work is None and self._queue:
            chunks, self._queue = self._queue, []
            size = sum(map(len, chunks))
            self._hand_over(self._loop.run_in_executor(self._uploads.threads, self._write, chunks), size)

    def _hand_over(self, work: "asyncio.Future[None]", size: int) -> None:
        def ended(work: "asyncio.Future[None]") -> None:
            self._work = None
            self._waiting_bytes -= size
            if (fault := work.exception()) is not None:
                self._fault, self._queue, self._waiting_bytes = fault, [], 0
            self._begin_soon()

        self._work = work
        work.add_done_callback(ended)

    def _write(self, chunks: list[bytes | memoryview]) -> None:
        """In a thread."""
        self._check_written()
        try:
            self._store.write(self._name, self._have, *chunks)
        except UploadError as error:
            raise Rejected("offset", f"{error}: ask GetUpload, and go on from there") from error
        while chunks:  # each is free once it is read
            self._have += len(chunks[0])
            self._check(chunks.pop(0))

    def _check_written(self) -> None:
        """Hash and measure what an earlier call brought."""
        while self._checked < self._have:
            self._check(self._store.read_part(self._name, self._checked, min(PIECE, self._have - self._checked)))

    def _check(self, chunk: bytes | memoryview) -> None:
        self._checked += len(chunk)
        self._hash.update(chunk)
        chunk = self._odd + chunk if self._odd else chunk
        whole = len(chunk) - len(chunk) % 4
        self._norm.add(np.frombuffer(chunk[:whole], dtype="<f4"))
        self._odd = bytes(chunk[whole:])

    def _finish(self) -> None:
        """In a thread."""
        try:
            self._check_written()
            # No value is longer than the vector, so that few vectors need a second look.
            if not self._norm.value < LARGEST_DELTA / 2 and not self._is_moderate():
                self._store.drop(self._name)
                raise Rejected("too_large", f"the delta holds values that are not finite or reach {LARGEST_DELTA:g}")
            self._uploads.finish(self._name, self._digest, self._hash.hexdigest(), self._norm.value)
        except UploadError as error:
            raise Rejected("damaged", str(error)) from error

    def _is_moderate(self) -> bool:
        """Whether every value is less than LARGEST_DELTA in magnitude. NaN is not."""
        for start in range(0, self._have, PIECE):
            values = np.frombuffer(self._store.read_part(self._name, start, PIECE), dtype="<f4")
            if not (values.min() > -LARGEST_DELTA and values.max() < LARGEST_DELTA):
                return False
        return True
