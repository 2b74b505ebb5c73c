"""Mixed rounds: after the pivot the high tier goes on with FedAvg, the low tier sends scalars.

Table 7 of Legate et al., arXiv 2509.03503, where it does worse than scalars from everyone; here to be compared with. Each
kind of contribution makes the next weights on its own, from the clients that sent it, and the model becomes the mean of
the two by their weights,

    w  <-  share * FedAvg(w) + (1 - share) * ZOWarmUp(w)        share: of the examples that those who trained claim

A mean of deltas is a whole vector, so every such version is a snapshot, which everybody fetches. A round in which nobody
trained is ZOWarmUp's, one in which nobody probed is FedAvg's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.methods.aggregation import counted
from zowarmup.common.methods.fedavg import FedAvg
from zowarmup.common.methods.protocol import Aggregate, Part, Start, Trained, Update, Vectors, wrong_kind
from zowarmup.common.methods.zeroth_order import ZOWarmUp
from zowarmup.common.phases import Aggregation
from zowarmup.common.steps import apply_steps
from zowarmup.common.submodel import Submodel
from zowarmup.common.work import Contribution, Delta, Tier, Work


@dataclass(frozen=True, slots=True)
class Mixed(ZOWarmUp):
    """ZOWarmUp among the low tier, and `training`, as in the warm-up, among the high tier."""

    training: FedAvg

    def submodel(self, tier: Tier) -> Submodel | None:
        return self.training.submodel(tier)

    def check(self, work: Work, tier: Tier, examples: int, contribution: Contribution) -> None:
        if tier is Tier.HIGH and not isinstance(contribution, Delta):
            raise ValueError(f"{wrong_kind(contribution, work)} from the {tier} tier")
        if tier is Tier.HIGH:
            self.training.check(work, tier, examples, contribution)
        else:
            ZOWarmUp.check(self, work, tier, examples, contribution)

    def aggregate(self, start: Start, contributions: Sequence[Part | Trained]) -> Aggregate:
        """As ZOWarmUp's and FedAvg's, or the mean of what these two make."""
        trained = [given for given in contributions if isinstance(given, Trained)]
        parts = [given for given in contributions if isinstance(given, Part)]
        if not trained:
            return ZOWarmUp.aggregate(self, start, parts)
        averaged = self.training.aggregate(start, trained)
        assert averaged.update is not None
        if not parts:
            return averaged
        stepped = ZOWarmUp.aggregate(self, start, parts)
        probed = start.weights.copy()
        apply_steps(probed, start.grid, stepped.steps(start.grid))
        share, whole = (
            share_of_trained([g.examples for g in trained], [p.examples for p in parts], self.spec),
            averaged.update,
        )

        def piece(place: slice, out: NDArray[np.float32]) -> Vectors:
            kept = whole.piece(place, out)
            mean = np.multiply(out, share, dtype=np.float64)
            mean += np.multiply(probed[place], 1 - share, dtype=np.float64)
            with np.errstate(over="ignore"):  # becomes infinite
                out[:] = mean
            return kept

        return Aggregate(
            update=Update(piece, whole.extent),
            moments=stepped.moments,
            clipped_scalars=stepped.clipped_scalars,
            clipped_deltas=averaged.clipped_deltas,
            notes=averaged.notes,
        )


def share_of_trained(trained: Sequence[int], probed: Sequence[int], spec: Aggregation) -> float:
    """What those who trained weigh against those who probed, each claiming so many examples: 0 to 1."""
    counts = counted([*trained, *probed], spec)
    return sum(counts[: len(trained)]) / sum(counts)
