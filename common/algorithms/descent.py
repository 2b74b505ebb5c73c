"""Descent along what was measured: from clients' scalars to moves of the model.

The estimate of the gradient is the weighted mean over clients of sum_s (n_s / n) dL_s z_s in the probed block and of
1/K sum_k p_k z_k in the head's. The model steps down it by `rate`; a "normalized" step is divided by the root mean square
of the round's derivatives, in the same weighted mean (FZOO, arXiv 2506.09034, divides by the losses' spread), and
annealed linearly; in the head's block by that of the projections where it is the larger. Where features are whitened each
block has a pace of its own (`paces`). A round moves a block no further, root mean square over its parameters, than
the rate, once for each local step, whatever the scalars are; a "raw" step has a bound of its own (`_limit`).

The coordinator moves the model so by the scalars of all, and a client that takes local steps its own replica by what it
has measured so far. The same arguments give the same moves, everywhere; they become whole ticks in
`step_builder.steps_of`.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.algorithms.directional_derivatives import GAUSSIAN_SIGNS
from zowarmup.common.algorithms.probe_plan import ProbePlan
from zowarmup.common.algorithms.probing import ProbingSettings
from zowarmup.common.algorithms.protocol import ClientScalars, Start
from zowarmup.common.algorithms.robust_aggregation import (
    counted,
    largest_unclipped,
    left_out,
    reference_norm,
    root_mean_square,
    trimmed_moves,
)
from zowarmup.common.algorithms.step_builder import (
    CommitCost,
    Moments,
    Move,
    adam_sizes,
    advanced_moments,
    expected_cost,
    held,
    mean_squares,
    steps_of,
)
from zowarmup.common.algorithms.vectors import norm
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import Block
from zowarmup.common.exact.steps import Step
from zowarmup.common.messages.values import Scalars, Tier

HEAD_PACE, PROBED_PACE = 3.0, 1.0
"""Beside the rate, of a block's step where features are whitened: of the head found on digits and CIFAR-10, of what is probed
on SST-2 (docs/method.md)."""
FLAT, STEEPEST = 2.0**-40, 2.0**12
"""Derivatives, nats per unit of weight. A root mean square below FLAT is what rounding leaves of a loss that does not
change. A step that is not divided by it is as long, at most, as with STEEPEST."""


@dataclass(frozen=True, slots=True)
class Descent:
    """Steps down the estimates of one run.

    Args:
        plan: By which clients probe.
    """

    plan: ProbePlan

    @property
    def spec(self) -> ProbingSettings:
        """The settings."""
        return self.plan.spec

    def moves(self, start: Start, parts: Sequence[ClientScalars]) -> tuple[list[Move], Moments]:
        """What a round does to the model, for each client in the order given: in the probed block and, where there are
        projections, in the head's.

        Args:
            start: What the round starts from.
            parts: The clients' scalars, at least one's, outliers scaled down already.

        Returns:
            The moves, which are zero where the derivatives that they are to be divided by are; and Adam's next moments.
        """
        return self.descended(start, parts, lambda factors: self._estimate(parts, factors), *self._mean_squares(parts))

    def descended(
        self,
        start: Start,
        parts: Sequence[ClientScalars],
        estimate: Callable[[Mapping[Block, float]], list[Move]],
        probed_square: float,
        head_square: float,
    ) -> tuple[list[Move], Moments]:
        """As `moves`, of an estimate that is known.

        Args:
            start: What the round starts from.
            parts: The clients'; of their scalars only the number counts where steps are not raw.
            estimate: The round's, so many times in each block.
            probed_square: The mean square of the probes, aggregated.
            head_square: That of the projections.
        """
        moments: Moments = ()
        if self.spec.step == "adam":
            blocks = self.plan.blocks
            once = estimate(dict.fromkeys(blocks, 1.0))
            moments = advanced_moments(start.optimizer_state, mean_squares(once, blocks), self.spec.beta2)
            sizes = dict(zip(blocks, adam_sizes(moments), strict=True))
        else:
            sizes = self._divisors(parts, probed_square, head_square)
        factors = self._factors(self.spec.rate, start.done, sizes)
        return held(estimate(factors), self._limit(start.done, parts, start.weights)), moments

    def local_step(self, grid: Grid, done: int, given: ClientScalars, number: int, latest: int) -> tuple[Step, ...]:
        """What a client moves its own replica by: down the estimate of its latest probes, as the round will move, at a rate
        of its own.

        Args:
            grid: That the weights lie on.
            done: Rounds of the phase that are committed.
            given: All that the client has measured in this round.
            number: Of the local step, from 0.
            latest: How many of the probes belong to it.

        Raises:
            HeadroomExceeded: The step is too long for `grid`.
        """
        rate = self.spec.local_rate or self.spec.rate
        moves = list(self._along(given, self._factors(rate, done, self._sizes([given]))))
        each = GAUSSIAN_SIGNS if self.plan.gaussian else 1
        probed = len(given.scalars.probes) * each
        latest_moves = moves[probed - latest * each : probed] + moves[len(moves) - self.plan.projections :]
        return steps_of(latest_moves, grid, number)

    def shares(self, parts: Sequence[ClientScalars]) -> list[float]:
        """The weight of each client in the mean; they add up to 1."""
        counts = counted([part.examples for part in parts], self.spec)
        total = sum(counts)
        return [count / total for count in counts]

    def commit_cost(self, contributors: Sequence[Tier], examples: int, grid: Grid) -> CommitCost:
        """As `Algorithm.commit_cost`, where derivatives have the mean square 1."""
        parts = [
            ClientScalars(
                0 if self.spec.shared_directions else number,
                examples,
                Scalars(1, *self.plan.typical(tier, examples)),
                tier,
            )
            for number, tier in enumerate(contributors)
        ]
        shares = zip(self.shares(parts), parts, strict=True)
        pace = self.paces(parts)
        moves = [move for share, part in shares for move in self._along(part, _times(pace, share))]
        if self.spec.step == "adam":
            sizes = {
                block: math.sqrt(math.fsum(m.length**2 for m in moves if m.block == block))
                for block in self.plan.blocks
            }
            moves = [move._replace(length=move.length / sizes[move.block]) for move in moves]
        rounds = (self.spec.rounds * (2 * index + 1) // 16 for index in range(8))
        factors = [self._annealed(self.spec.rate, done) for done in rounds]
        return expected_cost(moves, factors, grid, self.plan.layout.trainable)

    def paces(self, parts: Sequence[ClientScalars]) -> dict[Block, float]:
        """How many times as far as the rate says each block moves by such scalars. The length of an estimate is known beforehand,
        |g| sqrt(1 + d / D) along D directions in d dimensions, and where the head's input is whitened the rate times a number
        divided by that root suits any number of either; else each moves once as far."""
        if self.plan.layout.whitening is None or self.spec.step == "raw":
            return dict.fromkeys(self.plan.blocks, 1.0)
        explored, found = Counter[Block](), dict[Block, float]()
        for part in parts[:1] if self.spec.shared_directions else parts:
            explored.update(self.plan.explored(part))
            if self.plan.head is not None:
                explored[self.plan.head] += self.plan.projections
        for block in self.plan.blocks:
            pace = HEAD_PACE if block == self.plan.head else PROBED_PACE
            found[block] = pace / math.sqrt(1 + block.size / max(1, explored[block]))
        return found

    def _estimate(self, parts: Sequence[ClientScalars], factors: Mapping[Block, float]) -> list[Move]:
        """Along the round's estimate, so many times it in each block."""
        if self.spec.aggregate == "mean":
            shares = zip(self.shares(parts), parts, strict=True)
            return [move for share, part in shares for move in self._along(part, _times(factors, share))]
        return trimmed_moves([list(self._along(part, factors)) for part in parts], self.spec)

    def _along(self, part: ClientScalars, factors: Mapping[Block, float]) -> Iterator[Move]:
        """Along a part's estimate, so many times it in each block."""
        yield from self.plan.estimate(part, factors)
        if block := self.plan.head:
            for index, projection in enumerate(part.scalars.projections):
                yield Move(part.seed, block, index, factors[block] * projection / self.plan.projections)

    def _sizes(self, parts: Sequence[ClientScalars]) -> dict[Block, float]:
        return self._divisors(parts, *self._mean_squares(parts))

    def _mean_squares(self, parts: Sequence[ClientScalars]) -> tuple[float, float]:
        """The mean squares of the probes and of the projections, aggregated as the estimate is."""
        probed = self._mean([self.plan.mean_square(part) for part in parts], parts) if self.plan.probed_blocks else 0.0
        if self.plan.head is None:
            return probed, 0.0
        squares = [root_mean_square(part.scalars.projections) ** 2 for part in parts]
        return probed, self._mean(squares, parts)

    def _divisors(self, parts: Sequence[ClientScalars], probed_square: float, head_square: float) -> dict[Block, float]:
        """What a normalised step is divided by, by block; 0 where a block is not to move: in what is probed the root mean square of the
        probes, in the head's block that of the projections. Where the head's input is not whitened it is that of the probes where
        these are more, so that no parameter moves further than the rate, and the head stays where probes of a flat loss do."""
        blocks = self.plan.probed_blocks
        probed = math.sqrt(probed_square)
        sizes = dict.fromkeys(blocks, probed)
        if self.plan.head is not None:
            own = math.sqrt(head_square)
            if blocks and self.plan.layout.whitening is None:
                own = max(probed, own) if probed >= FLAT else 0.0
            sizes[self.plan.head] = own
        paces = self.paces(parts)
        return {block: size / paces[block] if size >= FLAT else 0.0 for block, size in sizes.items()}

    def _mean(self, values: Sequence[float], parts: Sequence[ClientScalars]) -> float:
        """Of one value of each client, aggregated as the estimate is."""
        if self.spec.aggregate == "mean":
            return math.fsum(share * value for share, value in zip(self.shares(parts), values, strict=True))
        out = left_out(len(values), self.spec)
        kept = sorted(values)[out : len(values) - out]
        return math.fsum(kept) / len(kept)

    def _factors(self, rate: float, done: int, sizes: Mapping[Block, float]) -> dict[Block, float]:
        return {block: self._factor(rate, done, size) for block, size in sizes.items()}

    def _factor(self, rate: float, done: int, size: float) -> float:
        """What derivatives are multiplied with, given what a normalised step is divided by."""
        if self.spec.step == "raw":
            return -rate * self.spec.tau**2
        return -self._annealed(rate, done) / size if size >= FLAT else 0.0

    def _annealed(self, rate: float, done: int) -> float:
        return rate * self.spec.tau**2 * (1.0 if self.spec.step == "raw" else 1 - done / self.spec.rounds)

    def _limit(self, done: int, parts: Sequence[ClientScalars], weights: NDArray[np.float32]) -> float:
        """The furthest that a round moves a block, root mean square over its parameters: the learning rate, once for each
        local step; times STEEPEST where it is not divided by the derivatives, and then, where no client could be called an
        outlier, no further than the model is large."""
        limit = self._annealed(self.spec.rate, done) * max(self.plan.steps(part) for part in parts)
        if self.spec.step != "raw":
            return limit
        kinds = [[part.scalars.probes for part in parts], [part.scalars.projections for part in parts]]
        references = [reference_norm(list(map(root_mean_square, kind)), FLAT) for kind in kinds if any(kind)]
        alone = self.spec.clip > 0 and math.inf in references
        size = norm(weights) / math.sqrt(weights.size) if alone else math.inf
        return min(limit * STEEPEST, largest_unclipped(size))


def _times(factors: Mapping[Block, float], share: float) -> dict[Block, float]:
    return {block: factor * share for block, factor in factors.items()}
