"""Which tier this device can carry.

The coordinator measured, on the run's own model, the peak resident memory of one round of each tier's work. A device
that has as much, control-group limits included, and has torch installed takes the high tier; torch is only looked
for, never imported, since importing it costs more memory than a low-tier client uses in all.
"""

import importlib.util
import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

from zowarmup.client.amount import amount
from zowarmup.common.phases import WarmUp
from zowarmup.common.work import Tier


@dataclass(frozen=True, slots=True)
class Needs:
    """Peak resident bytes of one round of each tier's work, as the coordinator measured them; 0: not measured."""

    high: int
    low: int


@dataclass(frozen=True, slots=True)
class Memory:
    """How many bytes this device can give one process, and which limit says so (words for the log)."""

    bytes: int
    source: str


@dataclass(frozen=True, slots=True)
class Decision:
    """`tier` is None where the device can carry neither. `reason` is a sentence part for people."""

    tier: Tier | None
    reason: str


def decide_tier(memory: Memory, needs: Needs, has_torch: bool) -> Decision:
    """The highest tier that this device can carry, and why."""
    has = f"{amount(memory.bytes)} ({memory.source})"
    if memory.bytes < needs.low:
        return Decision(None, f"even forward passes need {amount(needs.low)} and this device has {has}")
    if memory.bytes < needs.high:
        return Decision(Tier.LOW, f"training needs {amount(needs.high)} and this device has {has}")
    if not has_torch:
        return Decision(Tier.LOW, f"torch is not installed; memory would do: {has}")
    return Decision(Tier.HIGH, f"training needs {amount(needs.high)}, this device has {has}, and torch is installed")


def torchless(tier: Tier, warmup: WarmUp) -> str:
    """Why a device without torch cannot be of that tier in a run, and the remedy; empty where it can."""
    both = warmup.trains(Tier.LOW)
    if tier is Tier.HIGH:
        other = "" if both else ", or use --tier low"
        return f"the high tier needs torch, which is not installed: pip install 'zowarmup[torch]'{other}"
    if not both:
        return ""
    return (
        f'with warmup.method = "{warmup.method}" the low tier trains too, which needs torch, and it is not installed: '
        "pip install 'zowarmup[torch]', or have the run use another warmup.method"
    )


def has_torch() -> bool:
    """Whether torch could be imported, found out without importing it."""
    return importlib.util.find_spec("torch") is not None


def memory_here(root: Path = Path("/")) -> Memory:
    """The smaller of the memory that is free on this machine and the limit of each control group this process is in.

    `root` stands for / in every path read (Linux); elsewhere the physical memory is taken.
    """
    found = _free(root)
    for limit, source in [*_limits_v2(root), *_limits_v1(root)]:
        if limit < found.bytes:
            found = Memory(limit, source)
    return found


def _free(root: Path) -> Memory:
    # MemAvailable, not MemFree: what the page cache would give back counts. Kernels before 3.14 have only MemTotal.
    amounts = {}
    for line in _read(root / "proc/meminfo").splitlines():
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
    for line in _read(root / "proc/self/cgroup").splitlines():
        if line.startswith("0::"):
            # A hybrid host mounts version 2 one folder down.
            for mount in (root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"):
                if limits := _upwards(mount, line[3:], "memory.max"):
                    return limits
    return []


def _limits_v1(root: Path) -> list[tuple[int, str]]:
    for line in _read(root / "proc/self/cgroup").splitlines():
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
        text = _read(mount / group / file).strip()
        if text.isdigit():  # "max" is no limit; version 1 says so by a number above any machine's memory
            limits.append((int(text), f"limit of control group /{'' if group == Path() else group}"))
    return limits


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def peak_resident() -> int:
    """The most memory this process has held, in bytes.

    VmHWM where there is /proc: ru_maxrss would include what a large parent held when it started this process.
    """
    for line in _read(Path("/proc/self/status")).splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
