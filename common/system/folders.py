"""Folders that a process makes its own: empty ones, or those that it has used before. A stranger's files are left alone."""

from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path

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
