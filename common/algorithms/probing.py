"""Settings that all algorithms have in common which probe.

What only some of them can set is a property with the value that it has for the others; these have a field of that name.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from zowarmup.common.algorithms.settings import ZerothOrder, require, require_clip
from zowarmup.common.exact.layout import ALL, AUTO, HEAD
from zowarmup.common.messages.values import Computation, Tier


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbingSettings(ZerothOrder):
    """What all algorithms have that probe: what a client computes, and what moves the model.

    Args:
        directions: Random signs ("signs") or, for the paper's ablation, approximately normal variates ("gaussian").
        slices: Each probe on its own slice of the local data ("own"), or on the whole of it ("whole", as in the paper).
        eps: The length of a probe, in units of a weight, above 0 and at most 1.
        tau: The paper's redundant scale of z, folded into `eps` and `rate`, above 0 and at most 1000.
        step: "normalized" divides by the round's root-mean-square probe scalar and anneals `rate` linearly to near
            zero; "raw" is the paper's; "adam" divides by the running root mean square of a block's estimate, so that
            `rate` is about how far each parameter moves, and anneals.
        beta2: Of that running mean over the rounds, with "adam", 0 to below 1.
        scalars: What each scalar travels as: "float32", or, rounded without bias (`scalar_rounding`), a "byte" or half of
            one ("nibble").
        clip: A client's scalars whose root mean square is more than this many times that of the others are scaled down
            to it (`robust_aggregation`); 0: none are.

    Raises:
        ValueError: A setting is out of its range, or has no meaning beside another; the sentence names it.
    """

    directions: Literal["signs", "gaussian"] = "signs"
    slices: Literal["own", "whole"] = "own"
    eps: float = 1e-3
    tau: float = 1.0
    step: Literal["normalized", "raw", "adam"] = "normalized"
    beta2: float = 0.99
    scalars: Literal["float32", "byte", "nibble"] = "float32"
    clip: float = 2.5

    def __post_init__(self) -> None:
        ZerothOrder.__post_init__(self)
        most = self.most_probes
        require(1 <= most <= 4096, "probes", most, "1 to 4096")
        longest = self.local_steps * max(most, self.head_projections)
        normal = self.directions == "gaussian"
        require(not normal or longest <= 512, "probes", most, 'at most 512 in a round with directions = "gaussian"')
        require(0 < self.eps <= 1, "eps", self.eps, "above 0 and at most 1")
        require(0 < self.tau <= 1000, "tau", self.tau, "above 0 and at most 1000")
        require(0 <= self.beta2 < 1, "beta2", self.beta2, "0 to below 1")
        if self.step == "adam":
            require(not self.steps_locally, "step", self.step, "another one where clients take steps of their own")
        else:
            require(self.beta2 == 0.99, "beta2", self.beta2, f'0.99, the default, with step "{self.step}"')
        require_clip(self.clip)

    @property
    def most_probes(self) -> int:
        """How many probes a client has between two moves of its weights, at most."""
        raise NotImplementedError

    # What an algorithm does not have as a setting.
    @property
    def head_projections(self) -> int:
        return 0

    @property
    def weight_decay(self) -> float | str:
        return 0.0

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

    def check_sums(self) -> None:
        ZerothOrder.check_sums(self)
        single = '"mean" with secure aggregation: a trimmed mean or a median needs the scalars of each client'
        require(self.aggregate == "mean", "aggregate", self.aggregate, single)
        alike = (0, self.most_probes)
        reason = f"0 or {self.most_probes}, the number of probes, with secure aggregation: what the high tier alone has is no sum of many"
        require(self.gradient_projections in alike, "gradient_projections", self.gradient_projections, reason)
        whole = '"float32" with secure aggregation: under a mask a number has 8 bytes, whatever it is rounded to'
        require(self.scalars == "float32", "scalars", self.scalars, whole)

    def computation(self, tier: Tier) -> Computation | None:
        return Computation.GRADIENT if tier is Tier.HIGH and self.gradient_projections else Computation.FORWARD

    @property
    def probes_head(self) -> bool:
        return self.head_projections == 0 and self.moved != ALL

    def slowed(self, factor: float) -> Self:
        """At `factor` times the learning rate, that of clients' own steps included."""
        if factor == 1:
            return self
        local: dict[str, Any] = {"local_rate": self.local_rate * factor} if self.local_rate else {}
        return replace(self, rate=self.rate * factor, **local)

    def largest_batch(self, examples: int) -> int:
        sliced = self.slices == "own" and (self.probes_head or self.moved not in (AUTO, HEAD))
        longest = -(-examples // min(self.most_probes, examples)) if sliced else examples
        return min(self.micro_batch, longest)

    def annealed(self, rate: float, done: int) -> float:
        return rate if self.step == "raw" else rate * (1 - done / max(1, self.rounds))

    @property
    def first_move(self) -> float:
        """A normalised step moves each weight by about rate / sqrt(directions a round), Adam's by about rate."""
        alone = self.moved in (AUTO, HEAD) and not self.probes_head
        each = self.head_projections if alone else self.most_probes
        directions = each if self.shared_directions else self.clients_per_round * each
        return {"raw": 0.0, "adam": self.rate, "normalized": self.rate / math.sqrt(directions)}[self.step]


@dataclass(frozen=True, kw_only=True, slots=True)
class WholeProbingSettings(ProbingSettings):
    """What those have whose every probe moves all that moves.

    Args:
        probes: S, the number of directions of a client in a round, 1 to 4096.

    Raises:
        ValueError: As ProbingSettings.
    """

    probes: int = 32

    @property
    def most_probes(self) -> int:
        return self.probes


def check_local_steps(spec: ProbingSettings) -> None:
    """Raises ValueError naming the setting of the head's projections or of local steps that is wrong."""
    require(0 <= spec.head_projections <= 4096, "head_projections", spec.head_projections, "0 to 4096")
    require(1 <= spec.local_steps <= 1024, "local_steps", spec.local_steps, "1 to 1024")
    longest = spec.local_steps * max(spec.most_probes, spec.head_projections)
    require(longest <= 4096, "local_steps", spec.local_steps, "so few that there are at most 4096 scalars of a kind")
    check_local_rate(spec)


def check_local_rate(spec: ProbingSettings) -> None:
    """Raises ValueError where the learning rate of local steps is wrong."""
    require(0 <= spec.local_rate <= 1000, "local_rate", spec.local_rate, "0 (as rate) to 1000")
    stepping = spec.steps_locally or not spec.local_rate
    require(stepping, "local_rate", spec.local_rate, "0 where a client takes no steps of its own (local_steps = 1)")
