"""Server optimizer state: loaded from the previous round's blob and written to a new one.

A server optimiser's moments are twice the model, so they stay on disk: a piece is read, used and written at a time. The
new blob has a name only once it is whole, and counts once a commit's snapshot names it; a round that cannot be combined
leaves the old one as it is.
"""

import contextlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.algorithms.vectors import LazyVector
from zowarmup.server.store.blobs import BlobError, Blobs, Draft


class OptimizerState:
    """An `Optimiser` for one round: `before` is what the last one left, None at first; `kept` the sha256 of the blob with
    what this one leaves, empty until `keep` and where nothing is to be remembered."""

    def __init__(self, before: LazyVector | None, draft: Draft | None) -> None:
        self.before, self.kept, self._draft = before, "", draft

    def remember(self, start: int, values: NDArray[np.float32]) -> None:
        """Any thread; raises DiskRefused."""
        assert self._draft is not None
        self._draft.write(4 * start, values.data.cast("B"))


@contextlib.contextmanager
def optimizer_state(blobs: Blobs, before: str, size: int) -> Iterator[OptimizerState]:
    """For a round of a method that remembers `size` float32 values, the last ones in the blob `before` (empty: none).
    What it wrote is a durable blob once the block is left without an error, and gone otherwise. Raises BlobError where
    the blob is missing or of another size, DiskRefused."""
    if not size:
        yield OptimizerState(None, None)
        return
    known = blobs.flat(before) if before else None
    if known is not None and known.shape != (size,):
        raise BlobError(f"{blobs.path(before)} holds {known.shape[0]} values, not the {size} of the optimiser")
    with blobs.draft() as draft:
        moments = OptimizerState(known, draft)
        yield moments
        moments.kept = blobs.keep(draft)
