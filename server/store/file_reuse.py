"""Unneeded files, kept so that the next ones of their size overwrite their blocks.

Each round of deltas brings as many bytes as the one before and drops those. A file that is written over has its blocks
on the disk and its pages in memory already: measured, that costs a third of the time of a new file, and a tenth where a
virtual machine has to ask its host for every page (docs/performance.md). What somebody still reads is never written
over: not by this process, not by another that makes a backup.
"""

import contextlib
import fcntl
import os
import signal
import threading
from pathlib import Path

from zowarmup.server.store.files import sync_folder

LEASES = hasattr(fcntl, "F_SETLEASE")
"""Linux alone says whether somebody has a file open; elsewhere none is kept."""


class ReusableFiles:
    """The files in `folder`, a bin beside those in use. Used by any thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._ready: list[tuple[int, Path]] = []

    def empty(self, keep: int = 0, size_bytes: int = 0) -> None:
        """Remove what is in the bin but for `keep` files of a size. Those may be taken from now on: that they have lost
        their old names is on disk. Takes its time: so does a large file to go."""
        with self._lock:
            self._ready.clear()
        kept: list[tuple[int, Path]] = []
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # taken meanwhile
                if LEASES and len(kept) < keep and path.stat().st_size == size_bytes:
                    kept.append((size_bytes, path))
                else:
                    path.unlink()
        if kept:
            sync_folder(self._folder)
        with self._lock:
            self._ready = kept

    def take(self, size_bytes: int, name: Path, tail: bytes = b"") -> bool:
        """Append a tail to a file of that size, which holds anything, and only then give it another name; false where
        there is none."""
        while True:
            with self._lock:
                found = next((spare for spare in self._ready if spare[0] == size_bytes), None)
                if found is None:
                    return False
                self._ready.remove(found)
            with contextlib.suppress(OSError):
                if _is_unread(found[1]):
                    if tail:
                        _append(found[1], size_bytes, tail)
                    os.replace(found[1], name)
                    return True
            with contextlib.suppress(OSError):
                found[1].unlink(missing_ok=True)


def _append(path: Path, size_bytes: int, tail: bytes) -> None:
    """Raises OSError where it is not there, or not of that size, any more."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        if os.fstat(descriptor).st_size != size_bytes or os.write(descriptor, tail) != len(tail):
            raise OSError(f"{path} is not what it was")
    finally:
        os.close(descriptor)


def _is_unread(path: Path) -> bool:
    """Whether no process has it open or mapped, nor another name for it: the system gives a lease for writing only then."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        # Whoever opens it at this very moment makes the system send a signal; by itself it takes one that would end us.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        return os.fstat(descriptor).st_nlink == 1
    except OSError:
        return False
    finally:
        os.close(descriptor)
