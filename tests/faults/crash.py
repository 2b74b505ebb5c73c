"""Crashes at every write of a coordinator, in process.

A fuse counts the places at which a process could die: within and after each write of the ledger and of a blob (just
before one is just after the one that went before).
At the chosen one it keeps an image of the data directory as a kill would leave it (uncommitted pages of the write-ahead
log and torn files included) and raises Crash, which nothing in the coordinator catches.
"""

import shutil
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.logs import Logs
from zowarmup.server.core import events as ev
from zowarmup.server.store.blobs import Blobs, Draft
from zowarmup.server.store.event_log import EventLog
from zowarmup.server.store.ledger import Ledger


class Crash(BaseException):
    """The process is dead."""


class Fuse:
    """Burns at the places numbered `at`, counted from 1 over all lives of one data directory."""

    def __init__(self, data_dir: Path, at: Collection[int], logs: Logs) -> None:
        self.places: list[str] = []
        self.appends = 0
        self.image = data_dir.with_name(data_dir.name + ".image")
        self._logs = logs
        self._data_dir, self._at, self._lock = data_dir, frozenset(at), threading.RLock()
        self._burnt = False
        self.still = threading.RLock()

    def point(self, place: str, last_act: Callable[[], None] = lambda: None) -> None:
        """A place to die at, having half done `last_act`. Whatever makes or removes a file holds `still`, and every
        thread comes by here, so the image is of one moment and nobody goes on after it."""
        with self._lock:
            if self._burnt:
                raise Crash
            self.places.append(place)
            if len(self.places) not in self._at:
                return
            self._burnt = True
            with self.still:
                last_act()
                shutil.copytree(self._data_dir, self.image, ignore=shutil.ignore_patterns("*-shm"))
                self._logs.keep_image(self._data_dir)
            raise Crash(place)

    def restart(self) -> None:
        """The image becomes the data directory."""
        shutil.rmtree(self._data_dir)
        self.image.rename(self._data_dir)
        self._logs.restore(self._data_dir)
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
        if isinstance(self._log, Ledger):
            database = self._log._db
            database.execute("PRAGMA cache_size=1")  # so that uncommitted pages spill into the log
            database.execute("BEGIN IMMEDIATE")
            for _ in range(40):
                database.execute("INSERT INTO events (at, kind, body) VALUES (0, 'torn', ?)", ("torn" * 999,))


class CrashingBlobs(Blobs):
    def __init__(self, root: Path, fuse: Fuse) -> None:
        super().__init__(root)
        self._fuse = fuse

    def put(self, data: memoryview | bytes) -> str:
        torn = self._spool / ".put-torn"

        def tear() -> None:
            torn.write_bytes(bytes(data[: len(data) // 2]))

        self._fuse.point("put: torn", tear)
        with self._fuse.still:
            sha256 = super().put(data)
        self._fuse.point("put: renamed, not yet named by an event")
        return sha256

    @contextmanager
    def draft(self) -> Iterator[Draft]:
        drafting = super().draft()
        with self._fuse.still:
            draft = drafting.__enter__()
        try:
            yield draft
        finally:
            with self._fuse.still:
                drafting.__exit__(None, None, None)

    def keep(self, draft: Draft) -> str:
        self._fuse.point("keep: written, not yet a blob")
        with self._fuse.still:
            sha256 = super().keep(draft)
        self._fuse.point("keep: renamed, not yet named by an event")
        return sha256

    def lay_over(self, name: str, size_bytes: int) -> None:
        with self._fuse.still:
            super().reuse(name, size_bytes)
        self._fuse.point("lay over: after")

    def spool(self, name: str, offset: int, *chunks: bytes | memoryview) -> None:
        first = chunks[0]
        self._fuse.point("spool: torn", lambda: Blobs.spool(self, name, offset, first[: len(first) // 2]))
        with self._fuse.still:
            super().spool(name, offset, *chunks)
        self._fuse.point("spool: after")

    def finish(self, name: str, digest: str, found: str = "") -> bool:
        with self._fuse.still:
            made = super().finish(name, digest, found)
        self._fuse.point("finish: renamed, not yet named by an event")
        return made

    def spooled(self, name: str, size_bytes: int) -> int:
        with self._fuse.still:
            return super().spooled(name, size_bytes)

    def drop_part(self, name: str) -> None:
        with self._fuse.still:
            super().drop_part(name)

    def drop_upload(self, name: str) -> None:
        with self._fuse.still:
            super().drop_upload(name)

    def drop_uploads(self, named: Collection[str]) -> None:
        with self._fuse.still:
            super().drop_uploads(named)
        self._fuse.point("drop: after")

    def empty_reusable(self, keep: int = 0, size_bytes: int = 0) -> None:
        with self._fuse.still:
            super().empty_reusable(keep, size_bytes)

    def remove(self, sha256: str) -> None:
        with self._fuse.still:
            super().remove(sha256)
        self._fuse.point("remove: after")

    def sweep(self, named: Collection[str], uploads: Collection[str], spooling: bool) -> int:
        with self._fuse.still:
            swept = super().sweep(named, uploads, spooling)
        self._fuse.point("sweep: after")
        return swept
