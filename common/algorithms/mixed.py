"""Mixed rounds: after the pivot the high tier goes on with FedAvg while the low tier sends scalars.

Table 7 of Legate et al., arXiv 2509.03503, where it does worse than scalars from everyone; here to be compared with.
Each kind of contribution makes the next weights on its own, from the clients that sent it, and the model becomes the
mean of the two by their weights,

    w  <-  share * FedAvg(w) + (1 - share) * ZOWarmUp(w)        share: of the examples that those who trained claim

A mean of deltas is a whole vector, so every such version is a snapshot, which everybody fetches. A round in which
nobody trained is ZOWarmUp's, one in which nobody probed is FedAvg's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.algorithms.fedavg import FedAvg, FedAvgSettings
from zowarmup.common.algorithms.probing import WholeProbingSettings, check_local_steps
from zowarmup.common.algorithms.protocol import (
    Aggregate,
    ClientScalars,
    LocalTraining,
    Start,
    Trained,
    Update,
    Vectors,
    wrong_kind,
)
from zowarmup.common.algorithms.robust_aggregation import counted
from zowarmup.common.algorithms.settings import WarmUp, Weighting, require
from zowarmup.common.algorithms.step_builder import CommitCost
from zowarmup.common.algorithms.zowarmup import ZOWarmUp
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import Layout
from zowarmup.common.exact.steps import apply_steps
from zowarmup.common.exact.submodel import Submodel
from zowarmup.common.messages.values import Computation, Contribution, Delta, Tier, Work


@dataclass(frozen=True, kw_only=True, slots=True)
class MixedSettings(WholeProbingSettings):
    """As ZOWarmUp's, for the low tier; the high tier trains as the warm-up's settings say, which are FedAvg's.

    Args:
        algorithm: Its name, or package.module:Algorithm.
        head_projections: K, the number of exact projections of the head's gradient.
        local_steps: How many times over a client probes, moving its own replica in between.
        local_rate: The learning rate of these steps; 0: `rate`.

    Raises:
        ValueError: A setting is out of its range; the sentence names it.
    """

    algorithm: Literal["mixed"] = "mixed"
    head_projections: int = 32
    local_steps: int = 1
    local_rate: float = 0.0

    def __post_init__(self) -> None:
        check_local_steps(self)
        WholeProbingSettings.__post_init__(self)

    def computation(self, tier: Tier) -> Computation | None:
        return Computation.TRAINING if tier is Tier.HIGH else Computation.FORWARD

    def build(self, layout: Layout, pool_seed: int = 0, warmup: WarmUp | None = None) -> "Mixed":
        training = FedAvgSettings(rounds=0) if warmup is None else warmup
        assert isinstance(training, FedAvgSettings)
        return Mixed(self, layout, FedAvg(training, layout))

    def check_warm_up(self, warmup: WarmUp) -> None:
        allowed = '"fedavg" with zeroth_order.algorithm = "mixed"'
        require(type(warmup) is FedAvgSettings, "warmup.algorithm", warmup.algorithm, allowed)


@dataclass(frozen=True, slots=True)
class Mixed(ZOWarmUp):
    """ZOWarmUp among the low tier, and FedAvg, as in the warm-up, among the high tier.

    Args:
        spec: The settings.
        layout: Of the model.
        averaging: What the high tier does.
    """

    averaging: FedAvg

    @property
    def training(self) -> LocalTraining:
        return self.averaging.training

    def submodel(self, tier: Tier) -> Submodel | None:
        return self.averaging.submodel(tier)

    def uplink_values(self, tier: Tier, examples: int) -> int:
        return self._of(tier).uplink_values(tier, examples)

    def uplink_bytes(self, tier: Tier, examples: int) -> int:
        return self._of(tier).uplink_bytes(tier, examples)

    def commit_cost(self, contributors: Sequence[Tier], examples: int, grid: Grid) -> CommitCost:
        """As `Algorithm.commit_cost`: of the whole model where anyone trains."""
        return self._of(max(contributors, key=(Tier.LOW, Tier.HIGH).index)).commit_cost(contributors, examples, grid)

    def forwards(self, tier: Tier, examples: int) -> int:
        return self._of(tier).forwards(tier, examples)

    def walks(self, tier: Tier, examples: int) -> int:
        return self._of(tier).walks(tier, examples)

    def check(self, work: Work, tier: Tier, examples: int, contribution: Contribution) -> None:
        if tier is Tier.HIGH and not isinstance(contribution, Delta):
            raise ValueError(f"{wrong_kind(contribution, work)} from the {tier} tier")
        if tier is Tier.HIGH:
            self.averaging.check(work, tier, examples, contribution)
        else:
            ZOWarmUp.check(self, work, tier, examples, contribution)

    def _of(self, tier: Tier) -> FedAvg | ZOWarmUp:
        return self.averaging if tier is Tier.HIGH else ZOWarmUp(self.spec, self.layout)

    def aggregate(self, start: Start, contributions: Sequence[ClientScalars | Trained]) -> Aggregate:
        """As ZOWarmUp's and FedAvg's, or the mean of what these two make."""
        trained = [given for given in contributions if isinstance(given, Trained)]
        parts = [given for given in contributions if isinstance(given, ClientScalars)]
        if not trained:
            return ZOWarmUp.aggregate(self, start, parts)
        averaged = self.averaging.aggregate(start, trained)
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
            optimizer_state=stepped.optimizer_state,
            clipped_scalars=stepped.clipped_scalars,
            clipped_deltas=averaged.clipped_deltas,
            notes=averaged.notes,
        )


def share_of_trained(trained: Sequence[int], probed: Sequence[int], spec: Weighting) -> float:
    """The weight of those who trained in the mean of both kinds of contribution.

    Args:
        trained: How many examples each of those claims to hold who trained.
        probed: The same of those who probed.
        spec: The phase's settings.

    Returns:
        0 to 1.
    """
    counts = counted([*trained, *probed], spec)
    return sum(counts[: len(trained)]) / sum(counts)
