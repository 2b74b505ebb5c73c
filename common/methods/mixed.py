"""Mixed rounds: after the pivot the high tier goes on with FedAvg, the low tier sends scalars.

Table 7 of Legate et al., arXiv 2509.03503, where it does worse than scalars from everyone; here to be compared with. Each
kind of contribution makes the next weights on its own, from the clients that sent it, and the model becomes the mean of
the two by their weights. A mean of deltas is a whole vector, so every such version is a snapshot, which everybody fetches.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.methods.aggregation import counted
from zowarmup.common.methods.vector import Each
from zowarmup.common.phases import Aggregation


def share_of_trained(trained: Sequence[int], probed: Sequence[int], spec: Aggregation) -> float:
    """What those who trained weigh against those who probed, each claiming so many examples: 0 to 1."""
    counts = counted([*trained, *probed], spec)
    return sum(counts[: len(trained)]) / sum(counts)


def mixed(
    trained: NDArray[np.float32], probed: NDArray[np.float32], share: float, piece: int, each: Each = map
) -> NDArray[np.float32]:
    """share * trained + (1 - share) * probed, float32 (n,), in float64 and by pieces of `piece` that `each` goes
    through: a new array, not yet on a grid."""
    moved = np.empty_like(trained)

    def mix(start: int) -> None:
        part = slice(start, min(start + piece, trained.size))
        mean = np.multiply(trained[part], share, dtype=np.float64)
        mean += np.multiply(probed[part], 1 - share, dtype=np.float64)
        moved[part] = mean

    for _ in each(mix, range(0, trained.size, piece)):
        pass
    return moved
