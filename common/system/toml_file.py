"""A TOML file that a person wrote, as a table: whatever the file holds, one sentence where it cannot be used."""

import re
import tomllib
from pathlib import Path
from typing import Any

from zowarmup.common.system.given_file import read_given

LONGEST_BYTES = 1 << 17
DEEPEST = 16
WIDEST_BITS = 256

_PART = rb"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_LONG_NAME = re.compile(rb"(?<![^\s.\[{,])(?:%s[ \t]*\.[ \t]*){%d}" % (_PART, DEEPEST))
"""A dotted name of more parts than there may be, wherever it stands. The parser notes each beginning of a name, so that 20 kB
take 400 MB of it."""


class TomlError(ValueError):
    """The file cannot be used; the sentence names it."""


def read_toml(path: Path) -> dict[str, Any]:
    """Raises TomlError."""
    try:
        content = read_given(path, LONGEST_BYTES)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise TomlError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if _LONG_NAME.search(content):
        raise TomlError(f"{path}: is nested more than {DEEPEST} deep, and no setting is")
    try:
        found = tomllib.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise TomlError(f"{path}: is not TOML: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    except ValueError as error:  # also a number of thousands of digits, which Python does not read
        raise TomlError(f"{path}: is not TOML: {error}") from error
    except RecursionError as error:
        raise TomlError(f"{path}: is nested more than {DEEPEST} deep, and no setting is") from error
    _check(path, found)
    return found


def _check(path: Path, table: dict[str, Any]) -> None:
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
