"""The probe plan of a client: along which directions it probes, on which examples, and what each scalar weighs.

All of it follows from the settings, the layout, the seed of the client's work and how many examples it holds. So the
client and whoever aggregates its scalars make the same plan, and no direction, slice or weight travels. Every example is
in one slice of a local step, or in all of them, so a step's weights add up to 1.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.algorithms.directional_derivatives import Probe, over_signs
from zowarmup.common.algorithms.probing import ProbingSettings
from zowarmup.common.algorithms.protocol import ClientScalars
from zowarmup.common.algorithms.step_builder import Move
from zowarmup.common.exact.directions import permutation
from zowarmup.common.exact.layout import Block, Layout
from zowarmup.common.exact.steps import Direction
from zowarmup.common.messages.values import Computation, Tier

DECAY = 0.1
"""Of the head's weights, on features that vary by about 1 each: found on SST-2 with MiniLM (docs/method.md)."""


@dataclass(frozen=True, slots=True)
class ProbePlan:
    """The plan of every client in the rounds of one run, in which each has directions of its own.

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
        if self.layout.head_alone and self.projections:
            return None
        if self.layout.frozen:
            return self.layout.block("probed")
        return self.layout.block("trunk" if self.projections else "all")

    @property
    def head(self) -> Block | None:
        """The head's block, where its gradient is projected exactly."""
        return self.layout.block("head") if self.projections else None

    @property
    def probed_blocks(self) -> list[Block]:
        """The blocks that have probed directions of their own."""
        return [] if self.probed is None else [self.probed]

    @property
    def blocks(self) -> list[Block]:
        """The blocks that move."""
        return self.probed_blocks + ([] if self.head is None else [self.head])

    @property
    def projections(self) -> int:
        """K, the number of projections of the head's gradient; 0 where the model has no such head."""
        return self.spec.head_projections if self.layout.head else 0

    @property
    def decay(self) -> float:
        """The weight decay of the head."""
        decay = self.spec.weight_decay
        if not isinstance(decay, str):
            return decay
        return 0.0 if self.layout.head is None or self.layout.block("head").start else DECAY

    @property
    def gaussian(self) -> bool:
        """Whether the probed directions are Gaussian ones."""
        return self.spec.directions == "gaussian"

    def probes(self, examples: int) -> int:
        """S, the number of probes of a client that holds so many examples: every slice has at least one."""
        if self.probed is None:
            return 0
        return min(self.spec.most_probes, examples) if self.spec.slices == "own" else self.spec.most_probes

    def counts(self, tier: Tier, examples: int) -> tuple[int, int]:
        """As `Algorithm.counts`: of all local steps together."""
        if self.spec.computation(tier) is Computation.GRADIENT:
            return (0 if self.probed is None else self.spec.gradient_projections), self.projections
        return self.spec.local_steps * self.probes(examples), self.spec.local_steps * self.projections

    def by_step(self, seed: int, examples: int) -> list[list[Probe]]:
        """What to probe before each local step: every slice along a direction of its own.

        Args:
            seed: Of the client's work.
            examples: How many it holds, at least 1.
        """
        if (block := self.probed) is None:
            return [[]] * self.spec.local_steps
        count = self.probes(examples)
        return [
            [
                Probe(Direction(seed, number * count + index, block), chosen)
                for index, chosen in enumerate(self.slices(seed, number, examples))
            ]
            for number in range(self.spec.local_steps)
        ]

    def slices(self, seed: int, stream: int, examples: int) -> list[NDArray[np.int64]]:
        """The examples of each probe (`cut_up`)."""
        return self.cut_up(seed, stream, examples, self.probes(examples))

    def cut_up(self, seed: int, stream: int, examples: int, count: int) -> list[NDArray[np.int64]]:
        """All examples so many times; or `slices = "own"`, near equal parts of a seeded permutation, the first ones an example
        longer."""
        if self.spec.slices == "whole":
            return [np.arange(examples, dtype=np.int64)] * count
        return np.array_split(permutation(seed, stream, examples), count)

    def parts(self, examples: int, count: int) -> list[float]:
        """The share of the examples that each of so many slices weighs."""
        if self.spec.slices == "whole":
            return [1 / count] * count
        shortest, longer = divmod(examples, count)
        return [(shortest + (index < longer)) / examples for index in range(count)]

    @property
    def most(self) -> int:
        """The most probes that a client has, those of all local steps together."""
        steps = 0 if self.probed is None else self.spec.local_steps * self.spec.most_probes
        return max(steps, self.spec.gradient_projections if self.probed is not None else 0)

    @property
    def width(self) -> int:
        """How many directions clients may have of the stream that they share."""
        return self.most

    def stream(self, seed: int) -> int:
        """The seed of that stream.

        Args:
            seed: Of the round's work.
        """
        return seed

    # Of scalars that a client has given, or has measured so far.
    def directions(self, part: ClientScalars) -> list[tuple[int, int]]:
        """The direction (seed, index) of each of a part's probes."""
        return [(part.seed, index) for index in range(len(part.scalars.probes))]

    def explored(self, part: ClientScalars) -> dict[Block, int]:
        """How many directions a part's probes have in each block that is probed."""
        return {} if self.probed is None else {self.probed: len(part.scalars.probes)}

    def weights(self, part: ClientScalars) -> list[float]:
        """The weight of each of a part's probes in its estimate: the share of the local data that it speaks for."""
        if self.spec.computation(part.tier) is Computation.GRADIENT:
            weights = [1 / self.spec.gradient_projections] * self.spec.gradient_projections
        else:
            weights = self.parts(part.examples, self.probes(part.examples))
        return (weights * self.spec.local_steps)[: len(part.scalars.probes)]

    def mean_square(self, part: ClientScalars) -> float:
        """Of the derivatives of a part's probes, as they weigh, along directions of all that is probed."""
        return weighted_mean_square(self.weights(part), part.scalars.probes)

    def estimate(self, part: ClientScalars, factors: Mapping[Block, float]) -> Iterator[Move]:
        """Along a part's estimate of the gradient in what is probed.

        Args:
            part: A client's scalars.
            factors: How many times the estimate, by block.
        """
        if block := self.probed:
            along = zip(self.directions(part), self.weights(part), part.scalars.probes, strict=True)
            for (seed, index), weight, derivative in along:
                yield from self.along(Move(seed, block, index, factors[block] * weight * derivative))

    def along(self, move: Move) -> Sequence[Move]:
        """A move along a probed direction as moves along signs."""
        return over_signs(move) if self.gaussian else (move,)

    def typical(self, tier: Tier, examples: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Probes and projections of the mean square 1, as they are to be expected.

        Args:
            tier: The client's.
            examples: How many it holds, at least 1.
        """
        probes, projections = self.counts(tier, examples)
        return (1.0,) * probes, (1.0,) * projections

    def steps(self, part: ClientScalars) -> int:
        """How many local steps the probes of a whole part belong to."""
        return self.spec.local_steps


def weighted_mean_square(weights: Sequence[float], values: Sequence[float]) -> float:
    """The mean of the squares of some values, as they weigh."""
    squares = [weight * value * value for weight, value in zip(weights, values, strict=True)]
    return math.fsum(squares) / math.fsum(weights)
