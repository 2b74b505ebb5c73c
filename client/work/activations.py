"""What crosses the cut of a model in two, of the local data: how much is held at a time, and what is kept for good.

A round holds what crosses the cut for a piece of the data while it probes above the cut (`algorithms.nests`). Where nothing below the cut
moves, what crosses never changes, so it is kept from round to round, as far as there is room: of each example its own tokens', since the
padding of a batch differs. What is behind an example's tokens means nothing, and is 0 where it was kept.
"""

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.exact.layout import LOWER, UPPER, Cut, Layout
from zowarmup.common.models.program import Crossing

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
        self._kept: list[Crossing] = [()] * examples

    def kept(self, examples: NDArray[np.int64], length: int) -> Crossing | None:
        """What crosses for examples, int64 (n,), in a batch of `length` tokens: float32 (n, length, hidden) and, where any cross, (n, means);
        None where not all of it is known."""
        own = [self._kept[example] for example in examples]
        if not all(own):
            return None
        activations = np.zeros((len(own), length, self._cut.hidden), np.float32)
        for row, (one, *_) in zip(activations, own, strict=True):
            row[: len(one)] = one
        return (activations, *(np.stack(means) for means in zip(*(rest for _, *rest in own), strict=True)))

    def keep(self, examples: NDArray[np.int64], lengths: NDArray[np.int64], crossing: Crossing) -> None:
        """Keep as much of it as there is room for.

        Args:
            examples: int64 (n,).
            lengths: How many tokens each of them has, int64 (n,).
            crossing: As `kept` gives it, for a batch of any length.
        """
        for example, length, activations, *means in zip(examples, lengths, *crossing, strict=True):
            own = (activations[:length], *means)
            size = sum(part.nbytes for part in own)
            if not self._kept[example] and size <= self._left:
                self._left -= size
                self._kept[example] = tuple(part.copy() for part in own)


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
