"""ZOWarmUp: the zeroth-order phase, in which every client sends a few scalars and nothing else.

Algorithm 1 of Legate, Rish and Belilovsky, arXiv 2509.03503, in two departures of which each can be switched off
(docs/method.md). A client draws S directions z_s with entries +-1 from its seed and measures the slope of its loss
along each, dL_s = (L(w + eps z_s) - L(w - eps z_s)) / (2 eps), every one on a *slice* of its own of the local data
(`slices = "own"`; the paper takes the whole data for each, "whole"), so that more directions cost no more forward
passes. Where the model ends in a linear classifier, that head's gradient has a closed form which those forward passes
hold already: the client sends it exactly, as K *projections* on directions of the head's block, and probes the rest,
the trunk (`head_projections`; 0 probes everything).

The estimate is the weighted mean over clients of  sum_s (n_s / n) dL_s z_s  in the probed block and of
1/K sum_k p_k z_k  in the head's. The model steps down it by `rate`; a "normalized" step is divided by the root mean
square of the round's slopes, in the same weighted mean (FZOO, arXiv 2506.09034, divides by the losses' spread), and
annealed linearly. Before that, scalars far from the round's median are clipped (`robust`): one client, broken or
hostile, cannot lead the model away. tau, the paper's magnitude of z's entries, is folded in: (eps, rate, tau) is (eps tau, rate tau^2, 1).

Steps are whole ticks of the grid, and nothing is lost by it: a tick is one or two millionths of the largest weight, a
direction's move is rounded by at most half of one, to either side and independently of the others, while the moves of
the rates that train are hundreds of ticks long and the estimate's own noise is many times the gradient.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.directions import DIRECTIONS_PER_GROUP, walk
from zowarmup.common.grid import Grid, HeadroomExceeded
from zowarmup.common.layout import Block, Layout
from zowarmup.common.methods import robust
from zowarmup.common.permutation import permutation
from zowarmup.common.run import ZerothOrder
from zowarmup.common.steps import PIECE, Direction, Step, cross, perturb
from zowarmup.common.work import Scalars, Work

FLAT, STEEP = 2.0**-40, 2.0**32
"""Slopes, nats per unit of weight. A root mean square below FLAT is what rounding leaves of a loss that does not change;
beyond STEEP no loss is that anything is learnt from."""
_SLICES = 0  # the stream of a work's seed that orders its examples


@dataclass(frozen=True, eq=False, slots=True)
class Evaluated:
    """`loss_sum`: cross-entropy summed over the examples, nats. `head_gradient_sum`: its gradient by the head's
    parameters, float64 (head block's size,) in the block's order, None where it was not asked for."""

    loss_sum: float
    head_gradient_sum: NDArray[np.float64] | None


class Forward(Protocol):
    """The model's forward pass over the local data, at the weights as they are when it is called."""

    def evaluate(self, examples: NDArray[np.int64], head_gradient: bool) -> Evaluated:
        """`examples`: indices into the local data."""
        ...


@dataclass(frozen=True, slots=True)
class ZOWarmUp:
    """The method of one run: a client's part is `contribute`, the coordinator's `check` and `combine`."""

    spec: ZerothOrder
    layout: Layout

    @property
    def probed(self) -> Block:
        """The block whose gradient is probed: the trunk where the head's is projected exactly, else everything."""
        return self.layout.block("trunk" if self.projections() else "all")

    def probes(self, examples: int) -> int:
        """S, the number of probes of a client that holds so many examples: every slice has at least one."""
        return min(self.spec.probes, examples) if self.spec.slices == "own" else self.spec.probes

    def projections(self) -> int:
        """K, the number of projections of the head's gradient; 0 where the model has no such head."""
        return self.spec.head_projections if self.layout.head else 0

    def contribute(
        self, weights: NDArray[np.float32], grid: Grid, forward: Forward, examples: int, work: Work
    ) -> Scalars:
        """Probe the model on `examples` local examples (at least 1): the scalars of one round.

        `weights`, float32 (layout.size,) on `grid` in the probed block, are moved in place under `forward` and are bit
        for bit what they were when this returns or raises. Raises HeadroomExceeded where eps is beyond the grid,
        ValueError where a scalar is not finite, and whatever `forward` raises.
        """
        ticks = grid.whole_ticks(self.spec.eps * self.spec.tau)
        eps = ticks * grid.tick
        exact_head = self.projections() > 0
        slices = self._slices(work.seed, examples)
        slopes: list[float] = []
        head_gradient: NDArray[np.float64] | float = 0.0
        probe, displaced = Direction(work.seed, 0, self.probed), 0
        try:
            for index, chosen in enumerate(slices):
                previous, probe = probe, Direction(work.seed, index, self.probed)
                if index == 0:
                    perturb(weights, grid, probe, ticks)
                else:
                    cross(weights, grid, previous, probe, ticks)
                displaced = ticks
                above = forward.evaluate(chosen, exact_head)
                perturb(weights, grid, probe, -2 * ticks)
                displaced = -ticks
                below = forward.evaluate(chosen, exact_head)
                slopes.append((above.loss_sum - below.loss_sum) / len(chosen) / (2 * eps))
                if above.head_gradient_sum is not None and below.head_gradient_sum is not None:
                    head_gradient = head_gradient + above.head_gradient_sum + below.head_gradient_sum
        finally:
            if displaced:
                perturb(weights, grid, probe, -displaced)
        projected: list[float] = []
        if exact_head:
            # Averaged over both sides of every probe, which leaves an error of the order of eps^2.
            gradient = np.asarray(head_gradient) / (2 * sum(len(chosen) for chosen in slices))
            projected = project(gradient, work.seed, self.layout.block("head"), self.projections())
        return Scalars(work.round, _as_float32(slopes), _as_float32(projected))

    def check(self, work: Work, examples: int, contribution: Scalars) -> None:
        """Raises ValueError, saying what is wrong, where this cannot be what `contribute` gives for that work."""
        if contribution.round != work.round:
            raise ValueError(f"scalars: they are for round {contribution.round}, the work was for round {work.round}")
        for name, values, asked in (
            ("probes", contribution.probes, self.probes(examples)),
            ("projections", contribution.projections, self.projections()),
        ):
            if len(values) != asked:
                raise ValueError(f"scalars: {len(values)} {name}, {asked} were asked for with {examples} examples")
            if any(abs(value) > STEEP for value in values):
                raise ValueError(f"scalars: one of the {name} is beyond {STEEP:g}; no loss is as steep")

    def clip(
        self, contributions: Sequence[tuple[int, int, Scalars]]
    ) -> tuple[tuple[tuple[int, int, Scalars], ...], int]:
        """The contributions with their outlying scalars clipped, and how many were. The probes' bounds come from all
        of the round's probes, the projections' from all of its projections."""
        probed = robust.bounds([v for *_, scalars in contributions for v in scalars.probes], self.spec.clip)
        projected = robust.bounds([v for *_, scalars in contributions for v in scalars.projections], self.spec.clip)
        clipped = 0
        bounded: list[tuple[int, int, Scalars]] = []
        for seed, examples, scalars in contributions:
            beyond = _beyond(scalars.probes, probed) + _beyond(scalars.projections, projected)
            if beyond:
                clipped += beyond
                scalars = Scalars(
                    scalars.round, _within(scalars.probes, probed), _within(scalars.projections, projected)
                )
            bounded.append((seed, examples, scalars))
        return tuple(bounded), clipped

    def combine(self, grid: Grid, done: int, contributions: Sequence[tuple[int, int, Scalars]]) -> tuple[Step, ...]:
        """The steps that a round's contributions make: for each (seed, examples, scalars), in the order given, one in
        the probed block and, where there are projections, one in the head's. Outlying scalars are clipped first.

        `done`: zeroth-order rounds committed before this one, less than `spec.rounds`. Where the slopes that a step is
        to be divided by are all but zero, there is nothing to follow and the ticks are zero. Raises ValueError without contributions,
        HeadroomExceeded where a step is too long for `grid`.
        """
        if not 0 <= done < self.spec.rounds:
            raise ValueError(
                f"done = {done}: must be 0 to {self.spec.rounds - 1}, the run has {self.spec.rounds} rounds"
            )
        contributions, _ = self.clip(contributions)
        shares = self._shares([examples for _, examples, _ in contributions])
        slopes = [
            [(share, slope) for share, slope in zip(self._slice_shares(examples), scalars.probes, strict=True)]
            for _, examples, scalars in contributions
        ]
        descent = -self.spec.rate * self.spec.tau**2
        if self.spec.step == "normalized":
            mean_square = math.fsum(
                share * part * slope * slope
                for share, probes in zip(shares, slopes, strict=True)
                for part, slope in probes
            )
            size = math.sqrt(mean_square)
            descent = descent * (1 - done / self.spec.rounds) / size if size >= FLAT else 0.0
        steps: list[Step] = []
        for share, probes, (seed, _, scalars) in zip(shares, slopes, contributions, strict=True):
            moves = [descent * share * part * slope for part, slope in probes]
            steps.append(Step(seed, self.probed, _whole_ticks(moves, grid)))
            if count := self.projections():
                moves = [descent * share * projection / count for projection in scalars.projections]
                steps.append(Step(seed, self.layout.block("head"), _whole_ticks(moves, grid)))
        return tuple(steps)

    def _slices(self, seed: int, examples: int) -> list[NDArray[np.int64]]:
        """The examples of each probe: near equal parts of a seeded permutation, the first ones an example longer."""
        if self.spec.slices == "whole":
            return [np.arange(examples, dtype=np.int64)] * self.probes(examples)
        return np.array_split(permutation(seed, _SLICES, examples), self.probes(examples))

    def _slice_shares(self, examples: int) -> list[float]:
        """The share of the local data that each probe speaks for; they add up to 1."""
        count = self.probes(examples)
        if self.spec.slices == "whole":
            return [1 / count] * count
        shortest, longer = divmod(examples, count)
        return [(shortest + (index < longer)) / examples for index in range(count)]

    def _shares(self, examples: Sequence[int]) -> list[float]:
        """The weight of each client in the mean; they add up to 1."""
        if not examples:
            raise ValueError("a round without contributions has no estimate")
        if self.spec.weighting == "uniform":
            return [1 / len(examples)] * len(examples)
        return [count / sum(examples) for count in examples]


def project(gradient: NDArray[np.float64], seed: int, block: Block, count: int) -> list[float]:
    """z_k . g for directions k = 0 .. count - 1 of stream `seed` in `block`; `gradient` is float64 (block.size,)."""
    found: list[float] = []
    for group in range(-(-count // DIRECTIONS_PER_GROUP)):
        sums = np.zeros(DIRECTIONS_PER_GROUP)
        for start, lane in walk(seed, group, block.start, block.stop, PIECE):
            piece = gradient[start - block.start : start - block.start + lane.size]
            positive = np.unpackbits(lane[:, None], axis=1, bitorder="little")
            # A sign is twice its bit less one.
            sums += 2 * (piece @ positive) - piece.sum()
        found += sums.tolist()
    return found[:count]


def _beyond(values: Sequence[float], bounds: tuple[float, float]) -> int:
    low, high = bounds
    return sum(not low <= value <= high for value in values)


def _within(values: Sequence[float], bounds: tuple[float, float]) -> tuple[float, ...]:
    low, high = bounds
    return tuple(min(max(value, low), high) for value in values)


def _as_float32(values: Sequence[float]) -> tuple[float, ...]:
    """What the wire carries."""
    with np.errstate(over="ignore"):  # becomes infinite, which Scalars refuses
        return tuple(np.array(values, dtype=np.float64).astype(np.float32).tolist())


def _whole_ticks(moves: Sequence[float], grid: Grid) -> tuple[int, ...]:
    """Moves, in units of a weight, as the nearest whole ticks, ties to even."""
    exact = [move / grid.tick for move in moves]
    if not math.fsum(map(abs, exact)) < (1 << 31) - len(exact):
        raise HeadroomExceeded(
            f"a step of {math.fsum(map(abs, moves)):.3g} is too long for the grid 2^-{grid.exponent}"
        )
    return tuple(map(round, exact))
