"""Vectors too large to hold several of in memory, read a slice at a time, and their norms.

The exact norm is the same on every machine and costs a pass in float64. The approximate one is a third of that: squares
are summed in float32, in the order that the machine likes best, by rows so short that it is within TOLERANCE of the
exact one. No weight depends on it: where it cannot rule an outlier out (`robust_aggregation.none_clipped`), the exact
norms are taken.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

PIECE = 1 << 18
"""Values that are read at a time: what is held of a vector on disk is a few pieces."""


class LazyVector(Protocol):
    """A flat float32 vector: an array, a memory map, or one on disk of which a slice is read when it is asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n,), for n values."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Always float32."""
        ...

    def __getitem__(self, part: slice, /) -> NDArray[np.float32]:
        """Read a slice.

        Args:
            part: It has a start, a stop and no step.
        """
        ...


Mapper = Callable[[Callable[[int], None], Iterable[int]], Iterable[None]]
"""Calls a function with each of some numbers, in any order and perhaps in several threads, as `map` does."""


class Norm:
    """The Euclidean norm of a flat float32 vector that comes in parts, the same however it is parted. numpy's own sum and
    no BLAS, whose order differs by machine."""

    def __init__(self) -> None:
        self._squares: list[float] = []
        self._rest: NDArray[np.float32] = np.empty(0, np.float32)

    def add(self, values: NDArray[np.float32]) -> None:
        """The next values, float32 (n,)."""
        if self._rest.size:
            values = np.concatenate((self._rest, values))
        whole = values.size - values.size % PIECE
        self._squares += [_square_sum(values[start : start + PIECE]) for start in range(0, whole, PIECE)]
        self._rest = values[whole:].copy()

    @property
    def value(self) -> float:
        return math.sqrt(math.fsum((*self._squares, _square_sum(self._rest))))


def norm(vector: LazyVector) -> float:
    """The Euclidean norm of a vector, read piece by piece."""
    whole = Norm()
    for start in range(0, vector.shape[0], PIECE):
        whole.add(vector[start : start + PIECE])
    return whole.value


def _square_sum(values: NDArray[np.float32]) -> float:
    wide = values.astype(np.float64)
    wide *= wide
    return float(wide.sum())


ROW = 4096
TOLERANCE = 1e-3
"""Relative, four times what ROW roundings of 2^-24 can come to."""
SMALLEST, LARGEST = 2.0**-30, 2.0**60
"""Between these the squares that count neither vanish nor overflow."""


class ApproximateNorm:
    """The norm of a flat float32 vector that comes in parts, within TOLERANCE where `value` is from SMALLEST to LARGEST."""

    def __init__(self) -> None:
        self._squares = 0.0

    def add(self, values: NDArray[np.float32]) -> None:
        """The next values, float32 (n,)."""
        if not values.flags.aligned:
            values = values.copy()
        whole = values.size - values.size % ROW
        rows, rest = values[:whole].reshape(-1, ROW), values[whole:]
        with np.errstate(over="ignore"):  # becomes infinite
            self._squares += float(np.einsum("ij,ij->i", rows, rows).sum(dtype=np.float64))
            self._squares += float(np.einsum("i,i->", rest, rest))

    @property
    def value(self) -> float:
        return float(self._squares**0.5)


def approximate_norm(vector: NDArray[np.float32]) -> float:
    """The norm of a flat float32 vector that is held whole."""
    whole = ApproximateNorm()
    whole.add(vector)
    return whole.value
