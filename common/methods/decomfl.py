"""DeComFL: one set of directions a round, the same for everyone, so that only averaged scalars go out.

Li et al., arXiv 2405.15861. All participants of a round have one seed; each measures the slopes along the same
directions, on its own data, and the coordinator averages what it gets along each of them. A commit is one step in the
probed block (and one in the head's), whatever the number of clients, so the downlink does not grow with the fleet. The
price is that a round explores S directions and not S times as many as there are clients. All else is as in `zeroth_order`:
slices, the exact head, exact projections, normalised steps and local steps (their K).

Seeds are those of a round in any other method, pairs of (seed, index): sums of the two, as in the authors' code, collide.
"""

from dataclasses import dataclass
from typing import ClassVar

from zowarmup.common.methods.zeroth_order import ZOWarmUp


@dataclass(frozen=True, slots=True)
class DeComFL(ZOWarmUp):
    """`aggregate` adds up what lies along one direction, whoever sent it; shared seeds are all it takes."""

    shared_seeds: ClassVar[bool] = True
