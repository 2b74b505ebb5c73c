"""Vectors too large to hold many of: read a slice at a time."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Vector(Protocol):
    """A flat float32 vector: an array, a memory map, or one on disk of which a slice is read when it is asked for."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __getitem__(self, part: slice, /) -> NDArray[np.float32]:
        """`part` has a start, a stop and no step."""
        ...


class Optimiser(Protocol):
    """What a method remembers from a round to the next, on disk."""

    @property
    def before(self) -> Vector | None:
        """As the round before left it; None in the first."""
        ...

    def remember(self, start: int, values: NDArray[np.float32]) -> None:
        """From `start` on these are what the next round has. Any thread may say so of its piece."""
        ...


Each = Callable[[Callable[[int], None], Iterable[int]], Iterable[None]]
"""Calls a function with each of some numbers, in any order and perhaps in several threads, as `map` does."""
