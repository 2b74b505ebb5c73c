"""Data of a caller's own as data sets: arrays, torch's and Hugging Face's data sets, texts, and whatever has examples.

No package is needed for another's data set: what it is, is told by what it has. Everything is read into memory once.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zowarmup.data import DataError, Dataset, load
from zowarmup.data import divide as divide_spec
from zowarmup.data.arrays import dataset_of
from zowarmup.data.labels import class_order, label_name
from zowarmup.data.shards import cut
from zowarmup.data.texts import COMPLETED, PAIR, TEXT, texts_of

AT_ONCE = 1024
"""Examples that are read together."""
LABELS = ("label", "labels", "y", "target")
TEXTS = ("text", "sentence")
KINDS = (
    'a spec such as "digits:test" or "npz:PATH", arrays (x, y), {"x": x, "y": y}, texts ([text, ...], labels), a torch Dataset, a Hugging '
    "Face Dataset, or anything with __len__, labels and batch"
)


def dataset(
    data: object, *, class_names: Sequence[str] = (), sequence: bool = False, source: str = "the data"
) -> Dataset:
    """Examples with their targets, of whatever holds some.

    Args:
        data: A data set of this package; a spec, as `zowarmup-client --data` takes it; arrays (x, y) or {"x": x, "y": y}, x
            being rows (n, features), images (n, H, W), (n, C, H, W) or (n, H, W, C), and bytes divided by 255; ([text, ...], labels), each
            text a string or a pair of them; a torch Dataset or a sequence, whose examples are (input, label); a Hugging Face
            Dataset with a column of labels, and one of texts, images or arrays; or an object with `__len__`, `labels`, (n,), and
            `batch(indices)`, which gives inputs (len(indices), ...).
        class_names: What the labels stand for, by label.
        sequence: Whether arrays are sequences, (n, length, channels) or (n, length).
        source: What to call the data in a sentence.

    Returns:
        The examples, in memory.

    Raises:
        DataError: It is nothing of this, or not as it must be; the sentence says what is missing.

    Example:
        >>> import numpy as np
        >>> import zowarmup as zw
        >>> x, y = np.zeros((4, 8, 8), np.uint8), np.array([0, 1, 1, 0])
        >>> data = zw.dataset((x, y), class_names=["no", "yes"])
        >>> len(data), data.shape, data.classes
        (4, (1, 8, 8), 2)
    """
    found = _read(data, sequence, source)
    if not class_names:
        return found
    if len(class_names) < found.classes or not found.classes:
        raise DataError(f"{source}: class_names has {len(class_names)} names, and there are {found.classes} classes")
    return replace(found, classes=len(class_names), class_names=tuple(class_names))


def divide(data: object, clients: int, *, alpha: float = 0.1, seed: int = 0) -> list[Dataset]:
    """Cut a data set into the shards of many clients, equal in size, with different mixes of classes.

    Args:
        data: As `dataset` takes it; or the spec of a data set that is to be shared out, such as "digits", whose shards are those
            that clients load as digits:I/N.
        clients: How many shards, at most one for each example.
        alpha: Of the Dirichlet distribution of each shard's mix, above 0: with 0.1 most shards have a few classes, with 100 all
            have the same mix.
        seed: Of the split.

    Returns:
        A data set for each client.

    Raises:
        DataError: The sentence says what to change.

    Example:
        >>> import zowarmup as zw
        >>> shards = zw.divide("digits", clients=10, alpha=0.1)
        >>> len(shards), len(shards[0])
        (10, 143)
    """
    if not alpha > 0:
        raise DataError(f"alpha = {alpha!r}: must be above 0")
    share = Fraction(str(alpha))
    if isinstance(data, str):
        said = data
        for name, value in (("alpha", _decimal(share)), ("seed", str(seed))):
            said += "" if f",{name}=" in data else f",{name}={value}"
        return divide_spec(said, clients, range(clients))
    try:
        return cut(dataset(data), clients, range(clients), share, seed, "the data")
    except ValueError as error:
        raise DataError(str(error)) from error


def _decimal(share: Fraction) -> str:
    text = f"{float(share):.6f}".rstrip("0").rstrip(".")
    if Fraction(text) != share:
        raise DataError(f"alpha = {float(share)!r}: must be a decimal with at most 6 places, such as 0.1")
    return text


def _read(data: Any, sequence: bool, source: str) -> Dataset:
    if isinstance(data, Dataset):
        return data
    if isinstance(data, str):
        return load(data)
    if isinstance(data, Mapping) and {"x", "y"} <= set(data):
        data = data["x"], data["y"]
    if isinstance(data, tuple) and len(data) == 2 and not _is_example(data):
        return _of_pair(data[0], data[1], sequence, source)
    if hasattr(data, "column_names") and hasattr(data, "features"):
        return _of_columns(data, sequence, source)
    if not hasattr(data, "__len__"):
        raise DataError(f"{source}: a {type(data).__name__} has no `__len__`: give {KINDS}")
    if not len(data):
        raise DataError(f"{source}: there are no examples")
    if hasattr(data, "batch") or hasattr(data, "labels"):
        if missing := [name for name in ("labels", "batch") if not hasattr(data, name)]:
            raise DataError(f"{source}: a {type(data).__name__} has no `{missing[0]}`: give {KINDS}")
        return _of_batches(data, sequence, source)
    if not hasattr(data, "__getitem__") or isinstance(data, Mapping | bytes):
        raise DataError(f"{source}: a {type(data).__name__} has no examples by number: give {KINDS}")
    return _of_examples((data[place] for place in range(len(data))), sequence, source)


def _is_example(pair: tuple[Any, Any]) -> bool:
    """Whether two things are the only two examples of a sequence, and not inputs and their labels."""
    return all(isinstance(one, tuple) and len(one) == 2 for one in pair)


def _of_pair(x: Any, y: Any, sequence: bool, source: str) -> Dataset:
    if isinstance(x, str) or not hasattr(x, "__len__") or not hasattr(y, "__len__"):
        raise DataError(f"{source}: two things that are no arrays: give {KINDS}")
    if len(x) != len(y):
        raise DataError(f"{source}: there are {len(x)} inputs and {len(y)} labels: give one for each")
    if len(x) and _is_text(x[0]):
        return _of_texts(x, y, source)
    return _of_arrays(_numbers(x, source), y, sequence, source)


def _is_text(one: object) -> bool:
    return isinstance(one, str) or (isinstance(one, tuple | list) and len(one) == 2 and isinstance(one[0], str))


def _of_texts(texts: Iterable[Any], labels: Iterable[Any] | None, source: str) -> Dataset:
    written = ((text,) if isinstance(text, str) else tuple(map(str, text)) for text in texts)
    named: Iterable[str | None] = itertools.repeat(None) if labels is None else (str(label) for label in labels)
    return texts_of(
        source, ((number, *both) for number, both in enumerate(zip(written, named, strict=False), 1)), "example"
    )


def _of_arrays(x: NDArray[Any], y: Any, sequence: bool, source: str) -> Dataset:
    targets = _host(y)
    said = "sequences need sequence=True"
    if targets.dtype.kind not in "USO":
        return dataset_of(source, x, targets, sequence, said)
    known: dict[str, int] = {}
    labels = [
        known.setdefault(label_name(f"{source}: example {n}", str(one)), len(known)) for n, one in enumerate(targets, 1)
    ]
    names, order = class_order(known)
    made = dataset_of(source, x, order[labels], sequence, said)
    return replace(made, classes=len(names), class_names=names, every_class=False)


def _numbers(x: Any, source: str) -> NDArray[Any]:
    """Bytes as they are, and other numbers as float32."""
    try:
        array = _host(x)
    except ValueError as error:
        raise DataError(f"{source}: the inputs have different shapes ({error}): make them alike") from error
    if array.dtype == np.uint8 or array.dtype == np.float32:
        return array
    if array.dtype.kind not in "fiub":
        raise DataError(f"{source}: the inputs are {array.dtype}: must be numbers or texts")
    return array.astype(np.float32)


def _host(values: Any) -> NDArray[Any]:
    """As NumPy's, from torch's too, which may be on an accelerator."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    return np.asarray(values)


