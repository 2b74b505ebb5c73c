r"""A new algorithm in one file: of many random directions, the model moves along the steepest alone.

Every client probes the same S directions z_s of the last layer on all of its data, dL_is. The coordinator weighs the
derivatives by the clients' examples n_i, and takes the one direction b in which the mean loss changes fastest:

    w  <-  w - rate * (1 - done / rounds) * sign(g_b) z_b,    g_s = sum_i n_i dL_is / sum_i n_i,    b = argmax_s |g_s|

so what everyone is sent of a round is one number. CONTRIBUTING.md, "Adding an algorithm", says what each method is.

    python examples/own_algorithm.py
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

import zowarmup as zw


@dataclass(frozen=True, kw_only=True, slots=True)
class SteepestSettings(zw.ZerothOrder):
    """`probes`: directions a round; `eps`: the length of a probe."""

    shared_directions: ClassVar[bool] = True

    probes: int = 16
    eps: float = 1e-3

    def __post_init__(self) -> None:
        zw.ZerothOrder.__post_init__(self)
        zw.require(1 <= self.probes <= 4096, "probes", self.probes, "1 to 4096")
        zw.require(0 < self.eps <= 1, "eps", self.eps, "above 0 and at most 1")

    def computation(self, tier: zw.Tier) -> zw.Computation:
        return zw.Computation.FORWARD

    def slowed(self, factor: float) -> Self:
        return replace(self, rate=self.rate * factor)

    def annealed(self, rate: float, done: int) -> float:
        return rate * (1 - done / max(1, self.rounds))

    def build(self, layout: zw.Layout, pool_seed: int = 0, warmup: zw.WarmUp | None = None) -> "Steepest":
        return Steepest(self, layout)


@dataclass(frozen=True)
class Steepest(zw.Algorithm):
    """The algorithm of one run."""

    Settings: ClassVar = SteepestSettings

    spec: SteepestSettings
    layout: zw.Layout

    def contribute(
        self, weights: zw.Weights, grid: zw.Grid, forward: zw.Forward, examples: int, work: zw.Work
    ) -> zw.Scalars:
        block, everything = self.layout.block("head"), np.arange(examples, dtype=np.int64)
        probes = [zw.Probe(zw.Direction(work.seed, index, block), everything) for index in range(self.spec.probes)]
        found = zw.measure(weights, grid, forward, probes, self.spec.eps, head=False)
        return zw.Scalars(work.round, zw.as_float32(found.derivatives), ())

    def counts(self, tier: zw.Tier, examples: int) -> tuple[int, int]:
        return self.spec.probes, 0

    def forwards(self, tier: zw.Tier, examples: int) -> int:
        return 2 * self.spec.probes * examples

    def check(self, work: zw.Work, tier: zw.Tier, examples: int, contribution: zw.Contribution) -> None:
        if not isinstance(contribution, zw.Scalars) or len(contribution.probes) != self.spec.probes:
            raise ValueError(f"{self.spec.probes} derivatives were asked for")

    def aggregate(self, start: zw.Start, contributions: Sequence[zw.ClientScalars | zw.Trained]) -> zw.Aggregate:
        given = [one for one in contributions if isinstance(one, zw.ClientScalars)]
        slopes = np.average([one.scalars.probes for one in given], axis=0, weights=[one.examples for one in given])
        best = int(np.argmax(np.abs(slopes)))
        length = self.spec.annealed(self.spec.rate, start.done)
        move = zw.Move(given[0].seed, self.layout.block("head"), best, -length * float(np.sign(slopes[best])))
        return zw.Aggregate(moves=(move,), turn=start.done)


if __name__ == "__main__":
    run = zw.simulate(
        "mlp",
        shards=zw.divide("digits", clients=5, alpha=1),
        held_out="digits:test",
        warmup={"rounds": 3},
        zeroth_order={"algorithm": Steepest, "rounds": 40, "probes": 32, "rate": 0.03},
    )
    print(run.history)
