"""How each phase of a run works: the sections [warmup] and [zeroth_order] of the run file.

Each checks itself; which settings belong to which method is said there too, so a value that a method has no use for is
refused by name. `common.methods` makes the method of a section.
"""

from dataclasses import dataclass, replace
from typing import Literal, Self

from zowarmup.common.work import Tier


def require(ok: bool, name: str, value: object, allowed: str) -> None:
    if not ok:
        raise ValueError(f"{name} = {value!r}: must be {allowed}")


def _require_clip(clip: float) -> None:
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Aggregation(Rounds):
    """How a round's contributions become one (`methods.aggregation`).

    `weighting`: a client counts with the examples that it claims to hold ("examples"), at most `most_examples` (0: no
    limit) and at most `most_times_median` times the median claim of the round's contributors (0: no limit); or all count alike
    ("uniform"). `aggregate`: the weighted mean ("mean"); or coordinate by coordinate, without weights, the mean of all values
    but the share `trim` at either end ("trimmed") or the median ("median").
    """

    weighting: Literal["examples", "uniform"] = "examples"
    most_examples: int = 0
    most_times_median: float = 2.0
    aggregate: Literal["mean", "trimmed", "median"] = "mean"
    trim: float = 0.25

    def __post_init__(self) -> None:
        Rounds.__post_init__(self)
        most, times = self.most_examples, self.most_times_median
        require(0 <= most < 1 << 48, "most_examples", most, "0 (no limit) or 1 to 2^48 - 1")
        require(times == 0 or 1 <= times <= 1e6, "most_times_median", times, "0 (no limit) or 1 to 1e6")
        uniform = self.weighting == "uniform"
        if uniform:
            only = 'the default, with weighting = "uniform", which no claim changes'
            require(most == 0, "most_examples", most, f"0, {only}")
            require(times == 2, "most_times_median", times, f"2, {only}")
        if self.aggregate != "mean":
            require(uniform, "weighting", self.weighting, f'"uniform" with aggregate = "{self.aggregate}"')
        if self.aggregate == "trimmed":
            require(0 < self.trim < 0.5, "trim", self.trim, "above 0 and below 0.5")
        else:
            require(self.trim == 0.25, "trim", self.trim, '0.25, the default, unless aggregate = "trimmed"')


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmUp(Aggregation):
    """Training by back-propagation, by the clients of `tiers`: `epochs` of local SGD in batches of `batch` examples at
    `rate`; the server moves by `server_rate` times the aggregate of the deltas, in which a delta longer than `clip`
    times the others' or than the model itself (`methods.robust`) is scaled down to that (0: none is). `method`: with fedadam and
    fedyogi, that aggregate is the gradient which Adam or Yogi follows on the server, at `server_rate`, with `beta1`, `beta2` and `tau` for its
    epsilon; with heterofl the low tier trains too, a half-width part of the model.

    `pivot`: after `rounds` rounds ("rounds"), or earlier ("auto") once the held-out loss of the last `patience` rounds
    has not fallen by the share `least_improvement` from that of as many before (`server.plateau`).
    """

    method: Literal["fedavg", "fedadam", "fedyogi", "heterofl"] = "fedavg"
    epochs: int = 3
    batch: int = 64
    rate: float = 0.1
    server_rate: float = 1.0
    clip: float = 5.0
    beta1: float = 0.9
    beta2: float = 0.999
    tau: float = 1e-3
    pivot: Literal["rounds", "auto"] = "rounds"
    patience: int = 5
    least_improvement: float = 0.02

    def __post_init__(self) -> None:
        Aggregation.__post_init__(self)
        require(self.epochs >= 1, "epochs", self.epochs, "at least 1")
        require(1 <= self.batch <= 65536, "batch", self.batch, "1 to 65536")
        require(0 < self.rate <= 1000, "rate", self.rate, "above 0 and at most 1000")
        require(0 < self.server_rate <= 1000, "server_rate", self.server_rate, "above 0 and at most 1000")
        _require_clip(self.clip)
        self._check_optimiser()
        self._check_pivot()

    @property
    def tiers(self) -> tuple[Tier, ...]:
        """Whose clients take part in its rounds, and so need torch."""
        return (Tier.HIGH, Tier.LOW) if self.method == "heterofl" else (Tier.HIGH,)

    def trains(self, tier: Tier) -> bool:
        """Whether there is any such round for clients of that tier."""
        return self.rounds > 0 and tier in self.tiers

    def slowed(self, factor: float) -> Self:
        """The same at `factor` (above 0) times the learning rate: that of local SGD or, where Adam or Yogi on the server
        makes a step whose length does not depend on it, theirs."""
        if factor == 1:
            return self
        if self.method in ("fedadam", "fedyogi"):
            return replace(self, server_rate=self.server_rate * factor)
        return replace(self, rate=self.rate * factor)

    def _check_optimiser(self) -> None:
        given = {"beta1": (self.beta1, 0.9), "beta2": (self.beta2, 0.999), "tau": (self.tau, 1e-3)}
        if self.method in ("fedavg", "heterofl"):
            for name, (value, default) in given.items():
                require(value == default, name, value, f'{default:g}, the default, with method "{self.method}"')
            return
        rate = self.server_rate
        require(rate < 1, "server_rate", rate, f'below 1 with method "{self.method}": so far does each weight move')
        for name in ("beta1", "beta2"):
            value = given[name][0]
            require(0 <= value < 1, name, value, "0 to below 1")
        require(1e-12 <= self.tau <= 1, "tau", self.tau, "1e-12 to 1")

    def _check_pivot(self) -> None:
        patience, least = self.patience, self.least_improvement
        if self.pivot == "auto":
            require(1 <= patience <= 100_000, "patience", patience, "1 to 100000 rounds")
            require(0 <= least < 1, "least_improvement", least, "0 to below 1")
        else:
            only = 'the default, unless pivot = "auto"'
            require(patience == 5, "patience", patience, f"5, {only}")
            require(least == 0.02, "least_improvement", least, f"0.02, {only}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ZerothOrder(Aggregation):
    """Zeroth-order rounds among everyone, by `method`: zowarmup (the paper's; each client has directions of its own),
    decomfl (all have the same, so commits do not grow with the fleet) or fedkseed (a step of a client's own after each
    probe, along one of the `pool` directions that the whole run shares).

    What a client computes: `probes` S directions a round, each on its own slice of the local data (`slices = "own"`) or
    on the whole of it (`"whole"`, the paper's way); `directions`: random signs or, for the paper's ablation, near enough
    normal variates; `head_projections` K exact projections of the head's gradient. With `gradient_projections` (0: none)
    a client of the high tier does not probe, but back-propagates and sends so many exact projections of its gradient.
    With `high_tier` "fedavg" it goes on as in the warm-up instead of sending scalars (to compare with: every version is
    then a snapshot). `local_steps`: a client probes so many times over, in between moving its own replica down what it
    has found at `local_rate` (0: `rate`), and takes all of it back at the end. `eps`: a probe's length; `tau`: the
    paper's redundant scale of z (folded into eps and rate). `micro_batch`: examples a forward pass, which bounds a
    client's memory.

    What moves the model: `step` "normalized" divides by the round's root-mean-square probe scalar and anneals `rate`
    linearly to near zero; "raw" is the paper's; "adam" divides by what a running mean over the rounds, with `beta2`,
    says that the estimate of a block's parameter is, so that `rate` is about how far each moves, and anneals.
    `clip`: a client's scalars whose root mean square is beyond so many times that
    of the others (`methods.robust`) are scaled down to it (0: none are). `snapshot_every`: at most so many zeroth-order versions between snapshots
    on the coordinator's disk; fewer where the model is large, so that a restart replays no more than some seconds' worth.
    """

    method: Literal["zowarmup", "decomfl", "fedkseed"] = "zowarmup"
    directions: Literal["signs", "gaussian"] = "signs"
    probes: int = 32
    slices: Literal["own", "whole"] = "own"
    head_projections: int = 32
    gradient_projections: int = 0
    high_tier: Literal["scalars", "fedavg"] = "scalars"
    pool: int = 0
    local_steps: int = 1
    local_rate: float = 0.0
    eps: float = 1e-3
    tau: float = 1.0
    rate: float = 0.4
    step: Literal["normalized", "raw", "adam"] = "normalized"
    beta2: float = 0.99
    clip: float = 2.5
    micro_batch: int = 64
    snapshot_every: int = 50

    def __post_init__(self) -> None:
        Aggregation.__post_init__(self)
        require(1 <= self.probes <= 4096, "probes", self.probes, "1 to 4096")
        require(0 <= self.head_projections <= 4096, "head_projections", self.head_projections, "0 to 4096")
        exact = self.gradient_projections
        require(0 <= exact <= 4096, "gradient_projections", exact, "0 (off) to 4096")
        training = self.high_tier == "fedavg"
        require(not (training and exact), "gradient_projections", exact, '0 with high_tier = "fedavg"')
        self._check_pool()
        self._check_aggregate()
        require(1 <= self.local_steps <= 1024, "local_steps", self.local_steps, "1 to 1024")
        longest = self.local_steps * max(self.probes, self.head_projections)
        require(
            longest <= 4096, "local_steps", self.local_steps, "so few that there are at most 4096 scalars of a kind"
        )
        require(
            self.local_steps == 1 or not exact, "gradient_projections", exact, "0 with more than one of local_steps"
        )
        require(0 <= self.local_rate <= 1000, "local_rate", self.local_rate, "0 (as rate) to 1000")
        stepping = self.steps_locally or not self.local_rate
        require(stepping, "local_rate", self.local_rate, "0 where a client takes no steps of its own (local_steps = 1)")
        normal = self.directions == "gaussian"
        require(
            not normal or longest <= 512, "probes", self.probes, 'at most 512 in a round with directions = "gaussian"'
        )
        require(not normal or self.pool <= 512, "pool", self.pool, 'at most 512 with directions = "gaussian"')
        require(0 < self.eps <= 1, "eps", self.eps, "above 0 and at most 1")
        require(0 < self.tau <= 1000, "tau", self.tau, "above 0 and at most 1000")
        require(0 < self.rate <= 1000, "rate", self.rate, "above 0 and at most 1000")
        require(0 <= self.beta2 < 1, "beta2", self.beta2, "0 to below 1")
        if self.step == "adam":
            require(not self.steps_locally, "step", self.step, "another one where clients take steps of their own")
        else:
            require(self.beta2 == 0.99, "beta2", self.beta2, f'0.99, the default, with step "{self.step}"')
        _require_clip(self.clip)
        require(1 <= self.micro_batch <= 65536, "micro_batch", self.micro_batch, "1 to 65536")
        require(self.snapshot_every >= 1, "snapshot_every", self.snapshot_every, "at least 1")

    @property
    def steps_locally(self) -> bool:
        """Whether a client moves its own replica between probes, and so has to know how far the run is."""
        return self.local_steps > 1 or self.method == "fedkseed"

    def slowed(self, factor: float) -> Self:
        """The same at `factor` (above 0) times the learning rate, that of clients' own steps included."""
        if factor == 1:
            return self
        return replace(self, rate=self.rate * factor, local_rate=self.local_rate * factor)

    def _check_pool(self) -> None:
        if self.method != "fedkseed":
            require(self.pool == 0, "pool", self.pool, f'0 with method "{self.method}", which has none')
            return
        only = 'with method "fedkseed"'
        require(1 <= self.pool <= 4096, "pool", self.pool, f"1 to 4096 {only}")
        require(self.head_projections == 0, "head_projections", self.head_projections, f"0 {only}")
        require(self.gradient_projections == 0, "gradient_projections", self.gradient_projections, f"0 {only}")
        require(self.local_steps == 1, "local_steps", self.local_steps, f"1 {only}, which takes one after every probe")

    def _check_aggregate(self) -> None:
        if self.aggregate == "mean":
            return
        own = "whose clients probe directions of their own, so that no two of their scalars can be compared"
        require(self.method != "zowarmup", "aggregate", self.aggregate, f'"mean" with method "zowarmup", {own}')
        if self.method == "fedkseed":
            enough = self.clients_per_round * self.probes >= 4 * self.pool
            few = (
                "so few that clients_per_round * probes is at least 4 times as many: fewer than 3 values of a direction"
            )
            require(enough, "pool", self.pool, f"{few} have no {self.aggregate} aggregate")
