"""A round from the sum of what its clients have measured along directions that they share, and of nothing else.

With secure aggregation nobody knows a client's scalars. What a client adds to the sum in their place is its estimate, a length
along each direction of the stream that all share, and the mean squares of its probes and of its projections, which normalised
steps are divided by. The weighted mean of these is what `Descent` takes from the scalars of all, one by one, so the round moves
the model as it would have, but for the unit that the sum is rounded to.

Nobody can compare clients, so none can be called an outlier. Instead each clips itself: by `clip` times what the root mean square
of the last round that was aggregated is over all, or, in the first, by STEEPEST. That bounds who is honest and odd, and not who
is neither.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.algorithms.descent import FLAT, STEEPEST, Descent
from zowarmup.common.algorithms.probe_plan import ProbePlan
from zowarmup.common.algorithms.protocol import Aggregate, ClientScalars, Start
from zowarmup.common.algorithms.robust_aggregation import root_mean_square
from zowarmup.common.algorithms.step_builder import Move
from zowarmup.common.exact.layout import Block
from zowarmup.common.messages.values import Scalars

MOST_SKETCHED = 2.0**24
"""Of what a client sends in the round that whitens, which are means of its features and of their products."""
Bounds = tuple[float, ...]
"""The largest root mean squares of probes and of projections that count in full; empty: those of a first round."""
_MARGIN = 1 + 2.0**-20
"""For what clipping leaves of a bound by rounding."""


@dataclass(frozen=True, slots=True)
class Summing:
    """Sums of one run's rounds.

    Args:
        descent: Down which the model goes.
    """

    descent: Descent

    @property
    def _plan(self) -> ProbePlan:
        return self.descent.plan

    @property
    def _projected(self) -> int:
        """The most projections that a client has."""
        return 0 if self._plan.head is None else self._plan.spec.local_steps * self._plan.projections

    def limits(self, bounds: Bounds) -> NDArray[np.float64]:
        """As `Algorithm.sum_limits`: directions that are probed, those of the head, and the two mean squares."""
        plan, (probed, projected) = self._plan, bounds or (STEEPEST, STEEPEST)
        each = [probed * max(1, plan.most)] * plan.width
        each += [projected * plan.spec.local_steps] * self._projected
        each += [probed**2 * max(1, plan.most), projected**2]
        return np.array(each) * _MARGIN

    def summand(self, part: ClientScalars, bounds: Bounds) -> NDArray[np.float64]:
        """As `Algorithm.summand`."""
        plan, (probed, projected) = self._plan, bounds or (STEEPEST, STEEPEST)
        probes, projections = _within(part.scalars.probes, probed), _within(part.scalars.projections, projected)
        part = part._replace(scalars=Scalars(part.scalars.round, probes, projections))
        found = np.zeros(plan.width + self._projected + 2)
        weights = plan.weights(part) if probes else []
        for (_, index), weight, derivative in zip(plan.directions(part), weights, probes, strict=True):
            found[index] += weight * derivative
        for index, projection in enumerate(projections):
            found[plan.width + index] = projection / plan.projections
        found[-2] = plan.mean_square(part) if probes else 0.0
        found[-1] = root_mean_square(projections) ** 2
        return found

    def aggregate(self, start: Start, mean: NDArray[np.float64], contributors: Sequence[ClientScalars]) -> Aggregate:
        """As `Algorithm.aggregate_mean`, of a round that moves the model."""
        squares = [max(0.0, float(square)) for square in mean[-2:]]
        seed = contributors[0].seed

        def estimate(factors: Mapping[Block, float]) -> list[Move]:
            return list(self._moves(seed, mean, factors))

        moves, moments = self.descent.descended(start, contributors, estimate, *squares)
        clip = self._plan.spec.clip
        bounds = tuple(_next(clip, math.sqrt(square)) for square in squares) if clip else ()
        return Aggregate(moves=tuple(moves), turn=start.done, optimizer_state=moments, bounds=bounds)

    def _moves(self, seed: int, mean: NDArray[np.float64], factors: Mapping[Block, float]) -> Iterator[Move]:
        plan = self._plan
        if (block := plan.probed) is not None:
            for index, length in enumerate(mean[: plan.width].tolist()):
                yield from plan.along(Move(plan.stream(seed), block, index, factors[block] * length))
        if (head := plan.head) is not None:
            for index, length in enumerate(mean[plan.width : -2].tolist()):
                yield Move(seed, head, index, factors[head] * length)


def _within(values: tuple[float, ...], bound: float) -> tuple[float, ...]:
    """The values, scaled down where their root mean square is above the bound."""
    size = root_mean_square(values)
    return tuple(value * (bound / size) for value in values) if size > bound else values


def _next(clip: float, size: float) -> float:
    return clip * size if size >= FLAT else STEEPEST
