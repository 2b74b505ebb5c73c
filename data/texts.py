"""tsv:PATH and jsonl:PATH: examples of text, one a line.

A table of text has a line of column names, `text` and `label` or, where an example is two texts, `text_a`, `text_b` and
`label`, or, to train how a text goes on, `prompt` and `completion`, with tabs between them; or no such line and two columns, the text and then its label. A line of JSON is an object
with these keys, or with a `prompt`, its `choices`, a list, and the `label`, the place of the right one, from 0. Other columns and keys are left alone. Labels are names or whole numbers: the classes are those that occur,
in the order of the numbers, or else of the names. Files are UTF-8; one compressed by gzip is read as it is.

What a text becomes for a model, its tokens, is the run's business: its template and its tokenizer travel to the devices
(`data.tokens`). So no device's data depends on the model that some run trains on it.
"""

import io
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from zowarmup.common.settings.data_card import CHOICES, CLASS_LIMIT
from zowarmup.common.text import listed
from zowarmup.common.untrusted import TooLarge
from zowarmup.data.dataset import DataError, Dataset
from zowarmup.data.labels import class_order, label_name
from zowarmup.data.reading import lines_in, require_memory, unpacked

TEXT, PAIR, LABEL = ("text",), ("text_a", "text_b"), "label"
COMPLETED, CHOSEN = ("prompt", "completion"), ("prompt", "choices")
_IN_TABLES = (TEXT, PAIR, COMPLETED)
_IN_LINES = (*_IN_TABLES, CHOSEN)
MOST_CHOICES = 256
MOST_LINE = 1 << 22
"""Characters of one example."""
_BYTES_AN_EXAMPLE = 120
"""Of memory, that Python takes beside its characters."""


def read_tsv(path: Path) -> Dataset:
    """The examples of a table of text.

    Args:
        path: The file.

    Returns:
        Inputs are tuples of one or two texts; classes have the names of the labels, and other devices may hold further ones. Of prompts and
        completions there are no classes, and each target is one 0.

    Raises:
        DataError: With one sentence that names the file, and the line where it is about one.
    """
    return _read(path, _rows)


def read_jsonl(path: Path) -> Dataset:
    """The examples of a file with a JSON object a line. As `read_tsv`; or inputs are tuples of a prompt and its choices, of which there are as
    many classes as any has choices, and axes `choices` and `text`."""
    return _read(path, _objects)


TextExamples = Iterator[tuple[int, tuple[str, ...], str | int | None]]
"""The number of a line, its texts and its label, as they are written; of choices a place; of prompts and completions there is none."""


def _read(path: Path, examples: Callable[[Path, Iterator[tuple[int, str]]], TextExamples]) -> Dataset:
    try:
        with unpacked(path) as file:
            count = lines_in(path, file)
        require_memory(str(path), path.stat().st_size + _BYTES_AN_EXAMPLE * count, "give this device fewer examples")
        with unpacked(path) as file:
            return texts_of(path, examples(path, _lines(path, io.TextIOWrapper(file, encoding="utf-8-sig"))))
    except TooLarge as error:
        raise DataError(str(error)) from error
    except UnicodeError as error:
        raise DataError(f"{path}: this file is not in UTF-8: save it as that") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: this file is damaged or cannot be read ({error}): make it again") from error


def _lines(path: Path, text: io.TextIOWrapper) -> Iterator[tuple[int, str]]:
    """The lines that are not empty, by their number, without their ends."""
    number = 0
    while line := text.readline(MOST_LINE + 1):
        number += 1
        if len(line) > MOST_LINE:
            raise DataError(f"{path}: line {number} is longer than {MOST_LINE:,} characters: cut the text")
        if line := line.rstrip("\r\n"):
            yield number, line


def _rows(path: Path, lines: Iterator[tuple[int, str]]) -> TextExamples:
    number, line = next(lines, (0, ""))
    names = [name.strip() for name in line.split("\t")]
    label: int | None
    if LABEL in names or set(COMPLETED) <= set(names):
        kind = _kind(f"{path}: the first line", names, _IN_TABLES)
        places, label = [names.index(name) for name in kind], None if kind == COMPLETED else names.index(LABEL)
    elif len(names) == 2:  # no line of names: the text and its label
        places, label = [0], 1
        yield number, (names[0],), names[1]
    else:
        raise DataError(
            f"{path}: the first line must name the columns, {_wanted(_IN_TABLES)}, with tabs between them; or there must be two "
            f"columns, the text and its label (found: {listed(names) if line else 'nothing'})"
        )
    for number, line in lines:
        fields = line.split("\t")
        if len(fields) != len(names):
            raise DataError(
                f"{path}: line {number} has {len(fields)} fields and the first line {len(names)}: mend it, and leave no tabs in "
                "a text"
            )
        yield number, tuple(fields[place] for place in places), None if label is None else fields[label]


