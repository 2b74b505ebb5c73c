"""Features of the local data: what the model makes of each example below the head, kept while nothing there moves.

Where the head alone is trained, as by default, they are computed once a run, by a forward pass over all examples, and a
contribution costs a matrix product instead. They are kept as they are before they are whitened: the round that finds out
how computes them, and all later ones use them. Outputs always come from them, also in the pass that computes them, so a
contribution is the same whether they were kept or not.
"""

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.exact.layout import Head, Layout, digesting

MOST_BYTES = 1 << 24
"""That are kept; of a larger data set none are. Beside what a contribution was measured to take, so it is little."""


class Features:
    """Those of one data set at one state of the frozen parameters.

    Args:
        layout: Of the model, with a head.
        examples: How many there are.
        most_bytes: Beyond which nothing is kept.
    """

    def __init__(self, layout: Layout, examples: int, most_bytes: int = MOST_BYTES) -> None:
        assert layout.head is not None
        self._head: Head = layout.head
        self._layout, self._frozen, self._below = layout, b"", b""
        self._known = np.zeros(examples, np.bool_)
        self._keeps = examples * self._head.features * 4 <= most_bytes
        self._rows = np.empty((0, self._head.features), np.float32)

    def take(self, weights: NDArray[np.float32], frozen: bytes) -> None:
        """Forget what was kept unless all below the head is as it was.

        Args:
            weights: The model's, float32 (layout.size,).
            frozen: Their `Layout.frozen_digest`: where it is as it was, they are not read. Empty where it is not known.
        """
        if frozen and frozen == self._frozen:
            return
        below = digesting()
        for part in (
            weights[: self._layout.block("head").start],
            weights[self._layout.trainable : self._layout.uploaded],
        ):
            below.update(part.data.cast("B"))
        self._frozen = frozen
        if below.digest() != self._below:
            self._below, self._known[:] = below.digest(), False

    def kept(self, examples: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """The features (n, h) of examples, int64 (n,); None where they are not all known."""
        return self._rows[examples] if self._known[examples].all() else None

    def keep(self, examples: NDArray[np.int64], features: NDArray[np.float32]) -> None:
        """Keep the features (n, h) of examples, int64 (n,)."""
        if not self._keeps:
            return
        if not len(self._rows):
            self._rows = np.empty((self._known.size, self._head.features), np.float32)
        self._rows[examples], self._known[examples] = features, True

    def outputs(self, features: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the head makes of features (n, h).

        Args:
            features: Float32 (n, h), whitened where the model whitens them.
            weights: The model's, float32 (layout.size,).

        Returns:
            Float32 (n, outputs).
        """
        start, head = self._layout.block("head").start, self._head
        stop = start + head.classes * head.features
        found = features @ weights[start:stop].reshape(head.classes, head.features).T
        if head.bias_name is not None:
            found += weights[stop : stop + head.classes]
        return found
