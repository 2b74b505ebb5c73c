"""How a device is: temperature, throttling, disk, as far as Linux and its maker let them be read.

`root` stands for / in every path, so that the files of a Raspberry Pi or a Jetson can be shown to these functions
elsewhere. What cannot be read is None.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

from zowarmup.client.checkup import Throttling

# The firmware's get_throttled in /sys, and vcgencmd get_throttled: these bits for now, 16 higher for
# once since the start (Raspberry Pi's documentation of vcgencmd).
_PI_FLAGS = ((0, "under-voltage"), (1, "frequency capped"), (2, "throttled"), (3, "soft temperature limit"))
_UNDER_VOLTAGE = 1


def temperature(root: Path = Path("/")) -> float | None:
    """The hottest sensor, degrees Celsius."""
    found = []
    for zone in (root / "sys/class/thermal").glob("thermal_zone*"):
        text, kind = _read(zone / "temp"), _read(zone / "type")
        # Jetsons have one sensor that always says 100 degrees; others that are off say nonsense below freezing.
        if re.fullmatch(r"-?\d+", text) and "PMIC" not in kind and 0 < int(text) < 150_000:
            found.append(int(text) / 1000)
    return max(found, default=None)


def throttling(root: Path = Path("/")) -> Throttling | None:
    """Raspberry Pi: the firmware's flags. Jetson: how often it was over its current since it started."""
    told = [_read(file) for file in (root / "sys/devices/platform").glob("soc*/soc*firmware/get_throttled")]
    text = next(filter(None, told), "") or _vcgencmd(root)
    if re.fullmatch(r"(0x)?[0-9a-fA-F]{1,8}", text):
        return pi_flags(int(text, 16))
    events = sorted((root / "sys/class/hwmon").glob("hwmon*/oc*_event_cnt"))
    if not events:
        return None
    over = sum(int(text) for file in events if (text := _read(file)).isdigit())
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


def _vcgencmd(root: Path) -> str:
    command = root / "usr/bin/vcgencmd"
    if not command.exists():
        return ""
    try:
        told = subprocess.run([command, "get_throttled"], capture_output=True, text=True, timeout=5, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return told.strip().removeprefix("throttled=")


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""
