"""Scalars rounded to what a byte or half of one holds, so that their mean stays what it was.

After "Just One Byte (per gradient)" (Zelikman et al., arXiv 2306.10015), which sends each scalar of a zeroth-order round as
one byte on a logarithmic scale. The numbers there are, are those of `messages.small_floats`: for the scalars of one kind of
a contribution an exponent e, sent with them, and for each a level and a sign. A scalar x with |x| / 2^e between the levels
a and b becomes

    sign(x) * b * 2^e    with probability (|x| / 2^e - a) / (b - a),    sign(x) * a * 2^e    otherwise

which is x in the mean. With y for |x| / 2^e the variance is (b - y) (y - a) 4^e. Of a byte that is at most 1/288 of the
square of x, and 1/700 in the mean over an octave, unless x is 10,000 times smaller than the largest scalar. A nibble's levels
go over four octaves; how much it adds depends on how far the scalars of a contribution lie apart (docs/method.md).

The random numbers follow from the seed of the work and the place of the scalar, so a client that is asked again sends the same
bytes. Clients that share a seed share them, so the errors of those that agree do not average out.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.exact.directions import words
from zowarmup.common.messages.small_floats import Precision, exponent, mantissa_bits
from zowarmup.common.messages.values import Scalars

_STREAM = 1 << 62
"""Of the work's seed: far from those that order examples and draw from a pool."""


def rounded(scalars: Scalars, precision: Precision, seed: int) -> Scalars:
    """A contribution in another precision, without bias.

    Args:
        scalars: As measured, float32.
        precision: What each scalar is to travel as.
        seed: Of the client's work.

    Returns:
        The same with FLOAT32; else each scalar is one of the two numbers beside it.
    """
    if precision is Precision.FLOAT32:
        return scalars
    count = len(scalars.probes)
    # The upper 53 bits, as a number from 0 to below 1.
    chances = (words(seed, _STREAM, count + len(scalars.projections)) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return replace(
        scalars,
        probes=_rounded(scalars.probes, precision, chances[:count]),
        projections=_rounded(scalars.projections, precision, chances[count:]),
        precision=precision,
    )


def _rounded(values: Sequence[float], precision: Precision, chances: NDArray[np.float64]) -> tuple[float, ...]:
    """Every operation is exact: powers of two, and differences of neighbours."""
    shared = exponent(values, precision)
    given = np.array(values, dtype=np.float64)
    exact = np.ldexp(np.abs(given), -shared)
    octaves = np.frexp(exact)[1] - 1  # of y from 2^k to below 2^(k+1), k
    between = np.maximum(octaves - mantissa_bits(precision), 0)  # levels there lie 2^between apart
    in_units = np.ldexp(exact, -between)
    below = np.floor(in_units)
    found = np.ldexp(below + (chances < in_units - below), between + shared)
    return tuple((np.sign(given) * found + 0.0).tolist())  # 0 and not -0
