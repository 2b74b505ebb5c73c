"""The model as one flat vector: the position of each tensor, and the blocks that directions live in.

Trainable parameters come first, in the model's order, but those that zeroth-order rounds move last among them and the
head's tensors last of all; buffers (running mean and variance of BatchNorm) follow and belong to no block, so no step
moves them. Every participant reads the same layout, so a place in the vector means the same parameter everywhere. A
digest of the vector's bytes says whether two replicas are equal.
"""

import json
import math
from dataclasses import asdict, dataclass
from typing import Self

import numpy as np
import xxhash
from numpy.typing import NDArray

from zowarmup.common.untrusted import strictly

MOST_AXES = 8
AUTO, ALL, NORM, HEAD, LAYERS = "auto", "all", "norm", "head", "layers:"
"""What zeroth-order rounds may move: the head alone where the model has one, else everything; everything; what has one axis,
scales and shifts of normalisation and biases, and the head; the head alone; tensors whose names match one of the patterns that
follow, and the head."""
LOWER, UPPER = "lower", "upper"
"""The blocks of what moves below a cut and above it."""
WHITENING = "whitening"
"""The name, in the head's layer, of the buffer that says how its input is whitened (`algorithms.whitening`)."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """The position of a tensor: it occupies [start, stop) of the flat vector, row-major.

    Args:
        name: The model's name for it, not empty.
        shape: At most MOST_AXES extents, each at least 1; () is a single number.
        start: Place of its first value, at least 0.

    Raises:
        ValueError: A field is out of its range.
    """

    name: str
    shape: tuple[int, ...]
    start: int

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("layout: a tensor has no name")
        if self.start < 0 or len(self.shape) > MOST_AXES or any(extent < 1 for extent in self.shape):
            raise ValueError(
                f"layout: tensor {self.name} has start {self.start} and shape {self.shape[: MOST_AXES + 1]}"
            )

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def stop(self) -> int:
        return self.start + self.size


@dataclass(frozen=True, slots=True)
class Block:
    """A named range [start, stop) of parameters, never empty.

    Args:
        name: Not empty.
        start: First place, at least 0.
        stop: Place after the last.

    Raises:
        ValueError: There is no name, or the range is empty or begins below 0.
    """

    name: str
    start: int
    stop: int

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("layout: a block has no name")
        if not 0 <= self.start < self.stop:
            raise ValueError(f"layout: block {self.name} is [{self.start}, {self.stop}), which is not a range")

    @property
    def size(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Head:
    """The linear classifier that the model ends in.

    Args:
        weight_name: The tensor of its weight, (classes, features).
        bias_name: The tensor of its bias, (classes,); None where it has no bias.
        features: How many inputs it has.
        classes: How many logits it gives.
    """

    weight_name: str
    bias_name: str | None
    features: int
    classes: int


@dataclass(frozen=True, slots=True)
class Cut:
    """Where the model is cut in two, and what crosses there: an example's activations, (t, hidden), and perhaps means of
    the layers below.

    Args:
        below: How many layers lie below the cut, at least 0.
        layers: Of how many, more than `below`.
        hidden: The width of the activations, at least 1.
        means: How many means there are; 0: none cross.

    Raises:
        ValueError: A field is out of its range.
    """

    below: int
    layers: int
    hidden: int
    means: int

    def __post_init__(self) -> None:
        if not 0 <= self.below < self.layers:
            raise ValueError(f"layout: a cut with {self.below} of {self.layers} layers below it")
        if self.hidden < 1 or self.means < 0:
            raise ValueError(f"layout: a cut has hidden = {self.hidden} and means = {self.means}")

    @property
    def share(self) -> float:
        """Which share of the layers lies above the cut."""
        return 1 - self.below / self.layers


@dataclass(frozen=True, slots=True)
class Layout:
    """The order of the tensors in the flat vector, and its blocks.

    Args:
        tensors: One after another in [0, size), all float32; the trainable ones come first.
        trainable: Where the trainable range [0, trainable) ends, at the end of a tensor.
        size: Number of values in the vector.
        blocks: The first is "all" = [0, trainable), and all lie within that.
        head: Its weight and then its bias end the trainable range from some h on, and "head" = [h, trainable) is a block, and
            "trunk" = [0, h) where h > 0; None where the model does not end in a linear classifier.
        frozen: Where what zeroth-order rounds move begins, at the start of a tensor: they move [frozen, trainable). Where
            that is more than the head and not everything, "probed" = [frozen, h or trainable) is a block.
        cut: Where the model is cut in two: what moves above the cut, up to the head, is the block "upper", and what moves below it
            the block "lower" right before that; there is none where nothing below moves. None: the model is in one piece.

    Raises:
        ValueError: The fields contradict each other, or two tensors or two blocks have one name.
    """

    tensors: tuple[Tensor, ...]
    trainable: int
    size: int
    blocks: tuple[Block, ...]
    head: Head | None = None
    frozen: int = 0
    cut: Cut | None = None

    def __post_init__(self) -> None:
        place = 0
        for tensor in self.tensors:
            if tensor.start != place:
                raise ValueError(
                    f"layout: tensor {tensor.name} starts at {tensor.start}, the one before ends at {place}"
                )
            place = tensor.stop
        if place != self.size:
            raise ValueError(f"layout: the tensors end at {place}, size is {self.size}")
        if self.trainable < 1 or self.trainable not in {tensor.stop for tensor in self.tensors}:
            raise ValueError(f"layout: trainable = {self.trainable} is not the end of a tensor")
        _require_unique("tensor", [tensor.name for tensor in self.tensors])
        _require_unique("block", [block.name for block in self.blocks])
        for block in self.blocks:
            if block.stop > self.trainable:
                raise ValueError(f"layout: block {block.name} ends at {block.stop}, beyond {self.trainable}")
        if not self.blocks or self.blocks[0] != Block("all", 0, self.trainable):
            raise ValueError(f'layout: the first block must be "all", [0, {self.trainable})')
        if self.head is not None:
            self._check_head(self.head)
        edge = self.block("head").start if self.head else self.trainable
        if self.frozen not in {tensor.start for tensor in self.tensors} or self.frozen > min(edge, self.trainable - 1):
            raise ValueError(f"layout: frozen = {self.frozen} is not where a trainable tensor starts, up to the head")
        if 0 < self.frozen < edge and Block("probed", self.frozen, edge) not in self.blocks:
            raise ValueError(f'layout: with frozen = {self.frozen} there must be a block "probed" up to {edge}')
        halves = [block for block in self.blocks if block.name in (LOWER, UPPER)]
        if halves or self.cut is not None:
            place = halves[0].stop if len(halves) > 1 else self.frozen
            tiles = [(LOWER, self.frozen, place), (UPPER, place, edge)]
            if self.cut is None or halves != [Block(*tile) for tile in tiles if tile[1] < tile[2]]:
                raise ValueError(
                    f'layout: with a cut, "{LOWER}" and "{UPPER}" must be [{self.frozen}, {edge}), else neither is'
                )

    def _check_head(self, head: Head) -> None:
        expected: list[tuple[str, tuple[int, ...]]] = [(head.weight_name, (head.classes, head.features))]
        if head.bias_name is not None:
            expected.append((head.bias_name, (head.classes,)))
        trained = [tensor for tensor in self.tensors if tensor.stop <= self.trainable]
        last = trained[-len(expected) :]
        if [(tensor.name, tensor.shape) for tensor in last] != expected:
            raise ValueError(f"layout: the trainable tensors do not end in the head's {expected}")
        edge = last[0].start
        wanted = ([Block("trunk", 0, edge)] if edge else []) + [Block("head", edge, self.trainable)]
        if not set(wanted) <= set(self.blocks):
            raise ValueError(
                f'layout: with a head there must be blocks "trunk", [0, {edge}), and "head", up to {self.trainable}'
            )

    def block(self, name: str) -> Block:
        """The block of a name.

        Args:
            name: "all", or with a head "trunk" or "head", or another of `blocks`.

        Raises:
            ValueError: There is none; the sentence lists the names there are.
        """
        for block in self.blocks:
            if block.name == name:
                return block
        raise ValueError(f"layout: no block {name!r}, there are {', '.join(block.name for block in self.blocks)}")

    @property
    def whitening(self) -> Tensor | None:
        """The buffer that says how the head's input is whitened, (R + 2, features); None where it never is."""
        if self.head is None:
            return None
        name = f"{self.head.weight_name.rpartition('.')[0]}.{WHITENING}"
        return next((tensor for tensor in self.tensors[::-1] if tensor.name == name), None)

    @property
    def uploaded(self) -> int:
        """How many values the delta of local training has, the leading ones: all but those of `whitening`, which ends the
        vector and is set by the coordinator."""
        return self.size if self.whitening is None else self.whitening.start

    @property
    def head_alone(self) -> bool:
        """Whether everything before the head is frozen."""
        return self.head is not None and self.frozen == self.block("head").start

    @property
    def edges(self) -> tuple[int, ...]:
        """Where in the trainable range a block begins, but for its start: the grid's exponent may change there."""
        return tuple(sorted({block.start for block in self.blocks} - {0}))

    def views(self, weights: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Each tensor of a vector, by name.

        Args:
            weights: Float32 (size,), contiguous.

        Returns:
            Views in the tensors' shapes: what changes one changes the other.

        Raises:
            ValueError: `weights` is something else.
        """
        if weights.dtype != np.float32 or weights.shape != (self.size,) or not weights.flags.c_contiguous:
            raise ValueError(
                f"weights are {weights.dtype} {weights.shape}, the layout is float32 ({self.size},) in one piece"
            )
        return {tensor.name: weights[tensor.start : tensor.stop].reshape(tensor.shape) for tensor in self.tensors}

    def frozen_digest(self, weights: NDArray[np.float32]) -> bytes:
        """The digest, 16 bytes, of what no zeroth-order round moves of `weights`, float32 (size,); empty where that is not
        told apart."""
        if not self.frozen:
            return b""
        found = digesting()
        for part in (weights[: self.frozen], weights[self.trainable :]):
            found.update(np.ascontiguousarray(part, dtype="<f4").data)
        return found.digest()

    def digest(self, weights: NDArray[np.float32], frozen: bytes | None = None) -> bytes:
        """The digest of a replica.

        Args:
            weights: Float32 (size,).
            frozen: Their `frozen_digest`, where it is known: then only what moves is read.

        Returns:
            16 bytes: `digest` of the weights, or where a part is frozen that of the frozen part's digest and, after it, of
            [frozen, trainable).
        """
        if not self.frozen:
            return digest(weights)
        found = digesting()
        found.update(self.frozen_digest(weights) if frozen is None else frozen)
        found.update(np.ascontiguousarray(weights[self.frozen : self.trainable], dtype="<f4").data)
        return found.digest()

    def to_json(self) -> str:
        """One line of JSON; equal layouts give equal text. Of a model in one piece it says nothing of a cut."""
        said = asdict(self)
        if self.cut is None:
            del said["cut"]
        return json.dumps(said, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The layout that `to_json` has made a text of.

        Args:
            text: Of any origin.

        Raises:
            ValueError: It is not a layout; the sentence says what is wrong.
        """
        try:
            return strictly(cls, json.loads(text), "layout")
        except RecursionError as error:
            raise ValueError(f"layout: {error}") from error


def _require_unique(kind: str, names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"layout: two {kind}s have the name {name}")
        seen.add(name)


def no_whitening(rank: int, features: int) -> NDArray[np.float32]:
    """The buffer `Layout.whitening` that leaves the head's input as it is.

    Args:
        rank: R, at least 1.
        features: h, how many the head reads.

    Returns:
        Float32 (R + 2, h): the mean that is subtracted, what each feature is then multiplied by, and the R rows of V
        (`algorithms.whitening`).
    """
    rows = np.zeros((rank + 2, features), np.float32)
    rows[1] = 1
    return rows


def digest(weights: NDArray[np.float32]) -> bytes:
    """The digest of a vector, which guards against accidents, not enemies.

    Args:
        weights: Float32, flat.

    Returns:
        xxh3-128 (seed 0, canonical big-endian form, 16 bytes) of the values as little-endian float32.
    """
    return xxhash.xxh3_128_digest(np.ascontiguousarray(weights, dtype="<f4").data)


def digesting() -> xxhash.xxh3_128:
    """A digest under way: `update` it with a vector's bytes, piece by piece; its `hexdigest` is then that of `digest`."""
    return xxhash.xxh3_128()