def _objects(path: Path, lines: Iterator[tuple[int, str]]) -> TextExamples:
    kind: tuple[str, ...] = ()
    for number, line in lines:
        where = f"{path}: line {number}"
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            raise DataError(f"{where} is not JSON: write an object a line, with {_wanted(_IN_LINES)}") from None
        if not isinstance(found, dict):
            raise DataError(f"{where} is not an object: write one a line, with {_wanted(_IN_LINES)}")
        kind = kind or _kind(where, list(found), _IN_LINES)
        if kind == CHOSEN:
            yield number, *_chosen(where, found)
            continue
        texts = tuple(_text(where, name, found.get(name)) for name in kind)
        if kind == COMPLETED:
            yield number, texts, None
            continue
        label = found.get(LABEL)
        if not isinstance(label, str | int) or isinstance(label, bool):
            raise DataError(f"{where}: {LABEL} is {_shown(label)}: must be a name or a whole number")
        yield number, texts, str(label)


def _chosen(where: str, found: dict[str, Any]) -> tuple[tuple[str, ...], int]:
    """A prompt and its choices, and the place of the right one."""
    name, choices, label = CHOSEN[1], found.get(CHOSEN[1]), found.get(LABEL)
    if not isinstance(choices, list) or not 2 <= len(choices) <= MOST_CHOICES:
        raise DataError(f"{where}: {name} is {_shown(choices)}: must be a list of 2 to {MOST_CHOICES} texts")
    if type(label) is not int or not 0 <= label < len(choices):
        raise DataError(
            f"{where}: {LABEL} is {_shown(label)}: must be the place of the right one, 0 to {len(choices) - 1}"
        )
    prompt = _text(where, CHOSEN[0], found.get(CHOSEN[0]))
    return (prompt, *(_text(where, f"one of {name}", choice) for choice in choices)), label


def _text(where: str, name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where}: {name} is {_shown(value)}: must be a text, as in the first line")
    return value


def _kind(where: str, names: list[str], kinds: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    """What an example's texts are called, by the names of the columns."""
    found = [kind for kind in kinds if set(kind) <= set(names)]
    if len(found) != 1 or (LABEL not in names and found != [COMPLETED]):
        raise DataError(f"{where} has {listed(names)}: must have {_wanted(kinds)}")
    return found[0]


def _wanted(kinds: tuple[tuple[str, ...], ...]) -> str:
    named = [kind if kind == COMPLETED else (*kind, LABEL) for kind in kinds]
    return ", or ".join(f"{', '.join(names[:-1])} and {names[-1]}" for names in named)


def _shown(value: Any) -> str:
    return "missing" if value is None else ascii(value)[:40]


def texts_of(where: Path | str, examples: TextExamples, unit: str = "line") -> Dataset:
    """Examples of text.

    Args:
        where: What to call them in a sentence.
        examples: Each with its number, its texts and its label, as it is written; a place where the texts are a prompt and choices, and None where
            they are a prompt and its completion.
        unit: What the numbers are of.

    Raises:
        DataError: As `read_tsv`.
    """
    texts: list[tuple[str, ...]] = []
    labels: list[int] = []
    known, most = dict[str, int](), 0
    for number, written, label in examples:
        if not any(text.strip() for text in written) or (not isinstance(label, str) and not all(written[1:])):
            what = "text" if isinstance(label, str) or not any(written) else "completion"
            raise DataError(f"{where}: {unit} {number} has no {what}: fill it in, or remove the {unit}")
        texts.append(written)
        if label is None:
            continue
        if isinstance(label, int):
            labels.append(label)
            most = max(most, len(written) - 1)
            continue
        name = label_name(f"{where}: {unit} {number}", label)
        labels.append(known.setdefault(name, len(known)))
        if len(known) > CLASS_LIMIT:
            raise DataError(f"{where}: there are more than {CLASS_LIMIT} different labels: is it the right column?")
    if not texts:
        raise DataError(f"{where}: there are no examples: it needs one a {unit}")
    inputs = np.empty(len(texts), dtype=object)
    inputs[:] = texts
    if most:
        return Dataset(inputs, np.array(labels, np.int64), most, axes=(CHOICES, TEXT[0]))
    if not known:
        return Dataset(inputs, np.zeros((len(texts), 1), np.float32), 0, axes=(TEXT[0],))
    names, order = class_order(known)
    return Dataset(inputs, order[labels], len(names), class_names=names, every_class=False, axes=(TEXT[0],))
