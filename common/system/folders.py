"""Folders that a process claims: empty ones or its own, closed to other users; a stranger's files are left alone."""

import logging
import os
import stat
from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path

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
