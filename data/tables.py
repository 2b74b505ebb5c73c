"""csv:PATH,label=COLUMN or target=COLUMN: a table of numbers with a line of column names, one example a line.

The delimiter is the comma, semicolon, tab or bar that the first line has most of; text is UTF-8, or UTF-16 with its
mark; a file compressed by gzip is read as it is. Columns are known by name, so their order may differ between devices.
Labels are names or whole numbers: the classes are those that occur, in the order of the numbers, or else of the names.
A target is a number.
"""

import csv
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.settings.data_card import CLASS_LIMIT, normalised
from zowarmup.common.text import listed
from zowarmup.common.untrusted import TooLarge
from zowarmup.data.dataset import DataError, Dataset
from zowarmup.data.labels import MISSING, class_order, label_name
from zowarmup.data.reading import lines_in, require_memory, unpacked

_DELIMITERS = ",;\t|"
_VALUES = 1 << 16  # turned into numbers together
_MOST_ROW = 1 << 22
"""Characters: some 400,000 columns."""
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]?inf(?:inity)?", re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]*,[0-9]+")


def read(path: Path, label: str, numbers: bool = False) -> Dataset:
    """The examples of a table.

    Args:
        path: The file.
        label: The name of the column that holds the labels, or the targets.
        numbers: It holds targets, which are numbers.

    Returns:
        Inputs float32 (n, features) with the names of features, and of classes where there are labels. Other
        devices may hold further classes.

    Raises:
        DataError: With one sentence that names the file, and the line and column where it is about one.
    """
    try:
        with unpacked(path) as file:
            lines = lines_in(path, file)
        with _text(path) as text:
            return _table(path, label, numbers, _Rows(path, text), lines)
    except TooLarge as error:
        raise DataError(str(error)) from error
    except UnicodeError as error:
        raise DataError(f"{path}: this file is not in UTF-8: save it as that") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: this file is damaged or cannot be read ({error}): make it again") from error


@dataclass(slots=True)
class _Columns:
    """The table's columns by name, and the place of the labels among them."""

    path: Path
    names: list[str]
    label: int
    features: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.features = tuple(name for place, name in enumerate(self.names) if place != self.label)

    def at(self, line: int, place: int) -> str:
        return f"{self.path}: line {line}, column {self.names[place]}"


class _Rows:
    """The lines of a table. What one row takes is bounded, however many lines it goes over: `begin` says that the next one
    begins. Raises DataError where a row is longer."""

    def __init__(self, path: Path, text: TextIO) -> None:
        self._path, self._text, self._taken, self._line = path, text, 0, 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._text.readline(_MOST_ROW - self._taken + 1)
        self._taken, self._line = self._taken + len(line), self._line + 1
        if self._taken > _MOST_ROW:
            raise DataError(
                f"{self._path}: line {self._line}: this line, or the quotes that it is within, goes on for more than "
                f"{_MOST_ROW:,} characters: there may be a line break missing, or a quote"
            )
        if not line:
            raise StopIteration
        return line

    def begin(self) -> None:
        self._taken = 0

    def again(self) -> None:
        """From the first line."""
        self._text.seek(0)
        self._taken = self._line = 0


def _table(path: Path, label: str, numbers: bool, text: _Rows, lines: int) -> Dataset:
    first = next(text, "")
    outside = "".join(first.split('"')[::2])
    text.again()
    reader = csv.reader(text, delimiter=max(_DELIMITERS, key=outside.count), skipinitialspace=True, strict=True)
    try:
        columns = _columns(path, label, next(reader, []))
        require_memory(str(path), 4 * lines * len(columns.features), "give this device fewer lines")
        return _examples(columns, _numbered(reader, text), lines, numbers)
    except csv.Error as error:
        where = f"{path}: line {reader.line_num}"
        raise DataError(f"{where}: this is no line of a table ({error}): see to its quotes and delimiters") from error


def _numbered(reader: Any, text: _Rows) -> Iterator[tuple[int, list[str]]]:
    text.begin()
    for row in reader:
        text.begin()
        yield reader.line_num, row


