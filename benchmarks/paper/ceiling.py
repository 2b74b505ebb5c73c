"""The ceiling of one step a round: every client, of either tier, back-propagates and sends all of its gradient.

FedSGD (McMahan et al., arXiv 1602.05629): one step of gradient descent on the whole local data, and the weighted mean of the
deltas. No device that cannot back-propagate could do it, and a contribution is as large as the model. It is what methods that
send scalars are measured against, as `algorithm = "benchmarks.paper.ceiling:FedSGD"` after the pivot.
"""

from dataclasses import dataclass, replace
from typing import Self

from zowarmup.common.algorithms.fedavg import FedAvg, FedAvgSettings
from zowarmup.common.algorithms.settings import WarmUp, ZerothOrder
from zowarmup.common.exact.layout import Layout
from zowarmup.common.messages.values import Computation, Tier

WHOLE = 65536
"""Examples in a batch: more than any client of these tables holds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FedSGDSettings(ZerothOrder):
    """`rate` is that of the step."""

    algorithm: str = "benchmarks.paper.ceiling:FedSGD"

    def computation(self, tier: Tier) -> Computation | None:
        return Computation.TRAINING

    def slowed(self, factor: float) -> Self:
        return replace(self, rate=self.rate * factor)

    def build(self, layout: Layout, pool_seed: int = 0, warmup: WarmUp | None = None) -> "FedSGD":
        return FedSGD(FedAvgSettings(rounds=0, epochs=1, batch=WHOLE, rate=self.rate), layout)


class FedSGD(FedAvg):
    """Everybody's step."""

    __slots__ = ()

    Settings = FedSGDSettings
