"""What crosses the cut of a model in two, of the local data: how much is held at a time, and what is kept for good.

A round holds what crosses the cut for a piece of the data while it probes above the cut (`algorithms.nests`). Where nothing below the cut
moves, what crosses never changes, so it is kept from round to round, as far as there is room: of each example its own tokens', since the
padding of a batch differs. What is behind an example's tokens means nothing, and is 0 where it was kept.
"""

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.exact.layout import LOWER, UPPER, Cut, Layout

HELD_BYTES = 1 << 24
"""Of what crosses the cut on one side of a direction below it: pieces are so large, or a micro-batch where that is larger."""
KEPT_BYTES = 1 << 25
"""For good; what is beyond is computed anew in each round."""


class Activations:
    """What crosses the cut, of one data set.

    Args:
        cut: Of the model.
        examples: How many there are.
        most_bytes: Beyond which nothing more is kept.
    """

    def __init__(self, cut: Cut, examples: int, most_bytes: int = KEPT_BYTES) -> None:
        self._cut, self._left = cut, most_bytes
        self._activations: list[NDArray[np.float32] | None] = [None] * examples
        self._means: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * examples

    def kept(self, examples: NDArray[np.int64], length: int) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """What crosses for examples, int64 (n,), in a batch of `length` tokens: float32 (n, length, hidden) and (n, means); None where not
        all of it is known."""
        own = [self._activations[example] for example in examples]
        if any(one is None for one in own):
            return None
        found = np.zeros((len(own), length, self._cut.hidden), np.float32)
        for row, one in zip(found, own, strict=True):
            assert one is not None
            row[: len(one)] = one
        return found, np.stack([self._means[example] for example in examples])

    def keep(
        self,
        examples: NDArray[np.int64],
        lengths: NDArray[np.int64],
        activations: NDArray[np.float32],
        means: NDArray[np.float32],
    ) -> None:
        """Keep as much of it as there is room for.

        Args:
            examples: int64 (n,).
            lengths: How many tokens each of them has, int64 (n,).
            activations: Float32 (n, t, hidden).
            means: Float32 (n, means).
        """
        for example, length, own, mean in zip(examples, lengths, activations, means, strict=True):
            size = own[:length].nbytes + mean.nbytes
            if self._activations[example] is None and size <= self._left:
                self._left -= size
                self._activations[example], self._means[example] = own[:length].copy(), mean.copy()


def never_moves_below(layout: Layout) -> bool:
    """Whether what crosses the cut of a model is the same in all rounds: what lies below is constant."""
    return layout.cut is not None and layout.block(UPPER).start == 0


def most_bytes(layout: Layout, examples: int, tokens: int) -> int:
    """What a device takes at most for what crosses the cut; 0 where the model has none.

    Args:
        layout: Of the model.
        examples: How many the device holds; 0: nobody knows.
        tokens: How many an example has at most.
    """
    if layout.cut is None:
        return 0
    everything = 4 * (tokens * layout.cut.hidden + layout.cut.means) * (examples or 1 << 40)
    sides = 2 if any(block.name == LOWER for block in layout.blocks) else 1
    kept = min(everything, KEPT_BYTES) if never_moves_below(layout) else 0
    return sides * min(everything, HELD_BYTES) + kept