def _columns(path: Path, label: str, first: list[str]) -> _Columns:
    names = [normalised(name.strip()) for name in first]
    if not names:
        raise DataError(f"{path}: the first line is empty: it must name the columns")
    if all(_number(name) for name in names):
        raise DataError(f"{path}: the first line holds only numbers: it must name the columns")
    for place, name in enumerate(names, 1):
        if not name:
            raise DataError(f"{path}: column {place} has no name: name it, or leave it out")
        if not name.isprintable():
            raise DataError(f"{path}: the name of column {place}, {name!r}, has control characters: rename it")
    for name, count in Counter(names).items():
        if count > 1:
            raise DataError(f"{path}: two columns are named {name}: rename one")
    if (wanted := normalised(label.strip())) not in names:
        raise DataError(
            f"{path}: there is no column {wanted} (found: {listed(names)}): give its name as label=COLUMN, or target=COLUMN"
        )
    if len(names) == 1:
        raise DataError(f"{path}: there is no column beside {wanted}: the features must be in columns of their own")
    return _Columns(path, names, names.index(wanted))


def _examples(columns: _Columns, rows: Iterator[tuple[int, list[str]]], lines: int, numbers: bool) -> Dataset:
    inputs = np.empty((lines, len(columns.features)), np.float32)
    targets = np.empty((lines, 1), np.float32)
    labels, known = np.empty(lines, np.int64), dict[str, int]()
    held: list[tuple[int, list[str]]] = []
    count, block = 0, max(1, _VALUES // len(columns.names))
    for line, row in rows:
        if not row:
            continue
        if len(row) != len(columns.names):
            raise DataError(
                f"{columns.path}: line {line} has {len(row)} fields and the first line {len(columns.names)}: mend it"
            )
        text = row.pop(columns.label)
        if numbers:
            targets[count + len(held)] = _target(columns, line, text)
        else:
            labels[count + len(held)] = known.setdefault(label_name(columns.at(line, columns.label), text), len(known))
        if len(known) > CLASS_LIMIT:
            raise DataError(
                f"{columns.path}: column {columns.names[columns.label]} has more than {CLASS_LIMIT} different labels: is it the "
                "one that holds the classes?"
            )
        held.append((line, row))
        if len(held) == block:
            inputs[count : count + block] = _numbers(columns, held)
            count, held = count + block, []
    if held:
        inputs[count : count + len(held)] = _numbers(columns, held)
        count += len(held)
    if not count:
        raise DataError(f"{columns.path}: there are no lines below the first: it needs an example a line")
    if numbers:
        return Dataset(inputs[:count], targets[:count], 0, feature_names=columns.features)
    names, order = class_order(known)
    return Dataset(
        inputs[:count],
        order[labels[:count]],
        len(names),
        class_names=names,
        every_class=False,
        feature_names=columns.features,
    )


def _numbers(columns: _Columns, rows: list[tuple[int, list[str]]]) -> NDArray[np.float32]:
    """The features of some lines. Raises DataError where one is no finite number."""
    try:
        values = np.array([[float(text) for text in row] for _, row in rows])
        if not all(_plain(row) for _, row in rows):
            raise ValueError("not as tables have numbers")
        with np.errstate(over="ignore"):
            found = values.astype(np.float32)
    except ValueError:
        found = None
    if found is None or not np.isfinite(found).all():
        raise DataError(next(said for line, row in rows for said in _wrong(columns, line, row)))
    return found


def _wrong(columns: _Columns, line: int, row: list[str]) -> Iterator[str]:
    """A sentence for each feature of a line that is no finite number in float32."""
    for place, text in enumerate(row):
        yield from _unlike_number(columns.at(line, place + (place >= columns.label)), text.strip())


def _unlike_number(where: str, said: str) -> Iterator[str]:
    """A sentence where a field is no finite number in float32."""
    if said.lower() in MISSING:
        yield f"{where}: the value is missing: fill it in, or remove the line"
    elif _DECIMAL_COMMA.fullmatch(said):
        yield f"{where} holds {said!r}: write numbers with a decimal point"
    elif not _number(said):
        yield f"{where} holds {said!r}, which is no number: leave the column out, or write it as numbers"
    elif not abs(float(said)) <= float(np.finfo(np.float32).max):
        yield f"{where} holds {said}: numbers must be finite in 32 bits"


def _target(columns: _Columns, line: int, text: str) -> float:
    """A target. Raises DataError where it is no finite number."""
    for sentence in _unlike_number(columns.at(line, columns.label), text.strip()):
        raise DataError(sentence)
    return float(text)


def _plain(row: list[str]) -> bool:
    """Whether those fields that Python reads as numbers are some: it takes 1_000, and the digits of other scripts."""
    text = "".join(row)
    return (text.isascii() and "_" not in text) or all(_number(field.strip()) for field in row)


def _number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None


@contextmanager
def _text(path: Path) -> Iterator[TextIO]:
    with unpacked(path) as file:
        marked = file.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff")
        yield io.TextIOWrapper(file, encoding="utf-16" if marked else "utf-8-sig", newline="")
