"""ZOWarmUp: the zeroth-order phase, in which every client sends a few scalars and nothing else.

Algorithm 1 of Legate, Rish and Belilovsky, arXiv 2509.03503, in departures of which each can be switched off
(docs/method.md). A client draws S directions z_s with entries +-1 from its seed and measures the directional derivative
of its loss along each, dL_s = (L(w + eps z_s) - L(w - eps z_s)) / (2 eps), every one on a *slice* of its own of the
local data (`slices = "own"`; the paper takes the whole data for each, "whole"), so that more directions cost no more
forward passes. Where the model ends in a linear classifier, that head's gradient has a closed form which those forward
passes hold already: the client sends it exactly, as K *projections* on directions of the head's block, and probes
nothing or, with `train`, some or all of the rest, the trunk (`head_projections`; 0 probes everything). The head reads
whitened features: the first round finds out how (`whitening_round`), and moves nothing. A client of the high tier can
back-propagate: it may send exact projections of the trunk's gradient in the place of probes (`gradient_projections`; 0:
it probes like the others).

The model then goes down the estimate that these scalars make (`descent`). Before that, the scalars of a client far longer
than the others' are scaled down (`robust_aggregation`): one client, broken or hostile, cannot lead the model away. tau,
the paper's magnitude of z's entries, is folded in: (eps, rate, tau) is (eps tau, rate tau^2, 1).

Steps are whole ticks of the grid. The rates that suit pretrained weights, some of which are large, move a direction by
tenths of a tick; so ticks are rounded stochastically (`step_builder.steps_of`), by numbers that follow from the round
alone: in the mean every length is kept, and whoever aggregates the same contributions finds the same ticks.

Here are the settings, and the algorithm as the rest of the system knows it: what a contribution costs, and what is refused
of one. What is probed, for client and coordinator alike, is in `probe_plan`; the client's part in `local_scalars`; the
coordinator's in `descent`. An algorithm that probes otherwise has a plan of its own, as `fedkseed` does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.algorithms.descent import FLAT, Descent
from zowarmup.common.algorithms.local_scalars import (
    check_steepness,
    scalars_by_example,
    scalars_by_gradient,
    scalars_by_probing,
    scalars_of_mean,
)
from zowarmup.common.algorithms.probe_plan import ProbePlan
from zowarmup.common.algorithms.probing import ProbingSettings, WholeProbingSettings, check_local_steps
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
from zowarmup.common.algorithms.robust_aggregation import clip_scalars
from zowarmup.common.algorithms.settings import PRIVATE, WarmUp, require
from zowarmup.common.algorithms.step_builder import CommitCost
from zowarmup.common.algorithms.summing import MOST_SKETCHED, Summing
from zowarmup.common.algorithms.whitening_round import WhiteningRound
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import ALL, AUTO, HEAD, LAYERS, NORM, Layout
from zowarmup.common.exact.steps import Weights
from zowarmup.common.lora import LORA, Lora
from zowarmup.common.messages.small_floats import Precision, packed_bytes
from zowarmup.common.messages.values import Computation, Contribution, Scalars, Tier, Work
from zowarmup.common.prefix import PREFIX, prefix_length


def check_train(train: str) -> None:
    """Refuse what cannot be moved.

    Args:
        train: What rounds move.

    Raises:
        ValueError: It says nothing that there is; the sentence names the setting.
    """
    layers = train.startswith(LAYERS) and all(train.removeprefix(LAYERS).split(","))
    named = f'"{AUTO}", "{ALL}", "{NORM}", "{HEAD}", "{LAYERS}PATTERN,...", "{LORA}r=8,modules=q,v" or "{PREFIX}5"'
    try:
        layers = layers or Lora.of(train) is not None or prefix_length(train) > 0
    except ValueError as error:
        raise ValueError(f"train = {train!r}: {error}") from None
    require(train in (AUTO, ALL, NORM, HEAD) or layers, "train", train, named)


def check_head(head_projections: int, whitening: int, weight_decay: float | str) -> None:
    """Raises ValueError naming the setting of the head that is out of its range."""
    require(0 <= head_projections <= 4096, "head_projections", head_projections, "0 to 4096")
    require(0 <= whitening <= 64, "whitening", whitening, "0 (off) to 64")
    known = weight_decay == AUTO if isinstance(weight_decay, str) else 0 <= weight_decay <= 1
    require(known, "weight_decay", weight_decay, f'"{AUTO}" or 0 to 1')


@dataclass(frozen=True, kw_only=True, slots=True)
class ZOWarmUpSettings(WholeProbingSettings):
    """The paper's rounds; each client has directions of its own.

    Args:
        algorithm: Its name, or package.module:Algorithm.
        train: What moves: the head alone, without a probe, where the model ends in a linear layer, else everything
            ("auto"); everything ("all"); the head and what has one axis, scales and shifts of normalisation and
            biases ("norm"); the head alone, without a probe ("head"); the head and the tensors that a pattern
            matches ("layers:*.norm.*,stem.*"); or the head and low-rank adapters of a language model
            ("lora:r=8,modules=q,v", `common.lora`), or prefixes of it ("prefix:5", `common.prefix`). The rest is frozen.
        head_projections: K, the number of exact projections of the head's gradient, 0 to 4096; 0 probes the head with the rest of
            what moves.
        whitening: r, how many directions of what the head reads the first round scales apart (`algorithms.whitening`), 0 to
            64; 0: the head reads it as it is, as it does where its gradient is not sent, or is by back-propagation.
        weight_decay: Half of this times the square of the head's weights, its bias not counted, is added to the loss that the
            head descends, 0 to 1: the gradient that is projected has it. "auto": `probe_plan.DECAY` where all below the head is constant, as
            in a pretrained model, which has more features than some thousand examples can bear; else 0.
        gradient_projections: A client of the high tier does not probe, but back-propagates and sends this many exact
            projections of its gradient, at most 4096; 0: it probes like the others.
        local_steps: How many times over a client probes, 1 to 1024. In between it moves its own replica down its
            estimate, and takes all of that back at the end.
        local_rate: The learning rate of these steps; 0: `rate`.

    Raises:
        ValueError: A setting is out of its range, or has no meaning beside another; the sentence names it.
    """

    private_defaults: ClassVar[Mapping[str, Any]] = {"whitening": 0, "slices": "whole", "probes": 8}

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
        WholeProbingSettings.__post_init__(self)
        check_train(self.train)
        exact = self.gradient_projections
        require(0 <= exact <= 4096, "gradient_projections", exact, "0 (off) to 4096")
        check_head(self.head_projections, self.whitening, self.weight_decay)
        decays = not isinstance(self.weight_decay, str) and self.weight_decay > 0
        require(not (exact and decays), "weight_decay", self.weight_decay, "0 with gradient_projections")
        single = self.local_steps == 1
        require(single or not exact, "gradient_projections", exact, "0 with more than one of local_steps")

    def check_private(self) -> None:
        exact, steps = self.gradient_projections, self.local_steps
        require(self.whitens == 0, "whitening", self.whitening, f"0 {PRIVATE}: the sketch of features is not noised")
        reason = f'"whole" {PRIVATE}: each of S slices has S times fewer examples, and S times the noise in its mean'
        require(self.slices == "whole", "slices", self.slices, reason)
        reason = f"0 {PRIVATE}: back-propagation gives no gradient of each example, which is what is clipped"
        require(exact == 0, "gradient_projections", exact, reason)
        reason = f"1 {PRIVATE}: a client's own steps would follow what has no noise"
        require(steps == 1, "local_steps", steps, reason)

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
    def plan(self) -> ProbePlan:
        """What each client probes."""
        return ProbePlan(self.spec, self.layout)

    def counts(self, tier: Tier, examples: int) -> tuple[int, int]:
        return self.plan.counts(tier, examples)

    def uplink_bytes(self, tier: Tier, examples: int) -> int:
        return sum(packed_bytes(count, Precision(self.spec.scalars)) for count in self.counts(tier, examples))

    def forwards(self, tier: Tier, examples: int) -> int:
        if self.spec.computation(tier) is Computation.GRADIENT:
            return TRAINING_FORWARDS * examples
        if self.plan.probed is None:
            return self.spec.local_steps * examples
        passes = 2 if self.spec.slices == "own" else 2 * self.plan.probes(examples)
        return self.spec.local_steps * passes * examples

    def release_forwards(self, tier: Tier, examples: int) -> int:
        """As `Algorithm.release_forwards`: where the rest is probed, what the head's gradient adds is a pass of its own, at weights that
        nothing has moved, as each example's is wanted."""
        own = self.plan.probed is not None and self.plan.head is not None
        return self.forwards(tier, examples) + own * examples

    def walks(self, tier: Tier, examples: int) -> int:
        if self.spec.computation(tier) is Computation.GRADIENT:
            return 0 if self.plan.probed is None else self.spec.gradient_projections
        return 0 if self.plan.probed is None else self.spec.local_steps * (2 * self.plan.probes(examples) + 1)

    def commit_cost(self, contributors: Sequence[Tier], examples: int, grid: Grid) -> CommitCost:
        """As `Algorithm.commit_cost`, where derivatives have the mean square 1."""
        return Descent(self.plan).commit_cost(contributors, examples, grid)

    def answer_values(self, work: Work, tier: Tier, examples: int) -> int:
        """As `Algorithm.answer_values`: more in the round that whitens."""
        first = self._whitening(work.done)
        return first.values if first else self.uplink_values(tier, examples)

    def project(self, gradient: NDArray[np.float64], work: Work) -> Scalars:
        """As `Algorithm.project`. Raises ValueError where a scalar is not finite, or beyond STEEP."""
        return scalars_by_gradient(self.plan, gradient, work)

    def contribute(self, weights: Weights, grid: Grid, forward: Forward, examples: int, work: Work) -> Scalars:
        """As `Algorithm.contribute`: probe the model, `local_steps` times over.

        Raises:
            HeadroomExceeded: `eps`, or a local step, is beyond the grid.
            ValueError: A scalar is not finite, or beyond STEEP.
        """
        if first := self._whitening(work.done):
            return first.contribute(forward, examples, work)
        return scalars_by_probing(Descent(self.plan), weights, grid, forward, examples, work)

    def example_scalars(
        self, weights: Weights, grid: Grid, forward: Forward, examples: int, work: Work
    ) -> NDArray[np.float64]:
        """As `Algorithm.example_scalars`. Raises HeadroomExceeded where `eps` is beyond the grid."""
        self.spec.check_private()
        return scalars_by_example(self.plan, weights, grid, forward, examples, work)

    def scalars_of_mean(self, weights: Weights, noised: NDArray[np.float64], work: Work) -> Scalars:
        return scalars_of_mean(self.plan, weights, noised, work)

    def check(self, work: Work, tier: Tier, examples: int, contribution: Contribution) -> None:
        if not isinstance(contribution, Scalars):
            raise ValueError(wrong_kind(contribution, work))  # noqa: TRY004  (what a client says is no bug)
        if contribution.round != work.round:
            raise ValueError(f"scalars: they are for round {contribution.round}, the work was for round {work.round}")
        first = self._whitening(work.done)
        counts = (0, first.values) if first else self.counts(tier, examples)
        for name, values, asked in zip(
            ("probes", "projections"), (contribution.probes, contribution.projections), counts, strict=True
        ):
            if len(values) != asked:
                raise ValueError(
                    f"scalars: {len(values)} {name}, {asked} were asked for with {examples} examples in the {tier} tier"
                )
        if first:
            return  # these are no derivatives
        if contribution.precision != self.spec.scalars:
            raise ValueError(f"scalars: each is a {contribution.precision}, the run's scalars = {self.spec.scalars!r}")
        check_steepness(contribution)

    def aggregate(self, start: Start, contributions: Sequence[ClientScalars | Trained]) -> Aggregate:
        """The moves that a round's scalars make (`Descent.moves`), once outlying ones are scaled down; of the round that
        whitens, the same model with whitened features.

        Raises:
            ValueError: There are no scalars, or all of the phase's rounds are done.
        """
        done, given = start.done, [part for part in contributions if isinstance(part, ClientScalars)]
        self._check_done(done)
        if not given:
            raise ValueError("a round without contributions has no estimate")
        parts, clipped = clip_scalars(given, self.spec.clip, FLAT)
        descent = Descent(self.plan)
        if first := self._whitening(done):
            update = first.update(start.weights, list(zip(descent.shares(parts), parts, strict=True)))
            return Aggregate(update=update, turn=done, clipped_scalars=clipped)
        moves, moments = descent.moves(start, parts)
        return Aggregate(moves=tuple(moves), turn=done, optimizer_state=moments, clipped_scalars=clipped)

    def sum_limits(self, bounds: tuple[float, ...], done: int) -> NDArray[np.float64]:
        first = self._whitening(done)
        return np.full(first.values, MOST_SKETCHED) if first else Summing(Descent(self.plan)).limits(bounds)

    def summand(self, part: ClientScalars, bounds: tuple[float, ...], done: int) -> NDArray[np.float64]:
        if self._whitening(done):
            return np.array(part.scalars.projections)
        return Summing(Descent(self.plan)).summand(part, bounds)

    def aggregate_mean(
        self, start: Start, mean: NDArray[np.float64], contributors: Sequence[ClientScalars]
    ) -> Aggregate:
        """As `Algorithm.aggregate_mean`. Raises ValueError where all of the phase's rounds are done."""
        self._check_done(start.done)
        if first := self._whitening(start.done):
            together = contributors[0]._replace(scalars=Scalars(1, (), tuple(mean.tolist())))
            return Aggregate(update=first.update(start.weights, [(1.0, together)]), turn=start.done)
        return Summing(Descent(self.plan)).aggregate(start, mean, contributors)

    def _check_done(self, done: int) -> None:
        if not 0 <= done < self.spec.rounds:
            raise ValueError(
                f"done = {done}: must be 0 to {self.spec.rounds - 1}, the run has {self.spec.rounds} rounds"
            )

    def _whitening(self, done: int) -> WhiteningRound | None:
        """The first round, where that whitens what the head reads; None for any other."""
        return WhiteningRound(self.layout) if done == 0 and self.layout.whitening else None
