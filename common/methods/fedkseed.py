"""FedKSeed: many local steps along a pool of directions that the whole run shares.

Qin et al., arXiv 2312.06353. The pool's K directions are fixed for the run. In a round a client takes one step of its
own after each probe: it draws a direction from the pool, measures the slope along it on that step's slice of its data,
and moves its replica down it. What it sends are the slopes; which directions they belong to follows from its seed. The
coordinator moves by the clients' mean displacement, which is one step of K ticks: a scalar for each direction of the
pool. So a commit's size depends on K alone, all commits since a snapshot add up to one (`merging`), and coming back
after any number of rounds costs O(K).

As published, `step = "raw"` and `local_rate` is 0, so that the coordinator's rate is the clients'. The paper's K is 4096
at most, it probes everything, and all its clients probe; so no exact head and no exact projections here.
"""

from dataclasses import dataclass

from zowarmup.common.methods.probing import Probe
from zowarmup.common.methods.protocol import Part
from zowarmup.common.methods.zeroth_order import ZOWarmUp
from zowarmup.common.permutation import words
from zowarmup.common.steps import Direction

_DRAWS = 1  # the stream of a work's seed that draws from the pool; stream 0 orders its examples


@dataclass(frozen=True, slots=True)
class FedKSeed(ZOWarmUp):
    """`pool_seed`: the stream whose first `spec.pool` directions are the pool."""

    pool_seed: int = 0

    def drawn(self, seed: int, count: int) -> list[int]:
        """The pool's directions that a client with that seed takes its `count` steps along, with replacement."""
        return [int(word) % self.spec.pool for word in words(seed, _DRAWS, count)]

    def _plan(self, seed: int, examples: int) -> list[list[Probe]]:
        slices = self._slices(seed, 0, examples)
        drawn = self.drawn(seed, len(slices))
        return [
            [Probe(Direction(self.pool_seed, index, self.probed), chosen)]
            for index, chosen in zip(drawn, slices, strict=True)
        ]

    def _directions(self, part: Part) -> list[tuple[tuple[int, int], float]]:
        return [((self.pool_seed, index), 1.0) for index in self.drawn(part.seed, len(part.scalars.probes))]

    def _local_steps(self, part: Part) -> int:
        return self.probes(part.examples)
