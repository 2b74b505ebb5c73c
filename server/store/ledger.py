"""The event log as one SQLite file, and all else that is particular to SQLite: its files, checks, copies and repairs.

One writer connection, write-ahead log, synchronous=FULL: `append` returns when the events are on disk, all of them or
none. A row is an event's number, name and fields as JSON, so an operator can read the ledger with any SQLite shell.
"""

import contextlib
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from zowarmup.common.system.files import open_given, require_regular, sync
from zowarmup.server.core import events as ev
from zowarmup.server.store.event_log import LedgerError, fenced
from zowarmup.server.store.event_rows import StoredEvent, event_of, events_of, rows_of

__all__ = ["FORMAT", "Ledger", "LedgerError"]

_WAL, _SHM = "-wal", "-shm"
_BESIDE = (_WAL, _SHM)
LONGEST_ROW = 1 << 28
"""Bytes; SQLite itself would make room for a gigabyte."""
FORMAT = 3
_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL
) STRICT
"""


class Ledger:
    """The ledger at `path`, created where there is none. `read_only` opens it beside a running coordinator. `took` is
    told the seconds of each transaction."""

    def __init__(
        self, path: Path, *, read_only: bool = False, took: Callable[[float], None] = lambda seconds: None
    ) -> None:
        self._path, self._took = path, took
        try:
            if path.exists():
                require_regular(path)
        except OSError as error:
            raise LedgerError(f"{path} cannot be opened as a ledger: {error.strerror}; {self._remedy}") from error
        try:
            if read_only:
                uri = f"{path.absolute().as_uri()}?mode=ro"
                self._db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
            else:
                self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")
            self._db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_ROW)
            (found,) = self._db.execute("PRAGMA user_version").fetchone()
            if found not in (0, FORMAT):
                raise LedgerError(
                    f"{path} has ledger format {found}, this version reads {FORMAT}: use the zowarmup that wrote it"
                )
            if not read_only and found == 0:
                self._db.execute(_SCHEMA)
                self._db.execute(f"PRAGMA user_version={FORMAT}")
        except sqlite3.Error as error:
            raise LedgerError(f"{path} cannot be opened as a ledger: {error}; {self._remedy_for(error)}") from error

    def append(self, events: Iterable[ev.Event], at: float, expected: int) -> int:
        """See `EventLog`. One synced transaction."""
        if not (rows := rows_of(events, at, expected)):
            return expected
        self._insert(rows, expected)
        return expected + len(rows)

    def write(self, rows: Iterable[StoredEvent]) -> None:
        """Write rows of another log into this one, which is empty, as they are: all of them or none. Raises LedgerError."""
        self._insert(rows, 0)

    def _insert(self, rows: Iterable[StoredEvent], expected: int) -> None:
        began = time.monotonic()
        try:
            self._db.execute("BEGIN IMMEDIATE")
            (last,) = self._db.execute("SELECT coalesce(max(id), 0) FROM events").fetchone()
            if last != expected:
                raise fenced(str(self._path), last, expected)
            values = ((row.id, row.at, row.kind, row.body) for row in rows)
            self._db.executemany("INSERT INTO events (id, at, kind, body) VALUES (?, ?, ?, ?)", values)
            self._db.execute("COMMIT")
            self._took(time.monotonic() - began)
        except (sqlite3.Error, LedgerError) as error:
            with contextlib.suppress(sqlite3.Error):
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
            if isinstance(error, LedgerError):
                raise
            raise LedgerError(f"{self._path} cannot be written: {error}; {self._remedy_for(error)}") from error

    def read(self, after: int = 0) -> Iterator[tuple[float, ev.Event]]:
        """See `EventLog`."""
        return events_of(self.rows(after), after, str(self._path), self._remedy)

    def rows(self, after: int = 0) -> Iterator[StoredEvent]:
        """See `StoredRows`."""
        try:
            for found in self._db.execute("SELECT id, at, kind, body FROM events WHERE id > ? ORDER BY id", (after,)):
                yield StoredEvent(*found)
        except sqlite3.Error as error:
            raise LedgerError(f"{self._path} cannot be read: {error}; {self._remedy_for(error)}") from error

    def decode(self, row: StoredEvent) -> ev.Event:
        """See `StoredRows`."""
        return event_of(row, str(self._path), self._remedy)

    def copy_to(self, path: Path) -> None:
        """Write all of it, as it is at one moment, to a file of its own, durably. The writer may go on meanwhile."""
        try:
            with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as copy:
                copy.execute("PRAGMA synchronous=FULL")
                self._db.backup(copy)
        except sqlite3.Error as error:
            raise LedgerError(f"{self._path} cannot be copied to {path}: {error}") from error

    def integrity(self) -> str:
        """See `StoredRows`: what SQLite finds wrong with its own file."""
        try:
            found = [text for (text,) in self._db.execute("PRAGMA integrity_check(5)")]
        except sqlite3.Error as error:
            return str(error)
        return "" if found == ["ok"] else "; ".join(found)

    def fold(self) -> None:
        """Bring everything into the one file, durably, so that its write-ahead log may go. SQLite does this so that a
        crash at any moment changes nothing. Raises LedgerError where the disk refuses."""
        try:
            busy, _, _ = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            raise LedgerError(f"{self._path} cannot be written: {error}") from error
        if busy:
            raise LedgerError(f"{self._path} is in use by another program: stop it first")

    @property
    def _remedy(self) -> str:
        return f"`zowarmup fsck {self._path.parent}` says what can be saved"

    def _remedy_for(self, error: sqlite3.Error) -> str:
        """What helps where SQLite refuses: what it calls an I/O error is most often a full disk."""
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
            return f"free space on its disk; if there is some, the disk fails, and {self._remedy}"
        if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")):
            return f"its folder must be readable and writable by this user; if it is, {self._remedy}"
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return "another program holds it: stop that, and try again"
        return self._remedy

    def close(self) -> None:
        """See `EventLog`."""
        self._db.close()


def size_bytes(path: Path) -> int:
    """What the ledger at `path` takes on disk; 0 where it does not exist."""
    found = 0
    for file in (path, path.with_name(path.name + _WAL)):
        with contextlib.suppress(OSError):
            found += file.stat().st_size
    return found


def keep_files(path: Path, folder: Path) -> None:
    """Copy the ledger's files as they are found, for SQLite writes in place."""
    for file in _files(path):
        if file.exists():
            shutil.copy2(file, folder / file.name)