def _of_batches(data: Any, sequence: bool, source: str) -> Dataset:
    count = len(data)
    pieces = []
    for start in range(0, count, AT_ONCE):
        given = data.batch(np.arange(start, min(start + AT_ONCE, count), dtype=np.int64))
        pieces.append(_host(given[0] if isinstance(given, tuple) else given))
    names = getattr(data, "class_names", ()) or ()
    made = _of_arrays(_numbers(np.concatenate(pieces), source), data.labels, sequence, source)
    return replace(made, classes=len(names), class_names=tuple(names)) if names else made


def _of_examples(examples: Iterator[Any], sequence: bool, source: str) -> Dataset:
    inputs, labels = [], []
    for number, example in enumerate(examples, 1):
        if not isinstance(example, tuple | list) or len(example) != 2:
            raise DataError(f"{source}: example {number} is a {type(example).__name__}: must be (input, label)")
        inputs.append(example[0])
        labels.append(example[1])
    if _is_text(inputs[0]):
        return _of_texts(inputs, map(_plain, labels), source)
    return _of_arrays(_stacked(inputs, source), np.asarray([_plain(label) for label in labels]), sequence, source)


def _plain(label: Any) -> Any:
    return label.item() if hasattr(label, "item") and getattr(label, "size", 1) in (1, ()) else label


def _stacked(inputs: Sequence[Any], source: str) -> NDArray[Any]:
    arrays = [_host(one) for one in inputs]
    if len({array.shape for array in arrays}) > 1:
        shapes = sorted({array.shape for array in arrays})[:2]
        raise DataError(f"{source}: inputs have the shapes {shapes[0]} and {shapes[1]}: make them alike")
    return _numbers(np.stack(arrays), source)


def _of_columns(data: Any, sequence: bool, source: str) -> Dataset:
    """A data set of Hugging Face's: columns by name."""
    columns = list(data.column_names)
    column: Callable[[str], list[Any]] = lambda name: list(data[name])
    if set(COMPLETED) <= set(columns):
        return _of_texts(zip(*map(column, COMPLETED), strict=True), None, source)
    target = next((name for name in LABELS if name in columns), None)
    if target is None:
        raise DataError(
            f"{source}: no column is called {' or '.join(LABELS)} (there are {', '.join(columns)}): rename one"
        )
    names = getattr(data.features.get(target), "names", None)
    labels = column(target)
    if text := next((name for name in (*TEXT, *TEXTS) if name in columns), None):
        found = _of_texts(column(text), [names[label] for label in labels] if names else labels, source)
    elif set(PAIR) <= set(columns):
        pairs = zip(*map(column, PAIR), strict=True)
        found = _of_texts(pairs, [names[label] for label in labels] if names else labels, source)
    else:
        rest = [name for name in columns if name != target]
        if len(rest) != 1:
            raise DataError(
                f"{source}: there are the columns {', '.join(rest)} beside {target}: leave one with the inputs (select_columns), or "
                f"call the texts {TEXT[0]}"
            )
        found = _of_arrays(_stacked(column(rest[0]), source), np.asarray(labels), sequence, source)
        if names and found.classes:
            found = replace(found, classes=len(names), class_names=tuple(names))
    return found
