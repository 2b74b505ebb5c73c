"""The half-width submodel: a part of the model, which is a model itself, and its places in the whole's flat vector.

After HeteroFL (Diao, Ding, Tarokh, arXiv 2010.01264) a weight of shape (n, m, ...) becomes
its leading (ceil(n / 2), ceil(m / 2), ...), where n counts the layer's own units or channels, and m those that it
reads. What the model reads and what it decides on stay whole: the inputs of the first layer, the classes of the head.
Everything follows from the layout, so coordinator and client have the same map and none travels. Seen as a matrix of
shape[0] rows, what is kept of a tensor is its upper left corner. So the part's flat vector lists places of the whole's
in ascending order, and what lies in any range of the whole is one range of the part: both can be read piece by piece.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.exact.layout import Block, Layout, Tensor


@dataclass(frozen=True, slots=True)
class _Corner:
    """Of a tensor of the whole vector, `rows` by `columns` from place `start` on, the first rows and columns, which are
    in the part from place `first` on."""

    start: int
    rows: int
    columns: int
    first: int
    kept_rows: int
    kept_columns: int

    @property
    def stop(self) -> int:
        return self.start + self.rows * self.columns


@dataclass(frozen=True, slots=True)
class Submodel:
    """A part of the model that is a model itself.

    Args:
        whole: The layout of the whole model.
        layout: The part's own, with tensors of the same names in the same order, each the leading part of the whole's.
    """

    whole: Layout
    layout: Layout

    def take(self, weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """The part's values of a vector of the whole.

        Args:
            weights: Float32 (whole.size,), contiguous.

        Returns:
            A new array, float32 (layout.size,).
        """
        part = np.empty(self.layout.size, np.float32)
        theirs = self.whole.views(weights)
        for name, view in self.layout.views(part).items():
            view[...] = theirs[name][tuple(slice(extent) for extent in view.shape)]
        return part

    def held(self, start: int, stop: int) -> NDArray[np.bool_]:
        """Which of the whole's places start .. stop - 1 the part has.

        Args:
            start: First place in the whole's vector.
            stop: Place after the last.

        Returns:
            Bool (stop - start,).
        """
        found = np.zeros(stop - start, np.bool_)
        for corner in self._corners():
            low, high = max(start, corner.start), min(stop, corner.stop)
            if low < high:
                top, skipped = divmod(low - corner.start, corner.columns)
                rows = np.zeros((-(-(high - corner.start) // corner.columns) - top, corner.columns), np.bool_)
                rows[: max(0, corner.kept_rows - top), : corner.kept_columns] = True
                found[low - start : high - start] = rows.reshape(-1)[skipped : skipped + high - low]
        return found

    def before(self, place: int) -> int:
        """How many of the whole's places 0 .. place - 1 the part has. So what it has of [a, b) is [before(a), before(b))
        of its own vector.

        Args:
            place: In the whole's vector, 0 to whole.size.
        """
        for corner in self._corners():
            if place < corner.stop:
                row, column = divmod(place - corner.start, corner.columns)
                rest = min(column, corner.kept_columns) if row < corner.kept_rows else 0
                return corner.first + min(row, corner.kept_rows) * corner.kept_columns + rest
        return self.layout.size

    def _corners(self) -> Iterator[_Corner]:
        for whole, part in zip(self.whole.tensors, self.layout.tensors, strict=True):
            rows, kept = (tensor.shape[0] if tensor.shape else 1 for tensor in (whole, part))
            yield _Corner(whole.start, rows, whole.size // rows, part.start, kept, part.size // kept)


@lru_cache(maxsize=16)
def half_width(layout: Layout) -> Submodel:
    """The half-width part of a model.

    Args:
        layout: Its first tensor is the weight that reads the inputs; a tensor's first axis are units of the layer, and
            its second, where it has one, those of the layer before.

    Raises:
        ValueError: The model does not end in a linear classifier: nothing says what its classes are.
    """
    if layout.head is None:
        raise ValueError("the model does not end in a linear classifier, so it has no half-width part")
    whole = {layout.head.weight_name, layout.head.bias_name}
    tensors: list[Tensor] = []
    trainable = place = 0
    for number, tensor in enumerate(layout.tensors):
        own, read, rest = tensor.shape[:1], tensor.shape[1:2], tensor.shape[2:]
        if tensor.name not in whole:
            own = tuple(map(half, own))
        if number > 0:
            read = tuple(map(half, read))
        tensors.append(Tensor(tensor.name, own + read + rest, place))
        place = tensors[-1].stop
        trainable = place if tensor.stop <= layout.trainable else trainable
    at = {theirs.start: mine.start for theirs, mine in zip(layout.tensors, tensors, strict=True)}
    at[layout.trainable] = trainable
    blocks = tuple(Block(block.name, at[block.start], at[block.stop]) for block in layout.blocks)
    head = replace(layout.head, features=half(layout.head.features))
    return Submodel(layout, Layout(tuple(tensors), trainable, place, blocks, head, at[layout.frozen]))


def half(units: int) -> int:
    """How many of so many units a half-width layer keeps: half of them, rounded up."""
    return -(-units // 2)
