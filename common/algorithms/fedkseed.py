"""FedKSeed: many local steps along a pool of directions that the whole run shares.

Qin et al., arXiv 2312.06353. The pool's K directions are fixed for the run. In a round a client takes one step of its
own after each probe: it draws a direction from the pool, measures the derivative along it on that step's slice of its
data, and moves its replica down it. It sends the derivatives; the directions that they belong to follow from its seed.
The coordinator moves by the clients' mean displacement, which is one step of K ticks: a scalar for each direction of
the pool. So a commit's size depends on K alone, all commits since a snapshot add up to one (`replica.merged`), and
coming back after any number of rounds costs O(K).

As published, `step = "raw"` and `local_rate` is 0, so that the coordinator's rate is the clients'. The paper's K is
4096 at most, it probes everything that moves, the head included, and all its clients probe; so no exact head and no exact projections here.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from zowarmup.common.algorithms.directional_derivatives import Probe
from zowarmup.common.algorithms.probe_plan import ProbePlan
from zowarmup.common.algorithms.probing import WholeProbingSettings, check_local_rate
from zowarmup.common.algorithms.protocol import ClientScalars
from zowarmup.common.algorithms.settings import WarmUp, check_aggregate, require
from zowarmup.common.algorithms.zowarmup import ZOWarmUp, check_train
from zowarmup.common.exact.directions import words
from zowarmup.common.exact.layout import ALL, AUTO, NORM, Layout
from zowarmup.common.exact.steps import Direction

_DRAWS = 1  # the stream of a work's seed that draws from the pool; stream 0 orders its examples


@dataclass(frozen=True, kw_only=True, slots=True)
class FedKSeedSettings(WholeProbingSettings):
    """A step of a client's own after each probe, along one of the directions that the whole run shares.

    Args:
        algorithm: Its name, or package.module:Algorithm.
        pool: K, the number of those directions, 1 to 4096.
        train: What moves, all of it by probes: everything ("all"), or a part, as for `zowarmup`.
        local_rate: The learning rate of a client's own steps; 0: `rate`.
        aggregate: The weighted mean ("mean"); or direction by direction, without weights, the mean of all values but
            the share `trim` at either end ("trimmed") or the median ("median").
        trim: With "trimmed": the share that is left out at either end, above 0 and below 0.5.

    Raises:
        ValueError: A setting is out of its range, or does not go with the others; the sentence names it.
    """

    commits_merge: ClassVar[bool] = True
    sums: ClassVar[bool] = True

    algorithm: Literal["fedkseed"] = "fedkseed"
    pool: int
    train: str = ALL
    local_rate: float = 0.0
    aggregate: Literal["mean", "trimmed", "median"] = "mean"
    trim: float = 0.25

    def __post_init__(self) -> None:
        require(1 <= self.pool <= 4096, "pool", self.pool, "1 to 4096")
        normal = self.directions == "gaussian"
        require(not normal or self.pool <= 512, "pool", self.pool, 'at most 512 with directions = "gaussian"')
        check_local_rate(self)
        require(self.train != AUTO, "train", self.train, f'"{ALL}", "{NORM}" or another that names what moves')
        check_train(self.train)
        WholeProbingSettings.__post_init__(self)
        check_aggregate(self.weighting, self.aggregate, self.trim)
        enough = self.aggregate == "mean" or self.clients_per_round * self.probes >= 4 * self.pool
        few = "so few that clients_per_round * probes is at least 4 times as many: fewer than 3 values of a direction"
        require(enough, "pool", self.pool, f"{few} have no {self.aggregate} aggregate")

    @property
    def moved(self) -> str:
        return self.train

    @property
    def steps_locally(self) -> bool:
        return True

    def build(self, layout: Layout, pool_seed: int = 0, warmup: WarmUp | None = None) -> "FedKSeed":
        return FedKSeed(self, layout, pool_seed)


@dataclass(frozen=True, slots=True)
class PoolPlan(ProbePlan):
    """A probe plan whose directions are drawn from a pool: a local step after each probe.

    Args:
        spec: The settings.
        layout: Of the model.
        pool_seed: The stream whose first `spec.pool` directions are the pool.
    """

    spec: FedKSeedSettings
    pool_seed: int

    def drawn(self, seed: int, count: int) -> list[int]:
        """The directions of the pool that a client takes its steps along, drawn with replacement.

        Args:
            seed: Of the client's work.
            count: Its number of steps.

        Returns:
            `count` indices, each 0 to spec.pool - 1.
        """
        return [int(word) % self.spec.pool for word in words(seed, _DRAWS, count)]

    def by_step(self, seed: int, examples: int) -> list[list[Probe]]:
        slices = self.slices(seed, 0, examples)
        drawn = self.drawn(seed, len(slices))
        assert self.probed is not None  # everything is
        return [
            [Probe(Direction(self.pool_seed, index, self.probed), chosen)]
            for index, chosen in zip(drawn, slices, strict=True)
        ]

    def directions(self, part: ClientScalars) -> list[tuple[int, int]]:
        return [(self.pool_seed, index) for index in self.drawn(part.seed, len(part.scalars.probes))]

    @property
    def width(self) -> int:
        return self.spec.pool

    def stream(self, seed: int) -> int:
        return self.pool_seed

    def weights(self, part: ClientScalars) -> list[float]:
        return [1.0] * len(part.scalars.probes)

    def steps(self, part: ClientScalars) -> int:
        return self.probes(part.examples)


@dataclass(frozen=True, slots=True)
class FedKSeed(ZOWarmUp):
    """The zeroth-order rounds of one run, along directions of its pool.

    Args:
        spec: The settings.
        layout: Of the model.
        pool_seed: As for `PoolPlan`.
    """

    spec: FedKSeedSettings
    pool_seed: int = 0

    @property
    def plan(self) -> PoolPlan:
        return PoolPlan(self.spec, self.layout, self.pool_seed)
