"""The data card: what a run's targets and inputs mean, for every device and for readers of an exported model.

The coordinator makes it from the held-out set when a run is made. It travels to the clients in the run's spec, each of
which compares its own data with it, and it is in the metadata of exported files. `inputs` of the model are
(stored / scale - mean) / deviation in float32, where mean and deviation are given for each channel or feature.
"""

import json
import math
from dataclasses import asdict, dataclass
from typing import Literal, Self

from zowarmup.common.untrusted import strictly

CHANNELS, HEIGHT, WIDTH, FEATURES, LENGTH = "channels", "height", "width", "features", "length"
CHOICES, TOKENS = "choices", "tokens"
PADDING = -1
"""Stands behind the tokens of an example that has fewer than others; no token of any vocabulary."""
PREDICTED = 1 << 24
"""Is added to a token that a model is to predict, of a completion. No vocabulary has as many."""
IMAGE = (CHANNELS, HEIGHT, WIDTH)
# By number of axes: images, rows, sequences.
_AXES = {3: IMAGE, 1: (FEATURES,), 2: (LENGTH, CHANNELS)}
_ALLOWED = {*_AXES.values(), (CHANNELS, LENGTH), (TOKENS,), (CHOICES, TOKENS)}
CLASS_LIMIT = 1 << 16


def normalised(name: str) -> str:
    """A class name in Unicode's composed form (NFC): file systems spell one name in several ways."""
    return composed(name, "NFC")


def composed(text: str, form: Literal["NFC", "NFKC"]) -> str:
    """Text in one of Unicode's composed forms."""
    if text.isascii():  # it is in all of them, and needs no tables, which are a library of 1 MB
        return text
    import unicodedata

    return unicodedata.normalize(form, text)


def numbers(classes: int) -> tuple[str, ...]:
    """The names of classes that are only numbered: "0", "1", and so on."""
    return tuple(str(label) for label in range(classes))


def usual_axes(shape: tuple[int, ...]) -> tuple[str, ...]:
    """What the axes of an example are called if its reader does not say: by their number."""
    return _AXES.get(len(shape), tuple(f"axis{place}" for place in range(len(shape))))


