"""DeComFL: one set of directions a round, shared by all clients, so that only averaged scalars are sent back.

Li et al., arXiv 2405.15861. All participants of a round have one seed; each measures the directional derivatives of its
loss along the same directions, on its own data, and the coordinator averages them direction by direction. A commit is
one step in the probed block (and one in the head's), whatever the number of clients, so the downlink does not grow with
the fleet. The price is that a round explores S directions and not S times as many as there are clients. All else is as
in `zowarmup`: slices, the exact head, exact projections, normalised steps and local steps (their K).

Seeds are those of a round in any other algorithm, pairs of (seed, index): sums of the two, as in the authors' code,
collide.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from zowarmup.common.algorithms.settings import WarmUp, check_aggregate
from zowarmup.common.algorithms.zowarmup import ZOWarmUp, ZOWarmUpSettings
from zowarmup.common.exact.layout import Layout


@dataclass(frozen=True, kw_only=True, slots=True)
class DeComFLSettings(ZOWarmUpSettings):
    """As ZOWarmUp's, but all clients of a round have the same directions.

    So commits do not grow with the fleet, and what clients send can be compared.

    Args:
        algorithm: Its name, or package.module:Algorithm.
        aggregate: The weighted mean ("mean"); or direction by direction, without weights, the mean of all values but
            the share `trim` at either end ("trimmed") or the median ("median").
        trim: With "trimmed": the share that is left out at either end, above 0 and below 0.5.

    Raises:
        ValueError: A setting is out of its range, or does not go with the others; the sentence names it.
    """

    shared_directions: ClassVar[bool] = True
    sums: ClassVar[bool] = True

    algorithm: Literal["decomfl"] = "decomfl"  # type: ignore[assignment]
    aggregate: Literal["mean", "trimmed", "median"] = "mean"
    trim: float = 0.25

    def __post_init__(self) -> None:
        ZOWarmUpSettings.__post_init__(self)
        check_aggregate(self.weighting, self.aggregate, self.trim)

    def build(self, layout: Layout, pool_seed: int = 0, warmup: WarmUp | None = None) -> "DeComFL":
        return DeComFL(self, layout)


class DeComFL(ZOWarmUp):
    """`aggregate` adds up what lies along one direction, whoever sent it; shared directions are all it takes."""

    __slots__ = ()
