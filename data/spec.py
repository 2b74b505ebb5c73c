"""Data specs: what they may say, and the reader of each kind of data.

A spec names the data of one device, KIND:WHERE with options; `divide` takes one that names a whole data set and makes
the shards of many devices out of it, the same ones that each would load by itself.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from zowarmup.data.dataset import DataError, Dataset

EACH_FORM = {
    "digits:I/N[,alpha=0.1][,seed=0][,without=validation]": "shard I of N of the digits that come with zowarmup",
    "digits:train, digits:validation or digits:test": "all of these",
    "npz:PATH[,kind=sequence]": "arrays x and y",
    "csv:PATH,label=COLUMN or csv:PATH,target=COLUMN": "a table with a line of names",
    "tsv:PATH or jsonl:PATH": "texts",
    "folder:PATH[,size=32][,channels=3][,fit=crop|squash|pad]": "class folders of images",
    "cifar10:PATH:I/N[,alpha=0.1][,seed=0][,without=validation][,augment=crop-flip]": "shard I of N of its published files",
    "cifar10:PATH:train, cifar10:PATH:validation or cifar10:PATH:test": "all of these; also cifar100 and imagenet32",
}
"""What data may be named as, and what each form is."""
FORMS = "; ".join(f"{form} ({meaning})" for form, meaning in EACH_FORM.items())
WHOLE_FORMS = (
    "digits, cifar10:PATH, cifar100:PATH, imagenet32:PATH, npz:PATH, csv:PATH,label=COLUMN or target=COLUMN, tsv:PATH, jsonl:PATH or folder:PATH, with [,alpha=0.1][,seed=0], "
    "and, of the first four kinds, [,without=validation]"
)
PUBLISHED = ("cifar10", "cifar100", "imagenet32")
AUGMENT, VALIDATION = "crop-flip", "validation"
SEQUENCE = "sequence"
_COLUMN = ("label", "target")
_OPTIONS = re.compile(r"(?:,[a-z]+=[^,/]*)+$")
_SHARD = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")
_SEED_MAX = (1 << 63) - 1


def load(spec: str) -> Dataset:
    """The examples that `spec` names: see FORMS. Raises DataError with one sentence that says what to change."""
    with _refusing(spec):
        return _loaded(spec)


@contextmanager
def _refusing(spec: str) -> Iterator[None]:
    """What any reader may meet."""
    try:
        yield
    except MemoryError as error:
        raise DataError(f"{spec} does not fit into the memory here: give fewer examples") from error
    except OSError as error:
        raise DataError(f"{spec} cannot be read ({error.strerror or error}): check its path and permissions") from error


def _loaded(spec: str) -> Dataset:
    kind, _, rest = spec.partition(":")
    if kind in _READERS and rest:
        read, allowed = _READERS[kind]
        return read(spec, *_split(spec, rest, allowed))
    if kind == "digits" and rest:
        return _digits(spec, rest)
    if kind in PUBLISHED and rest:
        return _published(spec, kind, rest)
    raise DataError(f"data {spec!r} is not known: use {FORMS}")


def divide(spec: str, clients: int, wanted: Sequence[int]) -> list[Dataset]:
    """Cut the data set that a spec names into the shards of many clients, equal in size.

    Args:
        spec: See WHOLE_FORMS.
        clients: How many shards it is cut into, 1 to its number of examples.
        wanted: Which of them to give, from 0.

    Returns:
        The wanted shards: views of one array that holds them one after the other.

    Raises:
        DataError: The sentence says what to change.
    """
    from zowarmup.data.shards import cut

    with _refusing(spec):
        whole, options = _whole(spec)
    alpha, seed = (
        _alpha(spec, options.get("alpha", "0.1")),
        _integer(spec, "seed", options.get("seed"), 0, 0, _SEED_MAX),
    )
    assert seed is not None
    return cut(whole, clients, wanted, alpha, seed, spec)


def _whole(spec: str) -> tuple[Dataset, dict[str, str]]:
    kind, _, rest = spec.partition(",")[0].partition(":")
    split = ("alpha", "seed")
    if kind == "digits" and rest in ("", "train"):
        from zowarmup.data import digits

        options = _split(spec, spec, (*split, "without"))[1]
        return digits.part(_training(spec, options)), options
    kind, _, rest = spec.partition(":")
    if kind in PUBLISHED and rest:
        path, options = _split(spec, rest, (*split, "augment", "without"))
        return _read_published(spec, kind, path.removesuffix(":train"), "train", options), options
    if kind in _READERS and rest:
        read, allowed = _READERS[kind]
        path, options = _split(spec, rest, (*split, *allowed))
        return read(spec, path, options), options
    raise DataError(f"data {spec!r} cannot be shared out: use {WHOLE_FORMS}")


def _path(spec: str, text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise DataError(f"{spec}: there is no such home folder here: give the whole path in place of ~") from error


def _digits(spec: str, rest: str) -> Dataset:
    from zowarmup.data import digits

    if rest in ("train", "test", VALIDATION):
        return digits.part(rest)
    which, options = _split(spec, rest, ("alpha", "seed", "without"))
    match = _SHARD.fullmatch(which)
    if not match:
        raise DataError(f"data {spec!r} is not known: use {FORMS}")
    seed = _integer(spec, "seed", options.get("seed"), 0, 0, _SEED_MAX)
    assert seed is not None
    alpha = _alpha(spec, options.get("alpha", "0.1"))
    return digits.shard(int(match[1]), int(match[2]), alpha, seed, _training(spec, options))


def _training(spec: str, options: dict[str, str]) -> str:
    """What there is to share out: all that trains, or what of it does not validate."""
    if (without := options.get("without", VALIDATION)) != VALIDATION:
        raise DataError(f"{spec}: without = {without!r}: must be {VALIDATION}, or left out")
    return "rest" if "without" in options else "train"


def _published(spec: str, kind: str, rest: str) -> Dataset:
    body, options = _split(spec, rest, ("alpha", "seed", "augment", "without"))
    path, _, which = body.rpartition(":")
    if path and which in ("train", "test", VALIDATION):
        return _read_published(spec, kind, path, which, options)
    match = _SHARD.fullmatch(which)
    if not path or not match:
        raise DataError(
            f"{spec}: say which of it after the path: {kind}:PATH:I/N, {kind}:PATH:train, {kind}:PATH:validation or "
            f"{kind}:PATH:test"
        )
    index, clients = int(match[1]), int(match[2])
    if not 1 <= index <= clients:
        raise DataError(f"{spec}: the shard must be 1 to {clients}")
    whole = ",".join([f"{kind}:{path}", *(f"{name}={value}" for name, value in options.items())])
    return divide(whole, clients, [index - 1])[0]


def _read_published(spec: str, kind: str, path: str, which: str, options: dict[str, str]) -> Dataset:
    from zowarmup.data import published
    from zowarmup.data.shards import validation_split

    if (augment := options.get("augment", AUGMENT)) != AUGMENT:
        raise DataError(f"{spec}: augment = {augment!r}: must be {AUGMENT}, or left out")
    wanted = _training(spec, options) if which == "train" else which
    found = published.read(kind, _path(spec, path), "test" if wanted == "test" else "train")
    if wanted in ("rest", VALIDATION):
        rest, validation = validation_split(len(found))
        found = found.select(validation if wanted == VALIDATION else rest)
    return replace(found, augmented="augment" in options)


def _npz(spec: str, path: str, options: dict[str, str]) -> Dataset:
    from zowarmup.data import npz

    if (kind := options.get("kind", SEQUENCE)) != SEQUENCE:
        raise DataError(f"{spec}: kind = {kind!r}: must be {SEQUENCE}, or left out for rows and images")
    return npz.read(_path(spec, path), sequence="kind" in options)


def _csv(spec: str, path: str, options: dict[str, str]) -> Dataset:
    from zowarmup.data import tables

    given = [name for name in _COLUMN if options.get(name)]
    if len(given) != 1:
        unsuited = " (a name without comma or slash)" if any(f",{name}=" in path for name in _COLUMN) else ""
        twice = " either" if given else ""
        raise DataError(
            f"{spec}: say which column holds{twice} the labels{unsuited}: csv:PATH,label=COLUMN, or the numbers to predict: "
            "csv:PATH,target=COLUMN"
        )
    return tables.read(_path(spec, path), options[given[0]], numbers=given == ["target"])


def _folder(spec: str, path: str, options: dict[str, str]) -> Dataset:
    from zowarmup.data import images
    from zowarmup.data.image_file import FITS, Form

    size = _integer(spec, "size", options.get("size"), None, 1, 4096)
    channels = _integer(spec, "channels", options.get("channels"), 3, 1, 3)
    if channels not in (1, 3):
        raise DataError(f"{spec}: channels must be 1 (grey) or 3 (RGB)")
    if (fit := next((known for known in FITS if known == options.get("fit", FITS[0])), None)) is None:
        raise DataError(f"{spec}: fit = {options['fit']!r}: must be {', '.join(FITS[:-1])} or {FITS[-1]}")
    if size is None and "fit" in options:
        raise DataError(f"{spec}: fit says how images are resized: add ,size=N, or leave it out")
    return images.read(_path(spec, path), Form(size, channels, fit))


def _tsv(spec: str, path: str, options: dict[str, str]) -> Dataset:
    from zowarmup.data import texts

    return texts.read_tsv(_path(spec, path))


def _jsonl(spec: str, path: str, options: dict[str, str]) -> Dataset:
    from zowarmup.data import texts

    return texts.read_jsonl(_path(spec, path))


_READERS = {
    "npz": (_npz, ("kind",)),
    "csv": (_csv, _COLUMN),
    "tsv": (_tsv, ()),
    "jsonl": (_jsonl, ()),
    "folder": (_folder, ("size", "channels", "fit")),
}
"""By kind of what is read as a whole: its reader, and the options that it takes."""


def _split(spec: str, rest: str, allowed: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    """What stands before the options, and the options."""
    match = _OPTIONS.search(rest)
    if not match:
        return rest, {}
    options: dict[str, str] = {}
    for option in match[0][1:].split(","):
        name, _, value = option.partition("=")
        if name not in allowed or name in options:
            problem = "is given twice" if name in options else f"is not known: use {' or '.join(allowed)}"
            raise DataError(f"{spec}: option {name} {problem}")
        options[name] = value
    return rest[: match.start()], options


def _integer(spec: str, name: str, text: str | None, default: int | None, low: int, high: int) -> int | None:
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,19}", text) or not low <= int(text) <= high:
        raise DataError(f"{spec}: {name} = {text!r}: must be a whole number from {low} to {high}")
    return int(text)


def _alpha(spec: str, text: str) -> Fraction:
    """A decimal, kept exactly: 0.1 is 1/10 on every machine."""
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,6})?", text) or Fraction(text) == 0:
        raise DataError(f"{spec}: alpha = {text!r}: must be a decimal above 0 with at most 6 places, such as 0.1")
    return Fraction(text)
