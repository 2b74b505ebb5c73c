"""The first zeroth-order round of a run that whitens features: what a client sends in it, and what becomes of that.

The model computes the same after it (`whitening`), so a client that misses it has missed nothing, and an abandoned one is simply
repeated. What was sent is weighed and clipped as scalars are in any other round.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.algorithms.directional_derivatives import as_float32
from zowarmup.common.algorithms.protocol import ClientScalars, Forward, Update, Vectors
from zowarmup.common.algorithms.vectors import PIECE
from zowarmup.common.algorithms.whitening import (
    Moments,
    covariance,
    moments_of,
    sign_vectors,
    value_count,
    whitened,
    whitening,
)
from zowarmup.common.exact.layout import Layout
from zowarmup.common.messages.values import Scalars, Work


@dataclass(frozen=True, slots=True)
class WhiteningRound:
    """The round that finds out what the features are like and moves nothing else.

    Args:
        layout: Of the model, with a head and the buffer.
    """

    layout: Layout
    _rank: int = field(init=False)
    _features: int = field(init=False)

    def __post_init__(self) -> None:
        assert self.layout.whitening is not None
        rows, features = self.layout.whitening.shape
        object.__setattr__(self, "_rank", rows - 2)
        object.__setattr__(self, "_features", features)

    @property
    def values(self) -> int:
        """How many numbers a client sends."""
        return value_count(self._rank, self._features)

    def contribute(self, forward: Forward, examples: int, work: Work) -> Scalars:
        """What a client sends, as its projections, in float32 whatever the others are rounded to.

        Args:
            forward: The model's forward pass.
            examples: How many the client holds, at least 1.
            work: Its part of the round.
        """
        moments = moments_of(forward.features(np.arange(examples)), self._signs(work.seed))
        return Scalars(work.round, (), as_float32(moments.values()))

    def update(self, weights: NDArray[np.float32], parts: Sequence[tuple[float, ClientScalars]]) -> Update:
        """The same model with whitened features.

        Args:
            weights: Float32 (layout.size,).
            parts: Of each client its share of the mean, which add up to 1, and what it sent.
        """
        known = [
            (share, Moments.of_values(part.scalars.projections, self._features), self._signs(part.seed))
            for share, part in parts
        ]
        moved = whitened(weights, self.layout, whitening(*covariance(known), self._rank))

        def piece(place: slice, out: NDArray[np.float32]) -> Vectors:
            out[:] = moved[place]
            return ()

        return Update(piece, PIECE)

    def _signs(self, seed: int) -> NDArray[np.float64]:
        return sign_vectors(seed, self.layout.block("head").start, self._features, self._rank)
