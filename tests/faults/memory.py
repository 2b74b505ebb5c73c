"""A device with little memory: a control group of its own, where the kernel kills what needs more than there is.

Version 1 or 2 of control groups, whichever has the memory controller here; making one takes root, or a part of the
hierarchy that was handed over. Nothing of the machine is changed beyond the group, which is removed afterwards.
"""

import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SYSTEM = Path("/sys/fs/cgroup")
REMOVE_S = 10.0


class NoGroup(Exception):
    """No control group can be made here; the sentence says why."""


@dataclass(frozen=True)
class MemoryGroup:
    """A control group with `limit_bytes` of memory and no swap. What a device can take back, as cached files, counts
    only while there is room."""

    folder: Path
    limit_bytes: int

    def command(self, command: Sequence[str]) -> list[str]:
        """The command, run inside: a shell enters the group and becomes it, so all of its memory is counted here."""
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.folder / "cgroup.procs"), *command]

    @property
    def killed(self) -> int:
        """How many processes the kernel has killed here for want of memory."""
        events = self.folder / "memory.events"
        lines = (events if events.exists() else self.folder / "memory.oom_control").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


@contextmanager
def memory_group(limit_bytes: int) -> Iterator[MemoryGroup]:
    """Make a group, and remove it. Raises NoGroup."""
    folder = _parent() / f"zowarmup-{secrets.token_hex(4)}"
    try:
        folder.mkdir()
    except OSError as error:
        raise NoGroup(f"{folder} cannot be made: {error.strerror}") from error
    try:
        try:
            _limit(folder, limit_bytes)
        except OSError as error:
            raise NoGroup(f"{error.filename} cannot be written: {error.strerror}") from error
        yield MemoryGroup(folder, limit_bytes)
    finally:
        end = time.monotonic() + REMOVE_S
        while folder.exists():
            try:
                folder.rmdir()
            except OSError:  # what was killed is still being taken apart
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)


def _parent() -> Path:
    """Where a group with a memory limit can be made. Raises NoGroup."""
    if (SYSTEM / "memory" / "memory.limit_in_bytes").exists():
        return SYSTEM / "memory"
    controllers = SYSTEM / "cgroup.controllers"
    if not controllers.exists() or "memory" not in controllers.read_text().split():
        raise NoGroup(f"the kernel's memory controller is not at {SYSTEM}")
    # Only a group whose children have the controller will do: the root's do as a rule.
    if "memory" not in (SYSTEM / "cgroup.subtree_control").read_text().split():
        try:
            (SYSTEM / "cgroup.subtree_control").write_text("+memory")
        except OSError as error:
            raise NoGroup(f"{SYSTEM} does not hand the memory controller down: {error.strerror}") from error
    return SYSTEM


def _limit(folder: Path, limit_bytes: int) -> None:
    if (folder / "memory.limit_in_bytes").exists():
        (folder / "memory.limit_in_bytes").write_text(str(limit_bytes))
        swap = folder / "memory.memsw.limit_in_bytes"
    else:
        (folder / "memory.max").write_text(str(limit_bytes))
        swap, limit_bytes = folder / "memory.swap.max", 0
    if swap.exists() and os.access(swap, os.W_OK):
        swap.write_text(str(limit_bytes))
