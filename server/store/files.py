"""Files that are written whole or not at all, and the disk's refusals as one error."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_AHEAD = 8 << 20


class BlobError(Exception):
    """A blob is missing or is not what its name says."""


class UploadError(BlobError):
    """An upload is not what its client said; the sentence names no file, and is for the client."""


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


def write(descriptor: int, offset: int, *pieces: memoryview | bytes) -> int:
    """Write one after another from an offset on; the offset behind them. What fills another so many bytes is sent on to
    the disk, so that little is left for the sync."""
    begun = offset
    for piece in pieces:
        view = memoryview(piece)
        while view:
            written = os.pwrite(descriptor, view, offset)
            offset, view = offset + written, view[written:]
    behind, before = offset // _AHEAD * _AHEAD, begun // _AHEAD * _AHEAD
    if behind > before and hasattr(os, "posix_fadvise"):
        # Begins to write these pages out; they stay in memory while they are dirty.
        os.posix_fadvise(descriptor, before, behind - before, os.POSIX_FADV_DONTNEED)
    return offset


def adopt(path: Path, name: Path) -> None:
    """Give a synced file a name that none has, durably: where the disk refuses, it has its old name again."""
    os.replace(path, name)
    try:
        sync_folder(name.parent)
    except OSError:
        with contextlib.suppress(OSError):
            os.replace(name, path)
        raise


def sync_folder(folder: Path) -> None:
    """What was renamed or removed in it is so after a power cut too."""
    _sync(folder)


def sync_tree(folder: Path) -> None:
    """Everything under a folder is there after a power cut, though its own name may not be."""
    for where, _, names in os.walk(folder, topdown=False):
        for name in names:
            _sync(Path(where, name))
        _sync(Path(where))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
