"""What a data spec may say, and the reader it stands for."""

import re
from fractions import Fraction
from pathlib import Path

from zowarmup.data.dataset import DataError, Dataset

FORMS = (
    "digits:I/N[,alpha=0.1][,seed=0] (shard I of N), digits:train, digits:test, "
    "npz:PATH (arrays x and y) or folder:PATH[,size=32][,channels=3] (class folders of images)"
)
_OPTIONS = re.compile(r"(?:,[a-z]+=[^,/]*)+$")


def load(spec: str) -> Dataset:
    """The examples that `spec` names: see FORMS. Raises DataError with one sentence that says what to change."""
    kind, _, rest = spec.partition(":")
    if kind == "npz" and rest:
        from zowarmup.data import arrays

        return arrays.read(Path(rest).expanduser())
    if kind == "folder" and rest:
        from zowarmup.data import images

        path, options = _split(spec, rest, ("size", "channels"))
        size = _integer(spec, "size", options.get("size"), None, 1, 4096)
        channels = _integer(spec, "channels", options.get("channels"), 3, 1, 3)
        if channels not in (1, 3):
            raise DataError(f"{spec}: channels must be 1 (grey) or 3 (RGB)")
        return images.read(Path(path).expanduser(), size, channels)
    if kind == "digits" and rest:
        return _digits(spec, rest)
    raise DataError(f"data {spec!r} is not known: use {FORMS}")


def _digits(spec: str, rest: str) -> Dataset:
    from zowarmup.data import digits

    if rest in ("train", "test"):
        return digits.part(rest)
    which, options = _split(spec, rest, ("alpha", "seed"))
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", which)
    if not match:
        raise DataError(f"data {spec!r} is not known: use {FORMS}")
    seed = _integer(spec, "seed", options.get("seed"), 0, 0, (1 << 63) - 1)
    assert seed is not None
    return digits.shard(int(match[1]), int(match[2]), _alpha(spec, options.get("alpha", "0.1")), seed)


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