def remove_files(path: Path) -> None:
    """Remove the ledger at `path`, if there is one."""
    for file in _files(path):
        file.unlink(missing_ok=True)


def remove_beside(path: Path) -> None:
    """Remove what reading has left beside a ledger that is whole in its one file."""
    for file in _files(path)[1:]:
        file.unlink(missing_ok=True)


def replace(old: Path, fresh: Path) -> None:
    """Give a new ledger, whole in its one file, the old one's name, in one step. Raises LedgerError where the old one is in
    use."""
    # Without its write-ahead log, the old file alone may be a sound ledger, and an older one: whoever starts on that
    # sweeps away the blobs of the newer versions. Beside the log, the new file would be damaged by it.
    try:
        ledger: Ledger | None = Ledger(old)
    except LedgerError:
        ledger = None  # nor does a coordinator start on it
    if ledger is not None:
        with contextlib.closing(ledger):
            ledger.fold()
    os.replace(fresh, old)
    sync(old.parent)
    remove_beside(old)
    sync(old.parent)


@contextlib.contextmanager
def readable(path: Path) -> Iterator[tuple[Path, str]]:
    """A ledger's file, and what is wrong with its length; empty where nothing is. One whose end is cut off is read from a copy that
    is filled up with zeros to the length that its head names: SQLite reads that as far as it goes."""
    with open_given(path) as file:
        head = file.read(32)
    page = int.from_bytes(head[16:18], "big")
    whole = (65536 if page == 1 else page) * int.from_bytes(head[28:32], "big")
    size = path.stat().st_size
    if not head.startswith(b"SQLite format 3") or size >= whole or whole > max(1 << 20, 64 * size):
        yield path, ""
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        for suffix in ("", _WAL):
            if (part := Path(f"{path}{suffix}")).exists():
                shutil.copy(part, f"{copy}{suffix}")
        os.truncate(copy, whole)
        yield copy, f"{path} is cut off: {size} bytes of {whole}"


def _files(path: Path) -> list[Path]:
    return [path, *(Path(f"{path}{suffix}") for suffix in _BESIDE)]
