"""Adam on a zeroth-order estimate: one second moment for each block, no first moment.

Adam (Kingma and Ba, arXiv 1412.6980; on a server: Reddi et al., arXiv 2003.00295) divides each parameter's step by the
root of a running mean of its squared gradient. Here the gradient of parameter p is an estimate, the sum over directions
of c_k z_kp with random signs z, whose mean square is the sum of c_k^2 and, as good as, the same for every p of a block:
what distinguishes the parameters, the square of their own gradient, is smaller by the number of parameters over that of
directions. So the diagonal that Adam would learn is a number for each block, and with a number the step stays a step:
ticks along seeded directions, exact, and no larger on the wire. (Adam-mini, arXiv 2406.16793, shares second moments over
blocks for its own reasons.)

A first moment would have to be a vector, or the directions of all rounds that it still remembers in every commit; it
was tried on this estimate without gain (docs/method.md), and is left out.

The moments are the share of the past that is still missing (1 before the first round, for the bias correction) and then
one second moment for each block. They are part of a commit's event, so that a restart goes on with the same bits.
"""

import math
from collections.abc import Iterable, Sequence

from zowarmup.common.algorithms.protocol import Moments
from zowarmup.common.algorithms.step_builder import Move
from zowarmup.common.exact.layout import Block


def mean_squares(moves: Iterable[Move], blocks: Sequence[Block]) -> list[float]:
    """For each block the mean square, over all signs, of what the moves do to one of its parameters."""
    along: dict[tuple[Block, int, int], list[float]] = {}
    for seed, block, index, length in moves:
        along.setdefault((block, seed, index), []).append(length)
    squares = [(block, math.fsum(lengths) ** 2) for (block, _, _), lengths in along.items()]
    return [math.fsum(square for there, square in squares if there == block) for block in blocks]


def advanced(before: Moments, squares: Sequence[float], beta2: float) -> Moments:
    """The moments after a round with those mean squares. `before` is empty at the first."""
    missing, *seconds = before or (1.0, *(0.0 for _ in squares))
    return (missing * beta2, *(beta2 * v + (1 - beta2) * q for v, q in zip(seconds, squares, strict=True)))


def sizes(moments: Moments) -> list[float]:
    """The root of each block's second moment, corrected for the start at 0."""
    missing, *seconds = moments
    return [math.sqrt(second / (1 - missing)) for second in seconds]
