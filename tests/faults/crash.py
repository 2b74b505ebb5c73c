"""Crashes at every write of a coordinator, in process.

A fuse counts the places at which a process could die: within and after each write of the ledger and of a blob (just
before one is just after the one that went before).
At the chosen one it keeps an image of the data directory as a kill would leave it (uncommitted pages of the write-ahead
log and torn files included) and raises Crash, which nothing in the coordinator catches.
"""

import contextlib
import shutil
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from tests.faults.backends import Backend, PostgresLifeLog, Stores
from zowarmup.server.core import events as ev
from zowarmup.server.store.blobs import BlobStore, OpenBlob, UploadError
from zowarmup.server.store.event_log import EventLog
from zowarmup.server.store.ledger import Ledger

CHANGES = ("write: torn", "write: after", "finish: renamed, not yet named by an event", "delete: after")
KEEP, SWEEP = "blobs keep: written, not yet a blob", "blobs sweep: after"
PLACES = {
    "append: within",
    "append: after",
    KEEP,
    SWEEP,
    *(f"{kind} {what}" for kind in ("blobs", "uploads") for what in CHANGES),
}
"""All there are: a test fails where an undisturbed run does not come by one of them."""


class Crash(BaseException):
    """The process is dead."""


class Fuse:
    """Burns at the places numbered `at`, counted from 1 over all lives of one data directory."""

    def __init__(self, data_dir: Path, at: Collection[int], backend: Backend) -> None:
        self.places: list[str] = []
        self.appends = 0
        self.image = data_dir.with_name(data_dir.name + ".image")
        self._backend = backend
        self._data_dir, self._at, self._lock = data_dir, frozenset(at), threading.RLock()
        self._burnt = False
        self.still = threading.RLock()

    def point(self, place: str, last_act: Callable[[], None] = lambda: None) -> None:
        """A place to die at, having half done `last_act`. Whatever makes or removes a file holds `still`, and every
        thread comes by here, so the image is of one moment and nobody goes on after it."""
        with self._lock:
            if self._burnt:
                raise Crash
            assert place in PLACES, place
            self.places.append(place)
            if len(self.places) not in self._at:
                return
            self._burnt = True
            with self.still:
                last_act()
                shutil.copytree(self._data_dir, self.image, ignore=shutil.ignore_patterns("*-shm"))
                self._backend.keep_image(self._data_dir)
            raise Crash(place)

    def restart(self) -> None:
        """The image becomes the data directory."""
        shutil.rmtree(self._data_dir)
        self.image.rename(self._data_dir)
        self._backend.restore(self._data_dir)
        self._burnt = False


class CrashingLog:
    """An event log whose appends are places to die at."""

    def __init__(self, log: EventLog, fuse: Fuse) -> None:
        self._log, self._fuse = log, fuse

    def append(self, events: Iterable[ev.Event], at: float, expected: int) -> int:
        events = list(events)
        if not any(map(ev.is_durable, events)):
            return expected
        self._fuse.appends += 1
        self._fuse.point("append: within", self._half_append)
        with self._fuse.still:
            end = self._log.append(events, at, expected)
        self._fuse.point("append: after")
        return end

    def read(self, after: int = 0) -> Iterator[tuple[float, ev.Event]]:
        return self._log.read(after)

    def close(self) -> None:
        self._log.close()

    def _half_append(self) -> None:
        """In memory there is no half of it."""
        if isinstance(self._log, PostgresLifeLog):
            self._log.half_append()
        if isinstance(self._log, Ledger):
            database = self._log._db
            database.execute("PRAGMA cache_size=1")  # so that uncommitted pages spill into the log
            database.execute("BEGIN IMMEDIATE")
            for _ in range(40):
                database.execute("INSERT INTO events (at, kind, body) VALUES (0, 'torn', ?)", ("torn" * 999,))


class CrashingBlobs(BlobStore):
    """Blobs whose changes are places to die at; `kind` begins these places' names."""

    def __init__(self, blobs: BlobStore, kind: str, fuse: Fuse) -> None:
        self._blobs, self._kind, self._fuse = blobs, kind, fuse

    def names(self) -> set[str]:
        return self._blobs.names()

    def has(self, name: str) -> bool:
        return self._blobs.has(name)

    def open(self, name: str) -> OpenBlob:
        return self._blobs.open(name)

    def parts(self) -> set[str]:
        return self._blobs.parts()

    def received(self, part: str) -> int:
        return self._blobs.received(part)

    def read_part(self, part: str, offset: int, count: int) -> bytes:
        return self._blobs.read_part(part, offset, count)

    def write(self, part: str, offset: int, *chunks: bytes | memoryview) -> None:
        if not chunks:
            with self._fuse.still:
                return self._blobs.write(part, offset)
        first = chunks[0]

        def tear() -> None:
            with contextlib.suppress(UploadError):  # it has been dropped: there is nothing to tear
                self._blobs.write(part, offset, first[: len(first) // 2])

        self._point("write: torn", tear)
        with self._fuse.still:
            self._blobs.write(part, offset, *chunks)
        self._point("write: after")

    def finish(self, part: str, name: str) -> bool:
        with self._fuse.still:
            made = self._blobs.finish(part, name)
        self._point("finish: renamed, not yet named by an event")
        return made

    def keep(self, part: str) -> str:
        self._fuse.point(KEEP)
        return super().keep(part)

    def sweep(self, named: Collection[str]) -> int:
        swept = super().sweep(named)
        self._fuse.point(SWEEP)
        return swept

    def drop(self, part: str) -> None:
        with self._fuse.still:
            self._blobs.drop(part)

    def delete(self, name: str) -> None:
        with self._fuse.still:
            self._blobs.delete(name)
        self._point("delete: after")

    def free(self) -> None:
        with self._fuse.still:
            self._blobs.free()

    def _point(self, place: str, last_act: Callable[[], None] = lambda: None) -> None:
        self._fuse.point(f"{self._kind} {place}", last_act)


def crashing(stores: Stores, fuse: Fuse) -> Stores:
    """Stores whose changes are places to die at."""
    blobs, uploads = CrashingBlobs(stores.blobs, "blobs", fuse), CrashingBlobs(stores.uploads, "uploads", fuse)
    return Stores(CrashingLog(stores.log, fuse), blobs, uploads)
