"""Settings that all algorithms have in common: the sections [warmup] and [zeroth_order] of the run file.

An algorithm's own settings are in its file in `common.algorithms`, made from what is here. Settings check themselves, and
answer what the rest of the system asks instead of an algorithm's name: who takes part and computes what, whether
directions are shared, whether commits add up, what it costs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from zowarmup.common.exact.layout import Layout
from zowarmup.common.exact.steps import Step
from zowarmup.common.messages.values import Computation, Tier

if TYPE_CHECKING:
    from zowarmup.common.algorithms.protocol import Algorithm


def require(ok: bool, name: str, value: object, allowed: str) -> None:
    if not ok:
        raise ValueError(f"{name} = {value!r}: must be {allowed}")


def require_clip(clip: float) -> None:
    require(clip == 0 or 1 <= clip <= 1e6, "clip", clip, "0 (off) or 1 to 1e6")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rounds:
    """Who takes part in a phase's rounds and how long they last.

    A round opens when `minimum_clients` eligible clients are connected (0: `clients_per_round`); where that is more than
    a round draws, whom it draws does not depend on who came first. It needs at most `clients_per_round` contributions
    and draws a share of `over_selection` more clients than that. It closes when so many have contributed as it needs, or
    when `quorum` (a share of those) has and the rest are gone or the deadline is over: `deadline_s`, or what past rounds
    show to be enough where `learn_deadline`, but never more than `deadline_s`.
    """

    shared_directions: ClassVar[bool] = False
    """Whether a round gives all its participants one seed."""
    commits_merge: ClassVar[bool] = False
    """Whether commits are along the same directions, so that any number of them add up to one."""

    method: str
    rounds: int
    clients_per_round: int = 10
    minimum_clients: int = 0
    quorum: float = 0.8
    deadline_s: float = 120.0
    learn_deadline: bool = True
    over_selection: float = 0.0

    def __post_init__(self) -> None:
        require(0 <= self.rounds <= 1_000_000_000, "rounds", self.rounds, "0 to 1000000000")
        require(self.clients_per_round >= 1, "clients_per_round", self.clients_per_round, "at least 1")
        require(0 <= self.minimum_clients <= 1_000_000_000, "minimum_clients", self.minimum_clients, "0 to 1000000000")
        require(0 < self.quorum <= 1, "quorum", self.quorum, "above 0 and at most 1")
        require(0 < self.deadline_s <= 86400, "deadline_s", self.deadline_s, "above 0 and at most 86400 (a day)")
        require(0 <= self.over_selection <= 10, "over_selection", self.over_selection, "0 to 10")

    def computation(self, tier: Tier) -> Computation | None:
        """What a client of that tier computes in a round; None where that tier takes no part."""
        raise NotImplementedError

    def algorithm(self, layout: Layout, pool_seed: int = 0, warmup: "WarmUp | None" = None) -> "Algorithm":
        """The algorithm with these settings.

        Args:
            layout: Of the model.
            pool_seed: The stream of the directions that the whole run shares.
            warmup: The warm-up's settings, for an algorithm that goes on with it.
        """
        raise NotImplementedError

    def check_model(self, name: str, norm: str) -> None:
        """Raises ValueError naming the setting of `model` where the algorithm cannot train that one."""

    def slowed(self, factor: float) -> Self:
        """The same at `factor` (above 0) times the learning rate."""
        raise NotImplementedError

    def replay_signs(self, steps: Sequence[Step]) -> int:
        """How many signs, one a parameter and direction, a restart looks up for a commit more to replay."""
        return 0 if self.commits_merge else sum(len(step.ticks) * step.block.size for step in steps)

    @property
    def steps_locally(self) -> bool:
        """Whether a client moves its own replica between probes, and so has to know how far the run is."""
        return False

    @property
    def tiers(self) -> tuple[Tier, ...]:
        """Whose clients take part in the rounds."""
        return tuple(tier for tier in (Tier.HIGH, Tier.LOW) if self.computation(tier))

    def back_propagates(self, tier: Tier) -> bool:
        """Whether there is any round in which clients of that tier need torch."""
        return self.rounds > 0 and self.computation(tier) in (Computation.TRAINING, Computation.GRADIENT)

    def trains(self, tier: Tier) -> bool:
        """Whether there is any round in which clients of that tier upload a delta."""
        return self.rounds > 0 and self.computation(tier) is Computation.TRAINING


@dataclass(frozen=True, kw_only=True, slots=True)
class Weighting(Rounds):
    """What a client counts with in a round (`robust_aggregation.counted`).

    `weighting`: with the examples that it claims to hold ("examples"), at most `most_examples` (0: no limit) and at most
    `most_times_median` times the median claim of the round's contributors (0: no limit); or all count alike ("uniform").
    """

    weighting: Literal["examples", "uniform"] = "examples"
    most_examples: int = 0
    most_times_median: float = 2.0

    def __post_init__(self) -> None:
        Rounds.__post_init__(self)
        most, times = self.most_examples, self.most_times_median
        require(0 <= most < 1 << 48, "most_examples", most, "0 (no limit) or 1 to 2^48 - 1")
        require(times == 0 or 1 <= times <= 1e6, "most_times_median", times, "0 (no limit) or 1 to 1e6")
        if self.weighting == "uniform":
            only = 'the default, with weighting = "uniform", which no claim changes'
            require(most == 0, "most_examples", most, f"0, {only}")
            require(times == 2, "most_times_median", times, f"2, {only}")


def check_aggregate(weighting: str, aggregate: str, trim: float) -> None:
    """Raises ValueError naming the setting where an aggregate that is not the mean cannot be taken."""
    if aggregate != "mean":
        require(weighting == "uniform", "weighting", weighting, f'"uniform" with aggregate = "{aggregate}"')
    if aggregate == "trimmed":
        require(0 < trim < 0.5, "trim", trim, "above 0 and below 0.5")
    else:
        require(trim == 0.25, "trim", trim, '0.25, the default, unless aggregate = "trimmed"')


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmUp(Weighting):
    """What every warm-up has.

    `pivot`: after `rounds` rounds ("rounds"), or earlier ("auto") once the held-out loss of the last `patience` rounds
    has not fallen by the share `least_improvement` from that of as many before (`server.core.plateau`).
    """

    pivot: Literal["rounds", "auto"] = "rounds"
    patience: int = 5
    least_improvement: float = 0.02

    def __post_init__(self) -> None:
        Weighting.__post_init__(self)
        patience, least = self.patience, self.least_improvement
        if self.pivot == "auto":
            require(1 <= patience <= 100_000, "patience", patience, "1 to 100000 rounds")
            require(0 <= least < 1, "least_improvement", least, "0 to below 1")
        else:
            only = 'the default, unless pivot = "auto"'
            require(patience == 5, "patience", patience, f"5, {only}")
            require(least == 0.02, "least_improvement", least, f"0.02, {only}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ZerothOrder(Weighting):
    """What all rounds after the pivot have.

    `rate`: the learning rate of the first round.
    `micro_batch`: examples a forward pass, which bounds a client's memory. `snapshot_every`: at most so many versions
    between snapshots on the coordinator's disk; fewer where the model is large, so that a restart replays no more than some
    seconds' worth.
    """

    rate: float = 0.4
    micro_batch: int = 64
    snapshot_every: int = 50

    def __post_init__(self) -> None:
        Weighting.__post_init__(self)
        require(0 < self.rate <= 1000, "rate", self.rate, "above 0 and at most 1000")
        require(1 <= self.micro_batch <= 65536, "micro_batch", self.micro_batch, "1 to 65536")
        require(self.snapshot_every >= 1, "snapshot_every", self.snapshot_every, "at least 1")

    def check_warm_up(self, warmup: WarmUp) -> None:
        """Raises ValueError naming the setting where the rounds cannot follow that warm-up."""

    def largest_batch(self, examples: int) -> int:
        """How many examples the largest forward pass of a client with so many has."""
        return min(self.micro_batch, examples)

    @property
    def step(self) -> str:
        """What steps the rate is of: rates of different ones cannot be compared."""
        return self.method

    def annealed(self, rate: float, done: int) -> float:
        """The learning rate after so many rounds of a run that began with `rate`."""
        return rate

    @property
    def first_move(self) -> float:
        """About how far the first round moves each weight; 0 where that depends on the model."""
        return 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbingSettings(ZerothOrder):
    """What all algorithms have that probe.

    What a client computes: `probes` S directions a round, each on its own slice of the local data (`slices = "own"`) or
    on the whole of it (`"whole"`, the paper's way); `directions`: random signs or, for the paper's ablation, near enough
    normal variates. `eps`: a probe's length; `tau`: the paper's redundant scale of z (folded into eps and rate).

    What moves the model: `step` "normalized" divides by the round's root-mean-square probe scalar and anneals `rate`
    linearly to near zero; "raw" is the paper's; "adam" divides by what a running mean over the rounds, with `beta2`,
    says that the estimate of a block's parameter is, so that `rate` is about how far each moves, and anneals. `clip`: a
    client's scalars whose root mean square is beyond so many times that of the others (`robust_aggregation`) are scaled down to
    it (0: none are).
    """

    directions: Literal["signs", "gaussian"] = "signs"
    probes: int = 32
    slices: Literal["own", "whole"] = "own"
    eps: float = 1e-3
    tau: float = 1.0
    step: Literal["normalized", "raw", "adam"] = "normalized"
    beta2: float = 0.99
    clip: float = 2.5

    def __post_init__(self) -> None:
        ZerothOrder.__post_init__(self)
        require(1 <= self.probes <= 4096, "probes", self.probes, "1 to 4096")
        longest = self.local_steps * max(self.probes, self.head_projections)
        normal = self.directions == "gaussian"
        require(
            not normal or longest <= 512, "probes", self.probes, 'at most 512 in a round with directions = "gaussian"'
        )
        require(0 < self.eps <= 1, "eps", self.eps, "above 0 and at most 1")
        require(0 < self.tau <= 1000, "tau", self.tau, "above 0 and at most 1000")
        require(0 <= self.beta2 < 1, "beta2", self.beta2, "0 to below 1")
        if self.step == "adam":
            require(not self.steps_locally, "step", self.step, "another one where clients take steps of their own")
        else:
            require(self.beta2 == 0.99, "beta2", self.beta2, f'0.99, the default, with step "{self.step}"')
        require_clip(self.clip)

    # What an algorithm does not have as a setting.
    @property
    def head_projections(self) -> int:
        return 0

    @property
    def gradient_projections(self) -> int:
        return 0

    @property
    def local_steps(self) -> int:
        return 1

    @property
    def local_rate(self) -> float:
        return 0.0

    @property
    def aggregate(self) -> str:
        return "mean"

    @property
    def trim(self) -> float:
        return 0.25

    @property
    def steps_locally(self) -> bool:
        return self.local_steps > 1

    def computation(self, tier: Tier) -> Computation | None:
        return Computation.GRADIENT if tier is Tier.HIGH and self.gradient_projections else Computation.FORWARD

    def slowed(self, factor: float) -> Self:
        """At `factor` times the learning rate, that of clients' own steps included."""
        if factor == 1:
            return self
        local: dict[str, Any] = {"local_rate": self.local_rate * factor} if self.local_rate else {}
        return replace(self, rate=self.rate * factor, **local)

    def largest_batch(self, examples: int) -> int:
        longest = -(-examples // min(self.probes, examples)) if self.slices == "own" else examples
        return min(self.micro_batch, longest)

    def annealed(self, rate: float, done: int) -> float:
        return rate if self.step == "raw" else rate * (1 - done / max(1, self.rounds))

    @property
    def first_move(self) -> float:
        """A normalised step moves each weight by about rate / sqrt(directions a round), Adam's by about rate."""
        directions = self.probes if self.shared_directions else self.clients_per_round * self.probes
        return {"raw": 0.0, "adam": self.rate, "normalized": self.rate / math.sqrt(directions)}[self.step]


def check_local_steps(spec: ProbingSettings) -> None:
    """Raises ValueError naming the setting of the head's projections or of local steps that is wrong."""
    require(0 <= spec.head_projections <= 4096, "head_projections", spec.head_projections, "0 to 4096")
    require(1 <= spec.local_steps <= 1024, "local_steps", spec.local_steps, "1 to 1024")
    longest = spec.local_steps * max(spec.probes, spec.head_projections)
    require(longest <= 4096, "local_steps", spec.local_steps, "so few that there are at most 4096 scalars of a kind")
    check_local_rate(spec)


def check_local_rate(spec: ProbingSettings) -> None:
    """Raises ValueError where the learning rate of local steps is wrong."""
    require(0 <= spec.local_rate <= 1000, "local_rate", spec.local_rate, "0 (as rate) to 1000")
    stepping = spec.steps_locally or not spec.local_rate
    require(stepping, "local_rate", spec.local_rate, "0 where a client takes no steps of its own (local_steps = 1)")
