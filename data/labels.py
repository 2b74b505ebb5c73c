"""Labels as people write them: the names of classes, and their order, the same on every device."""

import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.settings.data_card import normalised
from zowarmup.data.dataset import DataError

MISSING = {"", "na", "n/a", "nan", "null", "none", "?", "-"}
"""What stands for a value that is not there, in small letters."""
_WHOLE = re.compile(r"[+-]?[0-9]+(?:\.0*)?")
_FRACTION = re.compile(r"[+-]?[0-9]*\.[0-9]+(?:[eE][+-]?[0-9]+)?")


def label_name(where: str, text: str) -> str:
    """The name of a class as every device writes it: 3, 3.0 and 03 are one.

    Args:
        where: What to call the place of the label in a sentence.
        text: The label as it is written.

    Raises:
        DataError: It is missing, a fraction, or has control characters.
    """
    name = normalised(text.strip())
    if _WHOLE.fullmatch(name):
        return str(int(name.partition(".")[0]))
    if name.lower() in MISSING:
        raise DataError(f"{where}: the label is missing: fill it in, or remove the line")
    if _FRACTION.fullmatch(name):
        raise DataError(f"{where}: the label is {name}: labels must be names or whole numbers, one for each class")
    if not name.isprintable():
        raise DataError(f"{where}: the label is {name!r}: it may not have control characters")
    return name


def class_order(known: Mapping[str, int]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The classes in the order of their numbers or, where not all are whole numbers, of their names.

    Args:
        known: The classes that occur, each with the number that it was given as it came, from 0.

    Returns:
        Their names in order, and for each number that was given the label.
    """
    whole = all(_WHOLE.fullmatch(name) for name in known)
    names = sorted(known, key=int) if whole else sorted(known)
    order = np.empty(len(known), np.int64)
    order[[known[name] for name in names]] = np.arange(len(names))
    return tuple(names), order
