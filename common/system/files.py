"""Files and folders that a person named, and the process's own.

A file that somebody named, or put where one of ours is expected, is opened without a wait and read up to a limit: a pipe
would be waited for without end, and a device such as /dev/zero has none, so only regular files will do. Every refusal is an
OSError whose `strerror` says why. A folder that a process claims is empty or its own, and closed to other users.
"""

import contextlib
import errno
import fcntl
import io
import logging
import os
import random
import stat
import time
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from zowarmup.common.text import amount

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


class Busy(Exception):
    """Another process holds the lock."""


LOOK_S = 10.0
"""How long somebody who only looks (`holder`) is waited for: far longer than a look takes on the busiest machine."""


def exclusive(path: Path) -> io.FileIO:
    """Take the lock of a file of ours, which is made if need be. What an earlier holder wrote into it is gone then.

    Returns:
        The file: closing it gives the lock back.

    Raises:
        Busy: Another process holds it. Said at once; one that only looks is waited for.
        OSError: The file cannot be opened or locked.
    """
    lock, ends_at = open_lock(path), time.monotonic() + LOOK_S
    try:
        while not _locked(lock, fcntl.LOCK_EX):
            # Who looks shares the lock with whoever else does, and so with this; who holds it shares it with nobody.
            if not _locked(lock, fcntl.LOCK_SH) or time.monotonic() > ends_at:
                raise Busy
            fcntl.flock(lock, fcntl.LOCK_UN)
            time.sleep(random.uniform(0, 0.02))  # two that start at once look at each other
        lock.truncate(0)
    except BaseException:
        lock.close()
        raise
    return lock


def _locked(file: io.FileIO | io.BufferedReader, how: int) -> bool:
    """Whether a file's lock could be taken, without waiting."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def holder(path: Path) -> str | None:
    """What the process that holds a lock (`exclusive`) has written into its file. A look keeps nobody from the lock.

    Args:
        path: The file; it may be missing.

    Returns:
        The text, which may be empty; None where nobody holds the lock.

    Raises:
        OSError: The file cannot be opened.
    """
    try:
        file = open_given(path)
    except FileNotFoundError:
        return None
    with file:
        if not _locked(file, fcntl.LOCK_SH):
            return file.read(LONGEST_WORD).decode("utf-8", errors="replace")
    return None  # and closing the file has given the lock back


LONGEST_WORD = 4096
"""Bytes that a holder writes, at most."""


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


LONGEST_TOML_BYTES = 1 << 17
DEEPEST = 16
WIDEST_BITS = 256


class TomlError(ValueError):
    """The file cannot be used; the sentence names it."""


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file that a person wrote, as a table. Raises TomlError, one sentence whatever the file holds."""
    import re  # these two load a parser, which a device without such a file does not need
    import tomllib

    part = rb"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
    # A dotted name of more parts than there may be: the parser notes each beginning of a name, so that 20 kB take 400 MB.
    long_name = re.compile(rb"(?<![^\s.\[{,])(?:%s[ \t]*\.[ \t]*){%d}" % (part, DEEPEST))
    try:
        content = read_given(path, LONGEST_TOML_BYTES)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise TomlError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if long_name.search(content):
        raise TomlError(f"{path}: is nested more than {DEEPEST} deep, and no setting is")
    try:
        found = tomllib.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise TomlError(f"{path}: is not TOML: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    except ValueError as error:  # also a number of thousands of digits, which Python does not read
        raise TomlError(f"{path}: is not TOML: {error}") from error
    except RecursionError as error:
        raise TomlError(f"{path}: is nested more than {DEEPEST} deep, and no setting is") from error
    _check_table(path, found)
    return found


def _check_table(path: Path, table: dict[str, Any]) -> None:
    """Raises TomlError where a value would be beyond those who read it: JSON, and messages."""
    values: list[Any] = [table]
    for _ in range(DEEPEST + 1):
        if any(isinstance(value, int) and value.bit_length() > WIDEST_BITS for value in values):
            raise TomlError(f"{path}: holds a whole number of more than {WIDEST_BITS} bits, and no setting is so large")
        values = [
            inner
            for value in values
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not values:
            return
    raise TomlError(f"{path}: is nested more than {DEEPEST} deep, and no setting is")


def sync(path: Path) -> None:
    """A file's content, or the names in a folder, last through a power cut. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(file: Path, content: bytes | memoryview) -> None:
    """Write a file that is there whole or not at all, mode 600. Raises OSError where the disk refuses."""
    temporary = file.with_name(file.name + ".new")
    try:
        temporary.unlink(missing_ok=True)  # a leftover may have another mode, or be no file
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as out:
            out.write(content)
        settle(temporary, file)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def settle(temporary: Path, file: Path) -> None:
    """Sync a written file and give it its name, durably. Raises OSError."""
    sync(temporary)
    temporary.rename(file)
    sync(file.parent)  # the name is data of the folder


def sync_tree(folder: Path) -> None:
    """Everything under a folder lasts through a power cut, though its own name may not. Raises OSError."""
    for where, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(Path(where, name))
        sync(Path(where))


@contextlib.contextmanager
def replacing(file: Path, ending: str = ".new") -> Iterator[Path]:
    """A path beside `file` to write to, at which nothing is. At the end of the block it becomes `file`; where the block or
    that raises, it is removed. Whoever needs it to outlast a power cut syncs it in the block."""
    partial = file.with_name(file.name + ending)
    partial.unlink(missing_ok=True)
    try:
        yield partial
        partial.replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


log = logging.getLogger(__name__)

PRIVATE = 0o077
"""The umask of processes whose files are nobody else's."""
SYSTEMS = ("lost+found", ".*")
"""What a file system, a file manager or a home directory leaves in a folder."""
NAMED = 3


def strangers(folder: Path, ours: Collection[str]) -> str:
    """The first few names in a folder that match none of our patterns, for a sentence; empty where there is none, or no
    folder. Raises OSError where it cannot be listed, NotADirectoryError where it is a file."""
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except FileNotFoundError:
        return ""
    found = [name for name in names if not any(fnmatchcase(name, pattern) for pattern in (*ours, *SYSTEMS))]
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return ", ".join(found[:NAMED]) + more


class OpenFolder(OSError):
    """A folder that is another user's and that others may write to; `strerror` has the sentence's middle."""


def make_private(folder: Path) -> None:
    """Make a folder that only this user may enter, and the folders above it as usual.

    One that exists and is this user's is closed to others, which is logged. One that is another user's, as where this
    process is root or shares a volume, stays as it is.

    Raises:
        OpenFolder: the folder is another user's, and others may write to it.
        OSError: the system refuses.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.stat()
    if found.st_uid == os.geteuid():
        if found.st_mode & PRIVATE:
            folder.chmod(stat.S_IMODE(found.st_mode) & ~PRIVATE)
            log.warning("%s could be entered by others: it is closed to them now (mode 700)", folder)
    elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OpenFolder(0, "it is another user's folder, and others can write to it", str(folder))
