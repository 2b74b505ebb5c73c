"""ZOWarmUp: the zeroth-order phase, in which every client sends a few scalars and nothing else.

Algorithm 1 of Legate, Rish and Belilovsky, arXiv 2509.03503, in departures of which each can be switched off
(docs/method.md). A client draws S directions z_s with entries +-1 from its seed and measures the directional derivative
of its loss along each, dL_s = (L(w + eps z_s) - L(w - eps z_s)) / (2 eps), every one on a *slice* of its own of the
local data (`slices = "own"`; the paper takes the whole data for each, "whole"), so that more directions cost no more
forward passes. Where the model ends in a linear classifier, that head's gradient has a closed form which those forward
passes hold already: the client sends it exactly, as K *projections* on directions of the head's block, and probes
nothing or, with `train`, some or all of the rest, the trunk (`head_projections`; 0 probes everything). The head reads
whitened features: the first round finds out how (`whitening_round`), and moves nothing. A client of the high tier can back-propagate: it may send
exact projections of the trunk's gradient in the place of probes (`gradient_projections`; 0: it probes like the others).

The estimate is the weighted mean over clients of sum_s (n_s / n) dL_s z_s in the probed block and of 1/K sum_k p_k z_k
in the head's. The model steps down it by `rate`; a "normalized" step is divided by the root mean square of the round's
derivatives, in the same weighted mean (FZOO, arXiv 2506.09034, divides by the losses' spread), and annealed linearly;
in the head's block by that of the projections where it is the larger, and there at a pace of its own where features are
whitened (`_head_pace`). So no parameter moves further in a round than the
rate. Before that, the scalars of a client far longer than the others' are scaled down (`robust_aggregation`): one
client, broken or hostile, cannot lead the model away. tau, the paper's magnitude of z's entries, is folded in: (eps,
rate, tau) is (eps tau, rate tau^2, 1).

Steps are whole ticks of the grid. The rates that suit pretrained weights, some of which are large, move a direction by
tenths of a tick; so ticks are rounded stochastically (`step_builder.steps_of`), by numbers that follow from the round
alone: in the mean every length is kept, and whoever aggregates the same contributions finds the same ticks.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.algorithms.directional_derivatives import (
    GAUSSIAN_SIGNS,
    Measured,
    Probe,
    as_float32,
    head_gradient,
    measure,
    over_signs,
    project,
    summed_signs,
)
from zowarmup.common.algorithms.probing import ProbingSettings, check_local_steps
from zowarmup.common.algorithms.protocol import (
    TRAINING_FORWARDS,
    Aggregate,
    Algorithm,
    ClientScalars,
    Forward,
    Start,
    Trained,
    wrong_kind,
)
from zowarmup.common.algorithms.robust_aggregation import (
    clip_scalars,
    counted,
    largest_unclipped,
    left_out,
    reference_norm,
    root_mean_square,
    trimmed_moves,
)
from zowarmup.common.algorithms.scalar_rounding import rounded
from zowarmup.common.algorithms.settings import WarmUp, require
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
from zowarmup.common.algorithms.whitening_round import WhiteningRound
from zowarmup.common.exact.directions import permutation
from zowarmup.common.exact.grid import Grid, HeadroomExceeded
from zowarmup.common.exact.layout import ALL, AUTO, HEAD, LAYERS, NORM, Block, Layout
from zowarmup.common.exact.replica import merged
from zowarmup.common.exact.steps import Direction, Step, Weights, apply_steps, part_of
from zowarmup.common.messages.small_floats import Precision, packed_bytes
from zowarmup.common.messages.values import Computation, Contribution, Scalars, Tier, Work

WHITENED_PACE = 3.0
"""Beside the rate, of a step in whitened features: found on digits and CIFAR-10 (docs/method.md)."""
DECAY = 0.1
"""Of the head's weights, on features that vary by about 1 each: found on SST-2 with MiniLM (docs/method.md)."""
FLAT, STEEPEST, STEEP = 2.0**-40, 2.0**12, 2.0**32
"""Derivatives, nats per unit of weight. A root mean square below FLAT is what rounding leaves of a loss that does not change. A
step that is not divided by it is as long, at most, as with STEEPEST. Beyond STEEP no loss is that anything is learnt from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ZOWarmUpSettings(ProbingSettings):
    """The paper's rounds; each client has directions of its own.

    Args:
        algorithm: Its name, or package.module:Algorithm.
        train: What moves: the head alone, without a probe, where the model ends in a linear layer, else everything
            ("auto"); everything ("all"); the head and what has one axis, scales and shifts of normalisation and
            biases ("norm"); the head alone, without a probe ("head"); or the head and the tensors that a pattern
            matches ("layers:*.norm.*,stem.*"). The rest is frozen.
        head_projections: K, the number of exact projections of the head's gradient, 0 to 4096; 0 probes everything.
        whitening: R, how many directions of what the head reads the first round scales apart (`algorithms.whitening`), 0 to
            64; 0: the head reads it as it is, as it does where its gradient is not sent, or is by back-propagation.
        weight_decay: Half of this times the square of the head's weights, its bias not counted, is added to the loss that the
            head descends, 0 to 1: the gradient that is projected has it. "auto": DECAY where all below the head is constant, as
            in a pretrained model, which has more features than some thousand examples can bear; else 0.
        gradient_projections: A client of the high tier does not probe, but back-propagates and sends this many exact
            projections of its gradient, at most 4096; 0: it probes like the others.
        local_steps: How many times over a client probes, 1 to 1024. In between it moves its own replica down its
            estimate, and takes all of that back at the end.
        local_rate: The learning rate of these steps; 0: `rate`.

    Raises:
        ValueError: A setting is out of its range, or has no meaning beside another; the sentence names it.
    """

    algorithm: Literal["zowarmup"] = "zowarmup"
    train: str = AUTO
    head_projections: int = 64
    whitening: int = 8
    weight_decay: float | Literal["auto"] = "auto"
    gradient_projections: int = 0
    local_steps: int = 1
    local_rate: float = 0.0

    def __post_init__(self) -> None:
        check_local_steps(self)
        ProbingSettings.__post_init__(self)
        layers = self.train.startswith(LAYERS) and all(self.train.removeprefix(LAYERS).split(","))
        named = f'"{AUTO}", "{ALL}", "{NORM}", "{HEAD}" or "{LAYERS}PATTERN,..."'
        require(self.train in (AUTO, ALL, NORM, HEAD) or layers, "train", self.train, named)
        some = "at least 1 where not everything is trained: without them the head would be frozen, too"
        require(self.train in (AUTO, ALL) or self.head_projections > 0, "head_projections", self.head_projections, some)
        exact = self.gradient_projections
        require(0 <= exact <= 4096, "gradient_projections", exact, "0 (off) to 4096")
        require(0 <= self.whitening <= 64, "whitening", self.whitening, "0 (off) to 64")
        decay = self.weight_decay
        known = decay == AUTO if isinstance(decay, str) else 0 <= decay <= (0 if exact else 1)
        require(known, "weight_decay", decay, f'"{AUTO}" or 0 to 1, and not above 0 with gradient_projections')
        single = self.local_steps == 1
        require(single or not exact, "gradient_projections", exact, "0 with more than one of local_steps")

    @property
    def moved(self) -> str:
        everything = self.gradient_projections > 0 or self.head_projections == 0 or self.rounds == 0
        return ALL if self.train == AUTO and everything else self.train

    @property
    def whitens(self) -> int:
        return self.whitening if self.head_projections and not self.gradient_projections else 0

    def check_warm_up(self, warmup: WarmUp) -> None:
        whole = not (self.train.startswith(LAYERS) and warmup.trains(Tier.LOW))
        require(whole, "zeroth_order.train", self.train, f'"{ALL}", "{NORM}" or "{HEAD}" after a warm-up of submodels')

    def build(self, layout: Layout, pool_seed: int = 0, warmup: WarmUp | None = None) -> "ZOWarmUp":
        return ZOWarmUp(self, layout)


@dataclass(frozen=True, slots=True)
class ZOWarmUp(Algorithm):
    """The zeroth-order rounds of one run: a client's part is `contribute`, the coordinator's `check` and `aggregate`.

    Args:
        spec: The settings.
        layout: Of the model.
    """

    spec: ProbingSettings
    layout: Layout

    @property
    def probed(self) -> Block | None:
        """The block whose gradient is probed: the trunk, or what is not frozen of it, where the head's is projected exactly,
        else everything; None where the head alone moves."""
        if self.layout.head_alone:
            return None
        if self.layout.frozen:
            return self.layout.block("probed")
        return self.layout.block("trunk" if self.projections() else "all")

    def probes(self, examples: int) -> int:
        """S, the number of probes of a client that holds so many examples: every slice has at least one."""
        if self.probed is None:
            return 0
        return min(self.spec.probes, examples) if self.spec.slices == "own" else self.spec.probes

    def projections(self) -> int:
        """K, the number of projections of the head's gradient; 0 where the model has no such head."""
        return self.spec.head_projections if self.layout.head else 0

    def counts(self, tier: Tier, examples: int) -> tuple[int, int]:
        if self.spec.computation(tier) is Computation.GRADIENT:
            return (0 if self.probed is None else self.spec.gradient_projections), self.projections()
        return self.spec.local_steps * self.probes(examples), self.spec.local_steps * self.projections()

    def uplink_bytes(self, tier: Tier, examples: int) -> int:
        return sum(packed_bytes(count, Precision(self.spec.scalars)) for count in self.counts(tier, examples))

    def forwards(self, tier: Tier, examples: int) -> int:
        if self.spec.computation(tier) is Computation.GRADIENT:
            return TRAINING_FORWARDS * examples
        sides = 1 if self.probed is None else 2
        passes = sides if self.spec.slices == "own" else sides * self.probes(examples)
        return self.spec.local_steps * passes * examples

    def walks(self, tier: Tier, examples: int) -> int:
        if self.spec.computation(tier) is Computation.GRADIENT:
            return 0 if self.probed is None else self.spec.gradient_projections
        return 0 if self.probed is None else self.spec.local_steps * (2 * self.probes(examples) + 1)

    def commit_cost(self, contributors: Sequence[Tier], examples: int, grid: Grid) -> CommitCost:
        """As `Algorithm.commit_cost`, where derivatives have the mean square 1."""
        parts = [
            ClientScalars(
                0 if self.spec.shared_directions else number,
                examples,
                Scalars(1, *((1.0,) * count for count in self.counts(tier, examples))),
                tier,
            )
            for number, tier in enumerate(contributors)
        ]
        shares = zip(self._shares(parts), parts, strict=True)
        pace = self._head_pace(len(contributors))
        moves = [move for share, part in shares for move in self._moves(part, share, pace * share)]
        if self.spec.step == "adam":
            sizes = {
                block: math.sqrt(math.fsum(m.length**2 for m in moves if m.block == block)) for block in self._blocks()
            }
            moves = [move._replace(length=move.length / sizes[move.block]) for move in moves]
        rounds = (self.spec.rounds * (2 * index + 1) // 16 for index in range(8))
        return expected_cost(
            moves, [self._annealed(self.spec.rate, done) for done in rounds], grid, self.layout.trainable
        )

    def project(self, gradient: NDArray[np.float64], work: Work) -> Scalars:
        """As `Algorithm.project`. Raises ValueError where a scalar is not finite, or beyond STEEP."""
        probed, projected = self.counts(Tier.HIGH, 1)
        probed *= GAUSSIAN_SIGNS if self._normal else 1
        found = [
            project(gradient[block.start : block.stop], work.seed, block, count) if block else []
            for block, count in ((self.probed, probed), (self._head, projected))
        ]
        return self._scalars(work, summed_signs(found[0]) if self._normal else found[0], found[1])

    def contribute(self, weights: Weights, grid: Grid, forward: Forward, examples: int, work: Work) -> Scalars:
        """As `Algorithm.contribute`: probe the model, `local_steps` times over.

        Raises:
            HeadroomExceeded: `eps`, or a local step, is beyond the grid.
            ValueError: A scalar is not finite, or beyond STEEP.
        """
        if first := self._whitening(work.done):
            return first.contribute(forward, examples, work)
        eps, head = self.spec.eps * self.spec.tau, self.projections() > 0
        derivatives: list[float] = []
        projected: list[float] = []
        moved: list[Step] = []
        plan = self._plan(work.seed, examples)
        try:
            for number, probes in enumerate(plan):
                try:
                    found = (
                        measure(weights, grid, forward, probes, eps, head, self._normal)
                        if probes
                        else Measured([], head_gradient(forward, examples))
                    )
                except HeadroomExceeded as error:
                    raise HeadroomExceeded(f"zeroth_order.eps ({self.spec.eps:g}) is too long: {error}") from error
                derivatives += found.derivatives
                count = self.projections()
                if found.head_gradient is not None:
                    projected += project(
                        self._decaying(found.head_gradient, weights),
                        work.seed,
                        self.layout.block("head"),
                        count,
                        number * count,
                    )
                if number + 1 < len(plan):
                    given = ClientScalars(
                        work.seed, examples, Scalars(work.round, tuple(derivatives), tuple(projected))
                    )
                    try:
                        steps = self._local_step(grid, work.done, given, number, len(probes))
                        apply_steps(weights, grid, steps)
                    except HeadroomExceeded as error:
                        rate = "local_rate" if self.spec.local_rate else "rate"
                        raise HeadroomExceeded(f"zeroth_order.{rate} is too high for local steps: {error}") from error
                    moved += steps
        finally:
            # The same exact sums, taken back.
            apply_steps(weights, grid, [step.reverse for step in merged(moved)])
        return self._scalars(work, derivatives, projected)

    def _decaying(self, gradient: NDArray[np.float64], weights: Weights) -> NDArray[np.float64]:
        """The head's gradient of the loss with `weight_decay`, from that of the loss."""
        head, decay = self.layout.head, self.spec.weight_decay
        if head is None or not decay:
            return gradient
        start, size = self.layout.block("head").start, head.classes * head.features
        if isinstance(decay, str):
            decay = 0.0 if start else DECAY
        decaying = gradient.copy()
        decaying[:size] += decay * part_of(weights, start, start + size)
        return decaying

    def _scalars(self, work: Work, probes: Sequence[float], projections: Sequence[float]) -> Scalars:
        """What a client sends. Raises ValueError, with what may be done, where one is not finite, or beyond STEEP."""
        try:
            scalars = Scalars(work.round, as_float32(probes), as_float32(projections))
            _check_steepness(scalars)
        except ValueError as error:
            raise ValueError(
                f"{error}; check this device's data, or where most devices say so begin another run with a lower "
                f"zeroth_order.rate (it is {self.spec.rate:g})"
            ) from None
        return rounded(scalars, Precision(self.spec.scalars), work.seed)

    def check(self, work: Work, tier: Tier, examples: int, contribution: Contribution) -> None:
        if not isinstance(contribution, Scalars):
            raise ValueError(wrong_kind(contribution, work))  # noqa: TRY004  (what a client says is no bug)
        if contribution.round != work.round:
            raise ValueError(f"scalars: they are for round {contribution.round}, the work was for round {work.round}")
        for name, values, asked in zip(
            ("probes", "projections"),
            (contribution.probes, contribution.projections),
            self._counts_in(work, tier, examples),
            strict=True,
        ):
            if len(values) != asked:
                raise ValueError(
                    f"scalars: {len(values)} {name}, {asked} were asked for with {examples} examples in the {tier} tier"
                )
        if self._whitening(work.done):
            return  # these are no derivatives
        if contribution.precision != self.spec.scalars:
            raise ValueError(f"scalars: each is a {contribution.precision}, the run's scalars = {self.spec.scalars!r}")
        _check_steepness(contribution)

    def aggregate(self, start: Start, contributions: Sequence[ClientScalars | Trained]) -> Aggregate:
        """The moves that a round's scalars make, for each client in the order given: in the probed block and, where
        there are projections, in the head's.

        Outlying scalars are clipped first. Where the derivatives that a step is to be divided by are all but zero,
        there is nothing to follow and the moves are zero.

        Raises:
            ValueError: There are no scalars, or all of the phase's rounds are done.
        """
        done, given = start.done, [part for part in contributions if isinstance(part, ClientScalars)]
        if not 0 <= done < self.spec.rounds:
            raise ValueError(
                f"done = {done}: must be 0 to {self.spec.rounds - 1}, the run has {self.spec.rounds} rounds"
            )
        if not given:
            raise ValueError("a round without contributions has no estimate")
        parts, clipped = clip_scalars(given, self.spec.clip, FLAT)
        if first := self._whitening(done):
            update = first.update(start.weights, list(zip(self._shares(parts), parts, strict=True)))
            return Aggregate(update=update, turn=done, clipped_scalars=clipped)
        moments: Moments = ()
        if self.spec.step == "adam":
            estimate = self._estimate(parts, 1.0, 1.0)
            moments = advanced_moments(start.optimizer_state, mean_squares(estimate, self._blocks()), self.spec.beta2)
            sized = dict(zip(self._blocks(), adam_sizes(moments), strict=True))
            sizes = tuple(sized.get(block, 0.0) if block else 0.0 for block in (self.probed, self._head))
        else:
            sizes = self._sizes(parts)
        probed, head = (self._step_size(self.spec.rate, done, size) for size in sizes)
        moves = held(self._estimate(parts, probed, head), self._limit(done, parts, start.weights))
        return Aggregate(moves=tuple(moves), turn=done, optimizer_state=moments, clipped_scalars=clipped)

    def _whitening(self, done: int) -> WhiteningRound | None:
        """The first round, where that whitens what the head reads; None for any other."""
        return WhiteningRound(self.layout) if done == 0 and self.layout.whitening else None

    def _counts_in(self, work: Work, tier: Tier, examples: int) -> tuple[int, int]:
        """As `counts`, in one round."""
        first = self._whitening(work.done)
        return (0, first.values) if first else self.counts(tier, examples)

    def answer_values(self, work: Work, tier: Tier, examples: int) -> int:
        """As `Algorithm.answer_values`: more in the round that whitens."""
        first = self._whitening(work.done)
        return first.values if first else self.uplink_values(tier, examples)

    @property
    def _normal(self) -> bool:
        return self.spec.directions == "gaussian"

    @property
    def _head(self) -> Block | None:
        """The head's block, where it is projected."""
        return self.layout.block("head") if self.projections() else None

    def _blocks(self) -> list[Block]:
        """The blocks that move."""
        return [block for block in (self.probed, self._head) if block]

    def _estimate(self, parts: Sequence[ClientScalars], probed: float, head: float) -> list[Move]:
        """Along the round's estimate, so many times it in the probed block and so many in the head's."""
        if self.spec.aggregate == "mean":
            shares = zip(self._shares(parts), parts, strict=True)
            return [move for share, part in shares for move in self._moves(part, probed * share, head * share)]
        return trimmed_moves([list(self._moves(part, probed, head)) for part in parts], self.spec)

    def _moves(self, part: ClientScalars, probed: float, head: float) -> Iterator[Move]:
        """Along a part's estimate, so many times it in the probed block and so many in the head's."""
        if block := self.probed:
            along = zip(self._directions(part), self._weights(part), part.scalars.probes, strict=True)
            for (seed, index), weight, derivative in along:
                move = Move(seed, block, index, probed * weight * derivative)
                yield from over_signs(move) if self._normal else (move,)
        if block := self._head:
            for index, projection in enumerate(part.scalars.projections):
                yield Move(part.seed, block, index, head * projection / self.projections())

    def _sizes(self, parts: Sequence[ClientScalars]) -> tuple[float, float]:
        """What a normalised step is divided by, in the probed block and in the head's: the root mean square of the probes;
        of the projections where that is more, or where nothing is probed. So in neither does a parameter move further than
        the rate."""
        probed = self._mean([self._mean_square(part) for part in parts], parts) if self.probed else 0.0
        head = self._mean([root_mean_square(part.scalars.projections) ** 2 for part in parts], parts)
        if not self.probed:
            return 0.0, math.sqrt(head) / self._head_pace(len(parts))
        if probed < FLAT**2:
            return math.sqrt(probed), 0.0
        return math.sqrt(probed), math.sqrt(max(probed, head)) / self._head_pace(len(parts))

    def _head_pace(self, clients: int) -> float:
        """How many times as far as the rate says the head moves with so many clients. Where its input is whitened the length
        of the estimate is known beforehand, |g| sqrt(1 + d / D) along D directions in d dimensions, and WHITENED_PACE times
        the rate divided by that root suits any number of either; else once."""
        if self.layout.whitening is None or self.spec.step == "raw":
            return 1.0
        directions = self.projections() * (1 if self.spec.shared_directions else clients)
        return WHITENED_PACE / math.sqrt(1 + self.layout.block("head").size / directions)

    def _mean(self, values: Sequence[float], parts: Sequence[ClientScalars]) -> float:
        """Of one value of each client, aggregated as the estimate is."""
        if self.spec.aggregate == "mean":
            return math.fsum(share * value for share, value in zip(self._shares(parts), values, strict=True))
        out = left_out(len(values), self.spec)
        kept = sorted(values)[out : len(values) - out]
        return math.fsum(kept) / len(kept)

    def _mean_square(self, part: ClientScalars) -> float:
        """Of a part's probes, as they weigh."""
        weights = self._weights(part)
        squares = [
            weight * derivative * derivative for weight, derivative in zip(weights, part.scalars.probes, strict=True)
        ]
        return math.fsum(squares) / math.fsum(weights)

    def _step_size(self, rate: float, done: int, size: float) -> float:
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
        limit = self._annealed(self.spec.rate, done) * max(self._local_steps(part) for part in parts)
        if self.spec.step != "raw":
            return limit
        kinds = [[part.scalars.probes for part in parts], [part.scalars.projections for part in parts]]
        references = [reference_norm(list(map(root_mean_square, kind)), FLAT) for kind in kinds if any(kind)]
        alone = self.spec.clip > 0 and math.inf in references
        size = norm(weights) / math.sqrt(weights.size) if alone else math.inf
        return min(limit * STEEPEST, largest_unclipped(size))

    def _plan(self, seed: int, examples: int) -> list[list[Probe]]:
        """What to probe before each local step: every slice along a direction of its own."""
        if (block := self.probed) is None:
            return [[]] * self.spec.local_steps
        count = self.probes(examples)
        return [
            [
                Probe(Direction(seed, number * count + index, block), chosen)
                for index, chosen in enumerate(self._slices(seed, number, examples))
            ]
            for number in range(self.spec.local_steps)
        ]

    def _slices(self, seed: int, stream: int, examples: int) -> list[NDArray[np.int64]]:
        """The examples of each probe: near equal parts of a seeded permutation, the first ones an example longer."""
        if self.spec.slices == "whole":
            return [np.arange(examples, dtype=np.int64)] * self.probes(examples)
        return np.array_split(permutation(seed, stream, examples), self.probes(examples))

    def _directions(self, part: ClientScalars) -> list[tuple[int, int]]:
        """The direction (seed, index) of each of a part's probes so far."""
        return [(part.seed, index) for index in range(len(part.scalars.probes))]

    def _weights(self, part: ClientScalars) -> list[float]:
        """The weight of each of a part's probes so far in its estimate: the share of the local data that it speaks for. Those
        of a local step add up to 1."""
        count = self.probes(part.examples)
        if self.spec.computation(part.tier) is Computation.GRADIENT:
            weights = [1 / self.spec.gradient_projections] * self.spec.gradient_projections
        elif self.spec.slices == "whole":
            weights = [1 / count] * count
        else:
            shortest, longer = divmod(part.examples, count)
            weights = [(shortest + (index < longer)) / part.examples for index in range(count)]
        return (weights * self.spec.local_steps)[: len(part.scalars.probes)]

    def _local_steps(self, part: ClientScalars) -> int:
        """How many local steps a part's probes belong to."""
        return self.spec.local_steps

    def _local_step(self, grid: Grid, done: int, given: ClientScalars, number: int, latest: int) -> tuple[Step, ...]:
        """What a client moves its own replica by after local step `number`, of whose probes there are `latest`: down
        their estimate, as the round will move, at a rate of its own. `given`: all that it has measured."""
        rate = self.spec.local_rate or self.spec.rate
        moves = list(self._moves(given, *(self._step_size(rate, done, size) for size in self._sizes([given]))))
        each = GAUSSIAN_SIGNS if self._normal else 1
        probed = len(given.scalars.probes) * each
        latest_moves = moves[probed - latest * each : probed] + moves[len(moves) - self.projections() :]
        return steps_of(latest_moves, grid, number)

    def _shares(self, parts: Sequence[ClientScalars]) -> list[float]:
        """The weight of each client in the mean; they add up to 1."""
        counts = counted([part.examples for part in parts], self.spec)
        total = sum(counts)
        return [count / total for count in counts]


def _check_steepness(scalars: Scalars) -> None:
    for name, values in (("probes", scalars.probes), ("projections", scalars.projections)):
        if any(abs(value) > STEEP for value in values):
            raise ValueError(f"scalars: one of the {name} is beyond {STEEP:g}; no loss is as steep")
