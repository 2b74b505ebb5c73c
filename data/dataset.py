"""A set of examples with their targets, kept in the type it was stored in and turned into what a model reads a batch at a time.

Byte images stay bytes (a quarter of their float32 size), which is what lets a small device hold its own data. Rows and
sequences are standardised: the coordinator computes the mean and deviation of each feature or channel once, from the
held-out set, and every device is given them in the run's data card. Images keep the scale of their pixels; they may be
varied for training (`augment`). Texts stay texts until the run's tokenizer is there (`data.tokens`); of tokens a batch is as
long as its longest example.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.exact.directions import words
from zowarmup.common.settings.data_card import CHOICES, IMAGE, TOKENS, DataCard, normalised_axis, usual_axes
from zowarmup.common.tasks.protocol import Batch


class DataError(ValueError):
    """Data that cannot be used.

    Args:
        sentence: It names the spec or file and the remedy. It is put on one line: a name or a library's words in it may
            have several.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(" ".join(line.strip() for line in sentence.splitlines()))


@dataclass(frozen=True, eq=False, slots=True)
class Dataset:
    """Examples with their targets, and what their values stand for.

    Args:
        inputs: Uint8 or float32 (n, *shape), at least one example; or tokens, int32 (n, t), from 0 on and then PADDING,
            or (n, choices, t), where nothing but PADDING is a choice that an example does not have; or texts, objects (n,), each a tuple of
            strings, one or two, or a prompt and its choices.
        targets: Labels, int64 (n,), in 0 .. classes - 1; or, with `classes` 0, numbers, float32 (n, k), all finite.
        classes: How many there are; 0 where the targets are numbers.
        scale: The stored value that stands for 1.0: batches are divided by it.
        mean: What is then taken off, one number for each channel or feature; empty: nothing is.
        deviation: What is divided by after that, as long as `mean`.
        augmented: Whether training varies the images (`augment`).
        class_names: What the labels stand for, by label, in Unicode's composed form; empty: they are only numbers.
        every_class: All classes are named, those without examples too; if not, other devices may hold further ones.
        axes: What the axes of an example are called; empty: by their number.
        stands_for_bytes: The inputs are float32 from 0 to 1 and stand for bytes divided by 255, more finely.
        feature_names: Of rows, what each feature is called, in Unicode's composed form; empty: they are known by their
            place.

    Raises:
        DataError: A field has another type or shape than that, or is out of its range.
    """

    inputs: NDArray[Any]
    targets: NDArray[Any]
    classes: int
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    augmented: bool = False
    class_names: tuple[str, ...] = ()
    every_class: bool = True
    axes: tuple[str, ...] = ()
    stands_for_bytes: bool = False
    feature_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.inputs.dtype not in (np.uint8, np.float32, np.int32, object):
            raise DataError(f"inputs are {self.inputs.dtype}: must be uint8, float32, tokens (int32) or texts")
        count = len(self.inputs)
        if self.inputs.dtype == np.int32:
            self._check_tokens()
        if self.classes and (self.targets.shape != (count,) or self.targets.dtype != np.int64):
            raise DataError(f"labels must be one int64 for each of the {count} inputs")
        if not self.classes and (
            self.targets.ndim != 2 or len(self.targets) != count or self.targets.dtype != np.float32
        ):
            raise DataError(f"targets must be float32 numbers for each of the {count} inputs")
        if not count:
            raise DataError("there are no examples")
        low, high = self.targets.min(), self.targets.max()
        if self.classes and (low < 0 or high >= self.classes):
            raise DataError(f"labels go from {low} to {high}: must be 0 to {self.classes - 1}")
        if not self.classes and not np.isfinite(self.targets).all():
            raise DataError("the targets hold a value that is not finite")
        if not self.scale > 0:
            raise DataError(f"scale is {self.scale}: must be above 0")
        if len(self.mean) != len(self.deviation) or (
            self.mean and len(self.mean) != self.shape[self.mean_shape.index(-1)]
        ):
            raise DataError("mean and deviation must be one number for each channel or feature, or none")
        if self.class_names and len(self.class_names) != self.classes:
            raise DataError(f"there are {len(self.class_names)} class names and {self.classes} classes")
        if self.feature_names and (len(self.feature_names),) != self.shape:
            raise DataError(f"there are {len(self.feature_names)} feature names and examples of shape {self.shape}")
        if self.augmented and len(self.shape) != len(IMAGE):
            raise DataError(f"examples of shape {self.shape} are no images: only images can be augmented")

    def _check_tokens(self) -> None:
        if self.inputs.ndim not in (2, 3) or self.scale != 1 or self.mean:
            raise DataError("tokens must be int32 (n, t) or (n, choices, t), without a scale or a mean")
        if len(self.inputs) and (self.inputs.reshape(len(self.inputs), -1)[:, 0] < 0).any():
            raise DataError("an example has no token")

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def is_text(self) -> bool:
        """Whether the examples are texts, which no model reads."""
        return self.inputs.dtype == object

    @property
    def lengths(self) -> NDArray[np.int64] | None:
        """How many tokens each example has, int64 (n,), with the padding among its choices; None where examples are no tokens."""
        if self.inputs.dtype != np.int32:
            return None
        rows = self.inputs if self.inputs.ndim == 3 else self.inputs[:, np.newaxis]
        lengths: NDArray[np.int64] = rows.shape[1] * np.count_nonzero(rows >= 0, axis=2).max(axis=1)
        return lengths

    @property
    def has_choices(self) -> bool:
        """Whether an example is a prompt with choices, and its label the place of the right one."""
        return self.axes[:1] == (CHOICES,)

    def with_tokens(self, tokens: NDArray[np.int32]) -> "Dataset":
        """The same examples as tokens, int32 (n, t) or (n, choices, t)."""
        return replace(self, inputs=tokens, axes=(CHOICES, TOKENS)[-tokens.ndim + 1 :])

    @property
    def target_size(self) -> int:
        """How many numbers a target is; 0 where it is a label."""
        return 0 if self.classes else self.targets.shape[1]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example, such as (channels, height, width) or (features,)."""
        return self.inputs.shape[1:]

    @property
    def stored(self) -> tuple[Literal["uint8", "float32", "token"], float]:
        """The type of the stored values, and which of them stands for 1.0."""
        if self.inputs.dtype in (np.int32, object):
            return "token", 1.0
        if self.stands_for_bytes:
            return "uint8", 255.0
        return "uint8" if self.inputs.dtype == np.uint8 else "float32", float(self.scale)

    @property
    def mean_shape(self) -> tuple[int, ...]:
        """The shape in which `mean` and `deviation` broadcast to one example, with -1 along its channels or features."""
        along = normalised_axis(self.axes or usual_axes(self.shape))
        return tuple(-1 if place == along else 1 for place in range(len(self.shape)))

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """The examples at `indices`; inputs as a new contiguous array, float32 (len(indices), *shape), or of tokens int64
        (len(indices), ..., t) with the t of the longest."""
        return Batch(self._inputs(indices), self.targets[indices])

    def training_batch(self, indices: NDArray[np.int64], seed: int, stream: int) -> Batch:
        """The same for training: varied as a stream of a seed says (`augment`) where the set is augmented."""
        batch = self.batch(indices)
        return Batch(augment(batch.inputs, seed, stream), batch.targets) if self.augmented else batch

    def _inputs(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        if self.inputs.dtype == np.int32:
            tokens = self.inputs[indices]
            longest = int(np.count_nonzero((tokens >= 0).any(axis=tuple(range(tokens.ndim - 1)))))
            return tokens[..., :longest].astype(np.int64, order="C")
        rows = np.array(self.inputs[indices], dtype=np.float32, order="C")
        if self.scale != 1:
            rows /= np.float32(self.scale)
        if self.mean:
            rows -= np.array(self.mean, np.float32).reshape(self.mean_shape)
            with np.errstate(over="ignore"):  # `data.card` refuses what is not finite
                rows /= np.array(self.deviation, np.float32).reshape(self.mean_shape)
        return rows

    def select(self, indices: NDArray[np.int64]) -> "Dataset":
        """A data set of its own with the examples at `indices`, copied, so that the rest can be freed."""
        return replace(self, inputs=self.inputs[indices].copy(), targets=self.targets[indices].copy())


def made_up(card: DataCard, examples: int) -> Dataset:
    """Examples of no meaning, stored as those of a data card, in memory that is really there.

    Args:
        card: What they are to look like.
        examples: How many.
    """
    inputs = np.ones((examples, *card.shape), np.int32 if card.element == "token" else np.dtype(card.element))
    targets: NDArray[Any] = np.zeros((examples, card.target_size), np.float32)
    if card.classes:
        targets = np.arange(examples, dtype=np.int64) % card.classes
    return Dataset(inputs, targets, card.classes, card.scale, card.mean, card.deviation, axes=card.axes)


TOKENS_AN_EXAMPLE = 16
"""Of a micro-batch: a setting that bounds its examples allows for so many tokens each, padding included."""
MOST_PADDING = 32
"""Tokens of padding in a batch, beyond which another batch is cheaper: to read a model's weights once more takes about as long as so many tokens
(measured: 27 of MiniLM on one core)."""


def micro_batches(
    lengths: NDArray[np.int64] | None, examples: NDArray[np.int64], most: int
) -> Iterator[NDArray[np.int64]]:
    """Cut examples into batches of bounded memory.

    Args:
        lengths: How many tokens each example of the data set has, int64; None where examples are no tokens.
        examples: Which of them, int64 (n,).
        most: How many examples a batch has at most; of tokens as many as make `most` times TOKENS_AN_EXAMPLE tokens with the
            padding, of which at most MOST_PADDING are padding, and at least one.

    Yields:
        Indices, int64, together those of `examples`: in their order, or of tokens the short ones first, so that little is
        padding.
    """
    if lengths is None:
        yield from (examples[start : start + most] for start in range(0, len(examples), most))
        return
    ordered = examples[np.argsort(lengths[examples], kind="stable")]
    start = tokens = 0
    for stop, example in enumerate(ordered):
        longest = int(lengths[example])
        tokens += longest
        whole = (stop - start + 1) * longest
        full = stop - start == most or whole > most * TOKENS_AN_EXAMPLE or whole - tokens > MOST_PADDING
        if full and stop > start:
            yield ordered[start:stop]
            start, tokens = stop, longest
    if len(ordered):
        yield ordered[start:]


_VALUES = 1 << 18  # read together, so that a large set needs little memory
# Below this share of its mean a feature's deviation is what float32 rounds away: it is taken to be constant.
_CONSTANT = 1e-6


def standardised(data: Dataset) -> Dataset:
    """Rows or sequences with the mean and deviation of each feature or channel over all examples; images, and what has
    them already, as they are. A feature that is constant has the deviation 1."""
    if len(data.shape) >= len(IMAGE) or data.mean or data.stored[0] == "token":
        return data
    along = data.mean_shape.index(-1) + 1
    others = tuple(axis for axis in range(data.inputs.ndim) if axis != along)
    each = data.inputs.size // data.shape[along - 1]
    mean = sum(rows.sum(axis=others, dtype=np.float64) for rows in _batches(data)) / each
    centre = np.reshape(mean, data.mean_shape)
    squares = sum(np.square(rows - centre).sum(axis=others) for rows in _batches(data))
    deviation = np.sqrt(squares / each).astype(np.float32)
    deviation[deviation <= _CONSTANT * np.abs(mean)] = 1
    return replace(data, mean=tuple(map(float, mean.astype(np.float32))), deviation=tuple(map(float, deviation)))


def _batches(data: Dataset) -> Iterator[NDArray[np.float32]]:
    batch = max(1, _VALUES // data.inputs[0].size)
    for start in range(0, len(data), batch):
        yield data.batch(np.arange(start, min(start + batch, len(data)), dtype=np.int64)).inputs


BORDER = 4


def augment(images: NDArray[np.float32], seed: int, stream: int) -> NDArray[np.float32]:
    """Vary images: shift each by up to BORDER pixels along both axes, and mirror it left to right in one of two cases.

    Args:
        images: Float32 (n, C, H, W), 0 in the mean colour.
        seed: 0 to 2^64 - 1.
        stream: Number of the seed's stream that decides how (`directions.words`), 0 to 2^63 - 1.

    Returns:
        A new array of the same shape; what is shifted in is 0.
    """
    count, channels, height, width = images.shape
    drawn = words(seed, stream, count)
    places = np.uint64(2 * BORDER + 1)
    # Three draws out of each word's own digits; 2^64 is so much larger that no place is favoured.
    down, rest = (drawn % places).astype(np.int64), drawn // places
    right, mirrored = (rest % places).astype(np.int64), rest // places % np.uint64(2) == 1
    framed = np.zeros((count, channels, height + 2 * BORDER, width + 2 * BORDER), np.float32)
    framed[:, :, BORDER : BORDER + height, BORDER : BORDER + width] = images
    rows = down[:, None] + np.arange(height)
    columns = right[:, None] + np.where(mirrored[:, None], np.arange(width)[::-1], np.arange(width))
    each = np.arange(count)[:, None, None, None]
    varied: NDArray[np.float32] = framed[
        each, np.arange(channels)[:, None, None], rows[:, None, :, None], columns[:, None, None, :]
    ]
    return varied
