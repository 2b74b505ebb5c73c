"""Files written so that they are whole or not there, and the disk's refusals as one error."""

import contextlib
import os
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

_AHEAD = 8 << 20


class BlobError(Exception):
    """A blob is missing or is not what its name says."""


class DiskRefused(BlobError):
    """The disk cannot take it now: it is full, or failing. Nothing has changed; trying again may help."""


@contextlib.contextmanager
def disk(path: Path, leave: bool = True) -> Iterator[None]:
    """The system's refusals as DiskRefused; what was half written goes where it is of no use (`leave` is false)."""
    try:
        yield
    except OSError as error:
        if not leave:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        raise DiskRefused(f"{path} cannot be written: {error.strerror or error}") from error


def write(file: FileIO, offset: int, data: memoryview | bytes) -> None:
    """At the offset. What fills another so many bytes is sent on to the disk, so that little is left for the sync."""
    file.seek(offset)
    view, written = memoryview(data), 0
    while written < len(view):
        written += file.write(view[written:])
    behind = (offset + len(view)) // _AHEAD * _AHEAD
    if behind > offset and hasattr(os, "posix_fadvise"):
        # Begins to write these pages out; they stay in memory while they are dirty.
        os.posix_fadvise(file.fileno(), max(0, behind - _AHEAD), _AHEAD, os.POSIX_FADV_DONTNEED)


def adopt(path: Path, name: Path) -> None:
    """Give a synced file its name, durably."""
    os.replace(path, name)
    sync_folder(name.parent)


def sync_folder(folder: Path) -> None:
    """What was renamed or removed in it is so after a power cut too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
