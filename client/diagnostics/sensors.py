"""The state of a device: temperature, throttling, disk, clock and radio, as far as Linux lets them be read.

`root` stands for / in every path, so that the files of a Raspberry Pi or a Jetson can be shown to these functions
elsewhere. What cannot be read is None.
"""

import contextlib
import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from zowarmup.client.diagnostics.checks import MemoryController, Throttling, Written
from zowarmup.common.system.memory import text_of

# The firmware's get_throttled in /sys, and vcgencmd get_throttled: these bits for now, 16 higher for
# once since the start (Raspberry Pi's documentation of vcgencmd).
_PI_FLAGS = ((0, "under-voltage"), (1, "frequency capped"), (2, "throttled"), (3, "soft temperature limit"))
_UNDER_VOLTAGE = 1


def temperature(root: Path = Path("/")) -> float | None:
    """The hottest sensor, degrees Celsius."""
    found = []
    for zone in (root / "sys/class/thermal").glob("thermal_zone*"):
        text, kind = text_of(zone / "temp"), text_of(zone / "type")
        # Jetsons have one sensor that always says 100 degrees; others that are off say nonsense below freezing.
        if re.fullmatch(r"-?\d+", text) and "PMIC" not in kind and 0 < int(text) < 150_000:
            found.append(int(text) / 1000)
    return max(found, default=None)


def throttling(root: Path = Path("/")) -> Throttling | None:
    """Raspberry Pi: the firmware's flags. Jetson: how often it was over its current since it started."""
    told = [text_of(file) for file in (root / "sys/devices/platform").glob("soc*/soc*firmware/get_throttled")]
    text = next(filter(None, told), "") or _vcgencmd(root)
    if re.fullmatch(r"(0x)?[0-9a-fA-F]{1,8}", text):
        return pi_flags(int(text, 16))
    events = sorted((root / "sys/class/hwmon").glob("hwmon*/oc*_event_cnt"))
    if not events:
        return None
    over = sum(int(text) for file in events if (text := text_of(file)).isdigit())
    return Throttling(before=(f"over-current {over} times",) if over else ())


def pi_flags(flags: int) -> Throttling:
    return Throttling(
        tuple(word for bit, word in _PI_FLAGS if flags >> bit & 1),
        tuple(word for bit, word in _PI_FLAGS if flags >> (bit + 16) & 1),
        power=bool(flags & _UNDER_VOLTAGE),
    )


def free_bytes(folder: Path) -> int:
    """What this user may still write to the file system that a folder is on, or will be. Raises OSError."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def writable(folder: Path) -> bool:
    """Whether this user can write to a folder, or make it."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def memory_controller(root: Path = Path("/")) -> MemoryController | None:
    """Whether the kernel can limit the memory of a service (control groups of version 2 or 1)."""
    controllers = text_of(root / "sys/fs/cgroup/cgroup.controllers")
    if not controllers:
        return MemoryController.ON if (root / "sys/fs/cgroup/memory/memory.limit_in_bytes").exists() else None
    if "memory" in controllers.split():
        return MemoryController.ON
    # The kernel takes these in turn, so the last one counts.
    told = [word for word in text_of(root / "proc/cmdline").split() if word.startswith("cgroup_")]
    asked = [word for word in told if word in ("cgroup_disable=memory", "cgroup_enable=memory")]
    return MemoryController.REFUSED if asked[-1:] == ["cgroup_enable=memory"] else MemoryController.OFF


def power_saving(root: Path = Path("/")) -> dict[str, bool | None] | None:
    """The Wi-Fi interfaces that are up, and whether each saves power; None where nothing says so (`iw` is missing), or
    where the system does not say which interfaces it has."""
    if not (root / "sys/class/net").is_dir():
        return None
    found: dict[str, bool | None] = {}
    for interface in sorted((root / "sys/class/net").glob("*")):
        if (interface / "phy80211").exists() and text_of(interface / "operstate") == "up":
            told = _output(root, "iw", "dev", interface.name, "get", "power_save")
            found[interface.name] = told.endswith("on") if told.startswith("Power save:") else None
    return found


def synchronised(root: Path = Path("/")) -> bool | None:
    """Whether the system's clock is set by the network: as systemd-timesyncd says, else as the kernel does."""
    if (root / "run/systemd/timesync/synchronized").exists():
        return True
    if root != Path("/") or sys.platform != "linux":
        return None
    with contextlib.suppress(OSError, AttributeError):
        # A struct timex of zeros only asks; it has 208 bytes. The answer is the clock's state: 5, TIME_ERROR, where nobody
        # sets it.
        state = int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512)))
        return None if state < 0 else state != 5
    return None


def written(folder: Path, lock: Path, root: Path = Path("/")) -> Written | None:
    """What the client that holds `lock` has written since it started. None where none runs, or this user may not see."""
    try:
        device, inode = lock.stat().st_dev, lock.stat().st_ino
        place = f"{os.major(device):02x}:{os.minor(device):02x}:{inode}"
        (pid,) = {words[4] for line in text_of(root / "proc/locks").splitlines() if place in (words := line.split())}
        counted = dict(line.split(": ") for line in text_of(root / f"proc/{pid}/io").splitlines())
        # In clock ticks since the system started; the name of the command before it may hold anything.
        began = int(text_of(root / f"proc/{pid}/stat").rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        seconds = float(text_of(root / "proc/uptime").split()[0]) - began
        return Written(int(counted["write_bytes"]), max(1.0, seconds), _flash(folder, root))
    except (OSError, ValueError, LookupError):
        return None


def _flash(folder: Path, root: Path) -> bool:
    """Whether a folder is on an SD card, or the like."""
    device = folder.stat().st_dev
    return "/mmcblk" in os.path.realpath(root / f"sys/dev/block/{os.major(device)}:{os.minor(device)}")


def _vcgencmd(root: Path) -> str:
    return _output(root, "vcgencmd", "get_throttled").removeprefix("throttled=")


def _output(root: Path, name: str, *arguments: str) -> str:
    """What a command of the system prints, empty where it is missing or fails to answer."""
    command = next((file for bin in ("usr/bin", "usr/sbin", "sbin") if (file := root / bin / name).exists()), None)
    if command is None:
        return ""
    try:
        told = subprocess.run([command, *arguments], capture_output=True, text=True, timeout=5, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return told.strip()
