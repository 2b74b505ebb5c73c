"""Whether this device is due for an upgrade: its coordinator is upgraded first, and says what it runs."""

import re

from zowarmup.common.settings.run import SOFTWARE

REMEDY = "install the newer wheel here (deploy/raspberry-pi/install.sh keeps settings and identity; many devices: deploy/ansible)"
_VERSION = re.compile(r"(\S+) (\d+(?:\.\d+)*)(?![\d.])")


def due(theirs: str, ours: str = SOFTWARE) -> bool:
    """Whether `theirs`, as in "zowarmup 0.2.0", is a later version of the same software; False where they cannot be
    compared."""
    here, there = _VERSION.match(ours), _VERSION.match(theirs)
    if here is None or there is None or here[1] != there[1]:
        return False
    return _numbers(there[2]) > _numbers(here[2])


def _numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]