@dataclass(frozen=True, slots=True)
class InputSummary:
    """Held-out inputs as the model reads them, all axes together: the least and greatest value, mean and standard
    deviation; and `stored_size`, the root mean square of the values as they are stored."""

    least: float
    greatest: float
    mean: float
    deviation: float
    stored_size: float

    def __post_init__(self) -> None:
        every = (self.least, self.greatest, self.mean, self.deviation, self.stored_size)
        if not all(math.isfinite(value) for value in every):
            raise ValueError("data card: inputs has a value that is not finite")
        if not self.least <= self.greatest or self.deviation < 0 or self.stored_size < 0:
            raise ValueError("data card: inputs must have least <= greatest, deviation >= 0 and stored_size >= 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataCard:
    """`classes`: how many there are; label k is `class_names[k]`, in NFC, or a number alone where there are no names. Where
    an example's target is none of some classes, there are 0, and it is `target_size` numbers.
    `shape` of one example and what its `axes` are called; `element`: the type in which values are stored, or token, where an
    example is a text of at most so many tokens, or some choices of at most so many each, of which the label is the place of the right one; `scale`: the
    stored value that stands for 1.0; `mean` and `deviation` are then taken off and divided by, one number for each
    channel or feature, or none at all. `feature_names`: what the features of rows are called, where they have names; devices
    match them by these. `inputs` sums up the held-out ones; None: not known.

    Raises ValueError naming the field."""

    classes: int
    shape: tuple[int, ...]
    class_names: tuple[str, ...] = ()
    axes: tuple[str, ...] = ()
    element: Literal["uint8", "float32", "token"] = "float32"
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    feature_names: tuple[str, ...] = ()
    inputs: InputSummary | None = None
    target_size: int = 0

    def __post_init__(self) -> None:
        if not self.axes:
            object.__setattr__(self, "axes", usual_axes(self.shape))
        size = self.target_size
        _require(0 <= size <= CLASS_LIMIT, "target_size", size, f"0 to {CLASS_LIMIT}")
        allowed = f"0, with target_size = {size}" if size else f"1 to {CLASS_LIMIT}"
        _require((self.classes == 0) if size else (1 <= self.classes <= CLASS_LIMIT), "classes", self.classes, allowed)
        _require(bool(self.shape) and min(self.shape) >= 1, "shape", self.shape, "extents of at least 1")
        known = self.axes in _ALLOWED or self.axes == usual_axes(self.shape)
        _require(
            known and len(self.axes) == len(self.shape), "axes", self.axes, "one known name for each axis of shape"
        )
        _require(self.element in ("uint8", "float32", "token"), "element", self.element, "uint8, float32 or token")
        fits = (self.element == "token") == (self.axes[-1] == TOKENS)
        _require(fits, "axes", self.axes, f"{TOKENS} where the element is a token, and only there")
        _require(
            self.choices in (0, self.classes), "shape", self.shape, f"of {self.classes} {CHOICES}, as there are classes"
        )
        _require(self.scale > 0 and math.isfinite(self.scale), "scale", self.scale, "above 0 and finite")
        self._check_names()
        each = self.shape[normalised_axis(self.axes)]
        for field, values in (("mean", self.mean), ("deviation", self.deviation)):
            finite = all(math.isfinite(value) for value in values)
            _require(finite and len(values) in (0, each), field, values, f"{each} finite numbers, or none")
        _require(len(self.mean) == len(self.deviation), "deviation", self.deviation, "given together with mean")
        _require(all(value > 0 for value in self.deviation), "deviation", self.deviation, "above 0")

    def _check_names(self) -> None:
        features = self.shape[0] if self.axes == (FEATURES,) else 0
        for field, names, count in (
            ("class_names", self.class_names, self.classes),
            ("feature_names", self.feature_names, features),
        ):
            _require(len(names) in (0, count), field, names, f"{count} names, or none")
            _require(len(set(names)) == len(names) and all(names), field, names, "different and not empty")
            in_form = all(name == normalised(name) for name in names)
            _require(in_form, field, names, "in Unicode's composed form (NFC)")
            _require(all(name.isprintable() for name in names), field, names, "without control characters")

    @property
    def choices(self) -> int:
        """How many choices an example has at most; 0 where it has none."""
        return self.shape[0] if self.axes[0] == CHOICES else 0

    @property
    def stored_as(self) -> str:
        """The stored values in words: "uint8, divided by 255"."""
        return f"{self.element}, " + ("as they are" if self.scale == 1 else f"divided by {self.scale:g}")

    @property
    def shaped_as(self) -> str:
        """The shape in words: "1 x 8 x 8 (channels x height x width)"."""
        return f"{' x '.join(map(str, self.shape))} ({' x '.join(self.axes)})"

    @property
    def recipe(self) -> str:
        """How the model's `inputs` are made of stored values, in words."""
        if self.element == "token":
            marked = f"; those to be predicted have {PREDICTED} added" if self.target_size or self.choices else ""
            of, each = (
                (f"(n, {self.choices}, t)", "a choice with its prompt") if self.choices else ("(n, t)", "an example")
            )
            return (
                f"int64 {of}, tokens: at most {self.shape[-1]} of {each}, and -1 behind those of a shorter one{marked}"
            )
        said = f"float32 (n, {', '.join(map(str, self.shape))}), {' x '.join(self.axes)}: stored as {self.stored_as}"
        if self.feature_names:
            said += f"; the features are {', '.join(self.feature_names)}"
        if not self.mean:
            return said
        each = "feature" if FEATURES in self.axes else "channel"
        return f"{said}; then less the {each}'s mean, divided by its deviation (both in data_card)"

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises ValueError naming the field where the text is not a data card."""
        try:
            return strictly(cls, json.loads(text), "data card")
        except RecursionError as error:
            raise ValueError(f"data card: {error}") from error


def normalised_axis(axes: tuple[str, ...]) -> int:
    """The axis of an example along which mean and deviation go: its channels or features, else its first."""
    return next((place for place, axis in enumerate(axes) if axis in (CHANNELS, FEATURES)), 0)


def _require(holds: bool, field: str, value: object, allowed: str) -> None:
    if not holds:
        raise ValueError(f"data card: {field} = {value!r}: must be {allowed}")
