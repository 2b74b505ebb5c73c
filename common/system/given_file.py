"""Files that a person named, or put where one of ours is expected: opened without a wait, and read up to a limit.

A pipe would be waited for without end, and a device such as /dev/zero has none, so only regular files will do. Every refusal
is an OSError whose `strerror` says why.
"""

import errno
import io
import os
import stat
from pathlib import Path

from zowarmup.common.units import amount

LONGEST_BYTES = 1 << 20
_PIECE_BYTES = 1 << 16
_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def special(mode: int) -> str:
    """What a file of this mode is, where it is neither a regular file nor a folder; else nothing."""
    return next((name for found, name in _KINDS if found(mode)), "")


def require_regular(path: Path) -> None:
    """For a library that opens the file itself. Raises OSError where it is not a regular file, or not there."""
    _check(os.stat(path).st_mode, path)


def open_given(path: Path) -> io.BufferedReader:
    """Open a file to read it. Raises OSError."""
    return open(path, "rb", opener=_regular)


def read_given(path: Path, longest: int = LONGEST_BYTES) -> bytes:
    """The content of a small file.

    Args:
        path: the file.
        longest: the limit, in bytes.

    Raises:
        OSError: it cannot be read, is no regular file, or is larger.
    """
    with open_given(path) as file:
        size = os.fstat(file.fileno()).st_size
        pieces, held = list[bytes](), 0
        while held <= longest >= size:
            # Not up to the limit at once: so much memory would be taken first, however short the file is.
            piece = file.read(_PIECE_BYTES if held else size + 1)
            if piece is None:  # a file of the kernel's that has nothing to say yet
                raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(path))
            if not piece:
                return b"".join(pieces)
            pieces.append(piece)
            held += len(piece)
    raise OSError(errno.EFBIG, f"it has {amount(max(size, longest + 1))} and may have {amount(longest)}", str(path))


def open_lock(path: Path) -> io.FileIO:
    """A file of ours to hold a lock on, made if need be. Raises OSError."""
    return open(path, "r+b", buffering=0, opener=_lockable)


def _lockable(path: str, flags: int) -> int:
    return _regular(path, flags | os.O_CREAT)


def _regular(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY, 0o666)
    try:
        _check(os.fstat(descriptor).st_mode, path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _check(mode: int, path: Path | str) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if found := special(mode):
        raise OSError(errno.EINVAL, f"it is {found}, and must be a regular file", str(path))
