"""Settings that all algorithms have in common: the sections [warmup] and [zeroth_order] of the run file.

An algorithm's own settings are in its file in `common.algorithms`, made from what is here. Settings check themselves,
and answer what the rest of the system asks instead of an algorithm's name: who takes part and computes what, whether
directions are shared, whether commits add up, what it costs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from zowarmup.common.exact.layout import ALL, Layout
from zowarmup.common.exact.steps import Step
from zowarmup.common.messages.values import Computation, Tier

if TYPE_CHECKING:
    from zowarmup.common.algorithms.protocol import Algorithm


MOST_SUMMED = 1000
"""Devices in a round with secure aggregation: what one sends the others is then a message of 50 kB."""
PRIVATE = "under [privacy]"


def require(ok: bool, name: str, value: object, allowed: str) -> None:
    """Refuse a setting.

    Args:
        ok: Whether its value is allowed.
        name: The setting's, as the run file has it.
        value: What it is.
        allowed: What it must be, as the sentence ends.

    Raises:
        ValueError: `ok` is false.
    """
    if not ok:
        raise ValueError(f"{name} = {value!r}: must be {allowed}")


def require_clip(clip: float) -> None:
    require(clip == 0 or 1 <= clip <= 1e6, "clip", clip, "0 (off) or 1 to 1e6")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rounds:
    """Who takes part in a phase's rounds and how long they last.

    A round opens when enough eligible clients are connected, and draws whom it asks among them. It closes when as many
    have contributed as it needs, or when `quorum` of these have and the others are gone or the deadline is over.

    Args:
        algorithm: Its name, or package.module:Algorithm.
        rounds: How many rounds the phase has, 0 to 10^9.
        clients_per_round: How many contributions a round needs at most, at least 1.
        minimum_clients: How many eligible clients must be connected for a round to open; 0: `clients_per_round`. Where
            that is more than a round draws, whom it draws does not depend on who came first.
        quorum: A share of the contributions that a round needs, above 0 and at most 1.
        deadline_s: Seconds that a round lasts at most, above 0 and at most 86400.
        learn_deadline: Whether the deadline is what past rounds show to be enough, where that is less than
            `deadline_s`.
        over_selection: By what share a round draws more clients than it needs contributions, 0 to 10.

    Raises:
        ValueError: A setting is out of its range; the sentence names it.
    """

    shared_directions: ClassVar[bool] = False
    """Whether a round gives all its participants one seed."""
    sums: ClassVar[bool] = False
    """Whether what the clients of a round send is along the same directions, so that its sum is all that is needed."""
    commits_merge: ClassVar[bool] = False
    """Whether commits are along the same directions, so that any number of them add up to one."""

    algorithm: str
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

    @property
    def drawn(self) -> int:
        """How many clients a round draws at most."""
        return math.ceil(self.clients_per_round * (1 + self.over_selection) - 1e-9)

    def computation(self, tier: Tier) -> Computation | None:
        """What a client of that tier computes in a round; None where that tier takes no part."""
        raise NotImplementedError

    def build(self, layout: Layout, pool_seed: int = 0, warmup: "WarmUp | None" = None) -> "Algorithm":
        """The algorithm with these settings.

        Args:
            layout: Of the model.
            pool_seed: The stream of the directions that the whole run shares.
            warmup: The warm-up's settings, for an algorithm that goes on with it.
        """
        raise NotImplementedError

    def check_model(self, name: str, norm: str) -> None:
        """Refuse a model that the algorithm cannot train.

        Args:
            name: The model's, as the run file says it.
            norm: How the model normalises, as the run file says it.

        Raises:
            ValueError: The sentence names the setting of `model`.
        """

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

    Args:
        weighting: With the examples that it claims to hold ("examples"), or all clients alike ("uniform").
        most_examples: The most examples that a client counts with; 0: no limit.
        most_times_median: The most that it counts with, as a multiple of the median claim of the round's contributors;
            0: no limit.

    Raises:
        ValueError: A setting is out of its range, or has no meaning beside another; the sentence names it.
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
    """Refuse settings with which an aggregate cannot be taken.

    Args:
        weighting: What clients count with, "examples" or "uniform".
        aggregate: "mean", "trimmed" or "median".
        trim: The share that "trimmed" leaves out at either end.

    Raises:
        ValueError: An aggregate other than the mean is not "uniform", or `trim` is out of its range or has no meaning;
            the sentence names the setting.
    """
    if aggregate != "mean":
        require(weighting == "uniform", "weighting", weighting, f'"uniform" with aggregate = "{aggregate}"')
    if aggregate == "trimmed":
        require(0 < trim < 0.5, "trim", trim, "above 0 and below 0.5")
    else:
        require(trim == 0.25, "trim", trim, '0.25, the default, unless aggregate = "trimmed"')


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmUp(Weighting):
    """What every warm-up has.

    Args:
        pivot: After `rounds` rounds ("rounds"), or earlier ("auto") once the held-out loss no longer falls
            (`server.core.plateau`).
        patience: With "auto": the loss of this many last rounds is compared with that of as many before, 1 to 100000.
        least_improvement: With "auto": the run goes on where the loss has fallen by this share from these to those, 0
            to below 1.

    Raises:
        ValueError: A setting is out of its range, or has no meaning beside another; the sentence names it.
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

    Args:
        rate: The learning rate of the first round, above 0 and at most 1000.
        micro_batch: Examples in a forward pass, 1 to 65536, which bounds a client's memory.
        snapshot_every: The most versions between snapshots on the coordinator's disk; there are fewer where the model
            is large, so that a restart replays no more than some seconds' worth.

    Raises:
        ValueError: A setting is out of its range; the sentence names it.
    """

    private_defaults: ClassVar[Mapping[str, Any]] = {}
    """What settings are, with differential privacy, of which the run file says nothing."""

    rate: float = 0.4
    micro_batch: int = 64
    snapshot_every: int = 50

    def __post_init__(self) -> None:
        Weighting.__post_init__(self)
        require(0 < self.rate <= 1000, "rate", self.rate, "above 0 and at most 1000")
        require(1 <= self.micro_batch <= 65536, "micro_batch", self.micro_batch, "1 to 65536")
        require(self.snapshot_every >= 1, "snapshot_every", self.snapshot_every, "at least 1")

    def check_warm_up(self, warmup: WarmUp) -> None:
        """Refuse a warm-up that the rounds cannot follow.

        Args:
            warmup: The run's.

        Raises:
            ValueError: The sentence names the setting.
        """

    def check_sums(self) -> None:
        """Refuse what secure aggregation, with which only the sum of a round is known, leaves no way to do.

        Raises:
            ValueError: The sentence names the setting.
        """
        why = "each client has directions of its own, so a sum of their scalars says nothing"
        allowed = f'one whose clients share directions, "decomfl" or "fedkseed", with secure aggregation: {why}'
        require(self.sums, "algorithm", self.algorithm, allowed)
        few, most = self.clients_per_round, MOST_SUMMED
        require(
            few >= 3,
            "clients_per_round",
            few,
            "at least 3 with secure aggregation: of two each knows what the other gave",
        )
        require(
            self.drawn <= most,
            "clients_per_round",
            few,
            f"so few that a round draws at most {most} with secure aggregation",
        )
        bounded = self.weighting == "uniform" or self.most_times_median > 0
        alone = "above 0 with secure aggregation: a client with most of the examples would be most of the sum"
        require(bounded, "most_times_median", self.most_times_median, alone)

    def check_private(self) -> None:
        """Refuse what does not go together with differential privacy (`Algorithm.example_scalars`).

        Raises:
            ValueError: The sentence names the setting, and says why.
        """
        require(
            False, "algorithm", self.algorithm, f'"zowarmup" or "decomfl" {PRIVATE}: others release no single vector'
        )

    def largest_batch(self, examples: int) -> int:
        """How many examples the largest forward pass of a client with so many has."""
        return min(self.micro_batch, examples)

    @property
    def moved(self) -> str:
        """What the rounds move, as `models.description.describe` is asked; the rest is frozen from the pivot on."""
        return ALL

    @property
    def probes_head(self) -> bool:
        """Whether a part of the model moves and the head in it, as all of the part, by probes."""
        return False

    @property
    def cut_at(self) -> int | None:
        """The layer, from 0, in front of which the model is cut in two; None: it is in one piece."""
        return None

    @property
    def only_above(self) -> bool:
        """Whether the rounds move nothing below the cut, whatever `moved` says."""
        return False

    @property
    def whitens(self) -> int:
        """r, how many directions of what the head reads the first round scales apart (`algorithms.whitening`); 0: none."""
        return 0

    @property
    def step(self) -> str:
        """What steps the rate is of: rates of different ones cannot be compared."""
        return self.algorithm

    def annealed(self, rate: float, done: int) -> float:
        """The learning rate of a later round.

        Args:
            rate: The learning rate that the run began with.
            done: How many rounds are committed.

        Returns:
            `rate`, where the algorithm does not anneal.
        """
        return rate

    @property
    def first_move(self) -> float:
        """About how far the first round moves each weight; 0 where that depends on the model."""
        return 0.0
