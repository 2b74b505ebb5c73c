r"""Majority vote: zeroth-order rounds in which each client has one vote for each direction. An algorithm outside zowarmup.

The sign of the derivative is all that counts, as in signSGD with majority vote (Bernstein et al., arXiv 1810.05291), here along
random directions that all clients of a round share. Client i probes direction z_s on all of its data, dL_is; the model moves

    w  <-  w - rate * (1 - done / rounds) / sqrt(S) * sum_s sign(sum_i sign(dL_is)) z_s

so no client, however large its derivative and however many examples it claims, has more than one vote.

majority_vote.toml is a run of it. In three terminals at the top of the repository, each after `. .venv/bin/activate` and
`export PYTHONPATH=examples/plugins`:

    zowarmup-server examples/plugins/majority_vote.toml --data-dir vote

    zowarmup-client --server 127.0.0.1:7070 --data digits:1/2 --name one --state-dir vote-one \
        --allow-model majority_vote:MajorityVote

    zowarmup-client --server 127.0.0.1:7070 --data digits:2/2 --name two --state-dir vote-two --tier low \
        --allow-model majority_vote:MajorityVote
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from zowarmup import (
    Aggregate,
    Algorithm,
    ClientScalars,
    Computation,
    Contribution,
    Direction,
    Forward,
    Grid,
    Layout,
    Move,
    Probe,
    Scalars,
    Start,
    Tier,
    Trained,
    WarmUp,
    Weights,
    Work,
    ZerothOrder,
    as_float32,
    measure,
    require,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class MajorityVoteSettings(ZerothOrder):
    """`probes`: directions a round; `eps`: the length of a probe."""

    shared_directions: ClassVar[bool] = True

    probes: int = 16
    eps: float = 1e-3

    def __post_init__(self) -> None:
        ZerothOrder.__post_init__(self)
        require(1 <= self.probes <= 4096, "probes", self.probes, "1 to 4096")
        require(0 < self.eps <= 1, "eps", self.eps, "above 0 and at most 1")

    def computation(self, tier: Tier) -> Computation:
        return Computation.FORWARD

    def slowed(self, factor: float) -> Self:
        return replace(self, rate=self.rate * factor)

    def annealed(self, rate: float, done: int) -> float:
        return rate * (1 - done / max(1, self.rounds))

    def build(self, layout: Layout, pool_seed: int = 0, warmup: WarmUp | None = None) -> "MajorityVote":
        return MajorityVote(self, layout)


@dataclass(frozen=True)
class MajorityVote(Algorithm):
    """The algorithm of one run."""

    Settings: ClassVar = MajorityVoteSettings

    spec: MajorityVoteSettings
    layout: Layout

    def contribute(self, weights: Weights, grid: Grid, forward: Forward, examples: int, work: Work) -> Scalars:
        block, everything = self.layout.block("all"), np.arange(examples, dtype=np.int64)
        probes = [Probe(Direction(work.seed, index, block), everything) for index in range(self.spec.probes)]
        found = measure(weights, grid, forward, probes, self.spec.eps, head=False)
        return Scalars(work.round, as_float32(found.derivatives), ())

    def counts(self, tier: Tier, examples: int) -> tuple[int, int]:
        return self.spec.probes, 0

    def forwards(self, tier: Tier, examples: int) -> int:
        return 2 * self.spec.probes * examples

    def walks(self, tier: Tier, examples: int) -> int:
        return 2 * self.spec.probes + 1

    def check(self, work: Work, tier: Tier, examples: int, contribution: Contribution) -> None:
        if not isinstance(contribution, Scalars) or contribution.round != work.round:
            raise ValueError(f"the vote is not one for round {work.round}")
        if (len(contribution.probes), len(contribution.projections)) != self.counts(tier, examples):
            raise ValueError(f"scalars: {len(contribution.probes)} probes, {self.spec.probes} were asked for")

    def aggregate(self, start: Start, contributions: Sequence[ClientScalars | Trained]) -> Aggregate:
        votes = [given for given in contributions if isinstance(given, ClientScalars)]
        if not votes:
            raise ValueError("nobody has voted")
        counted = np.sign([vote.scalars.probes for vote in votes]).sum(axis=0)
        length = self.spec.annealed(self.spec.rate, start.done) / math.sqrt(self.spec.probes)
        block = self.layout.block("all")
        moves = [
            Move(votes[0].seed, block, index, -length * float(np.sign(vote))) for index, vote in enumerate(counted)
        ]
        return Aggregate(moves=tuple(moves), turn=start.done)
