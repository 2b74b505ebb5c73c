"""The memory that a process may use on this machine, and the most that it has used."""

import contextlib
import ctypes
import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")
"""What stands for / in every path read here; a test puts a tree of its own in its place."""
# glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8


@dataclass(frozen=True, slots=True)
class Memory:
    """How many bytes this device can give one process, and which limit says so (words for the log)."""

    bytes: int
    source: str


def memory_here(root: Path | None = None) -> Memory:
    """The smaller of the memory that is free on this machine and the limit of each control group this process is in.

    Args:
        root: stands for / in every path read (Linux); ROOT where it is not given.

    Returns:
        The limit and its name; where there is no /proc, the physical memory.
    """
    root = root or ROOT
    found = _free(root)
    for limit, source in [*_limits_v2(root), *_limits_v1(root)]:
        if limit < found.bytes:
            found = Memory(limit, source)
    return found


def set_allocator(pools: int, mapped_bytes: int, kept_bytes: int) -> None:
    """Set how the C library keeps memory, from now on. Linux with glibc; elsewhere it does nothing.

    Args:
        pools: Of how many the threads share.
        mapped_bytes: What is as large comes from the system by itself, and goes back to it when it is freed.
        kept_bytes: How much that is freed at a pool's end stays.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in ((_ARENA_MAX, pools), (_MMAP_THRESHOLD, mapped_bytes), (_TRIM_THRESHOLD, kept_bytes)):
            mallopt(parameter, value)


def text_of(file: Path) -> str:
    """What a file of the kernel's says, without the space around it; empty where it cannot be read."""
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""


def peak_resident() -> int:
    """The most memory that this process has held, bytes. Without /proc that includes what a large parent held when it
    started this process."""
    if peak := peak_resident_of("self"):
        return peak
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_resident_of(process: int | str) -> int:
    """The same of a process by its id, or of "self", bytes: Linux's VmHWM, which starts anew at exec. 0 where it is not
    known."""
    for line in text_of(Path(f"/proc/{process}/status")).splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _free(root: Path) -> Memory:
    # MemAvailable, not MemFree: what the page cache would give back counts. Kernels before 3.14 have only MemTotal.
    amounts = {}
    for line in text_of(root / "proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdigit():
            amounts[name] = int(words[0]) * 1024
    if "MemAvailable" in amounts:
        return Memory(amounts["MemAvailable"], "available memory")
    if "MemTotal" in amounts:
        return Memory(amounts["MemTotal"], "physical memory")
    return Memory(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "physical memory")


def _limits_v2(root: Path) -> list[tuple[int, str]]:
    """memory.max of this process's group and of each group above it: the tightest one counts."""
    for line in text_of(root / "proc/self/cgroup").splitlines():
        if line.startswith("0::"):
            # A hybrid host mounts version 2 one folder down.
            for mount in (root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"):
                if limits := _upwards(mount, line[3:], "memory.max"):
                    return limits
    return []


def _limits_v1(root: Path) -> list[tuple[int, str]]:
    for line in text_of(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number != "0" and "memory" in controllers.split(","):
            return _upwards(root / "sys/fs/cgroup/memory", path, "memory.limit_in_bytes")
    return []


def _upwards(mount: Path, path: str, file: str) -> list[tuple[int, str]]:
    # Inside a container the path may be the host's and not exist here; the mount's own root then holds the limit.
    inside = Path(path.lstrip("/"))
    groups = [inside, *inside.parents] if ".." not in inside.parts else [Path()]
    limits = []
    for group in groups:
        text = text_of(mount / group / file)
        if text.isdigit():  # "max" is no limit; version 1 says so by a number above any machine's memory
            limits.append((int(text), f"limit of control group /{'' if group == Path() else group}"))
    return limits
