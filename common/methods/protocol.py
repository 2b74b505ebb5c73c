"""What a method is to the rest of the system.

The coordinator and the clients only ever ask for what stands here, so a method can be added without touching either.
Whatever a method does, what it commits are steps on the grid or a whole vector that becomes a snapshot; the order in
which contributions arrive plays no part in it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.grid import Grid
from zowarmup.common.methods.vector import Each, Optimiser, Vector
from zowarmup.common.steps import Step, Weights
from zowarmup.common.submodel import Submodel
from zowarmup.common.work import Delta, Scalars, Tier, Work


@dataclass(frozen=True, eq=False, slots=True)
class Evaluated:
    """`loss_sum`: cross-entropy summed over the examples, nats. `head_gradient_sum`: its gradient by the head's
    parameters, float64 (head block's size,) in the block's order, None where it was not asked for."""

    loss_sum: float
    head_gradient_sum: NDArray[np.float64] | None


class Forward(Protocol):
    """The model's forward pass over the local data, at the weights as they are when it is called."""

    def evaluate(self, examples: NDArray[np.int64], head_gradient: bool) -> Evaluated:
        """`examples`: indices into the local data."""
        ...


class Part(NamedTuple):
    """What one client gave to a zeroth-order round, and what its work was: the seed, and the examples it holds."""

    seed: int
    examples: int
    scalars: Scalars
    tier: Tier = Tier.LOW


Moments = tuple[float, ...]


class WarmUpMethod(Protocol):
    """A way to train by back-propagation; local training is `tasks.classification`."""

    @property
    def remembered(self) -> int:
        """How many float32 values it needs from the round before: the size of an `Optimiser`; 0 where it needs none."""
        ...

    def check(self, work: Work, examples: int, delta: Delta) -> None:
        """Raises ValueError, saying what is wrong, where this is no answer to that work by a client of so many
        examples. The vector itself is checked as it is uploaded."""
        ...

    def submodel(self, tier: Tier) -> Submodel | None:
        """What a client of that tier trains and uploads; None: all of the model. Which tiers take part the run file says
        (`WarmUp.tiers`)."""
        ...

    def scales(self, lengths: Sequence[float], sizes: Sequence[int], model: float) -> tuple[float, ...]:
        """The factor for each delta, by their Euclidean norms, how many values they have and the norm of the weights they are
        added to: less than 1 where it is too long beside the others, or beside the model."""
        ...

    def takes_whole(self, lengths: Sequence[float | None], sizes: Sequence[int], model: float) -> bool:
        """Whether `scales` are certainly all 1, by rough norms (`rough.RoughLength`), None where one is not known."""
        ...

    def combine(
        self,
        weights: NDArray[np.float32],
        deltas: Sequence[tuple[int, Vector]],
        scales: Sequence[float] | None = None,
        each: Each = map,
        optimiser: Optimiser | None = None,
    ) -> NDArray[np.float32]:
        """The next weights, a new float32 (layout.size,) array that is not yet on a grid, from (examples, delta) in
        ascending order of client, deltas of the whole model or of a tier's part, by pieces that `each` goes through.
        What float32 does not hold becomes infinite."""
        ...


class ZerothOrderMethod(Protocol):
    """A way to move the model by scalars alone. `shared_seeds`: whether a round gives all its participants one seed."""

    shared_seeds: ClassVar[bool]

    def contribute(self, weights: Weights, grid: Grid, forward: Forward, examples: int, work: Work) -> Scalars:
        """The scalars of one round. `weights` are moved in place under `forward` and are bit for bit what they were
        when this returns or raises."""
        ...

    def differentiates(self, tier: Tier) -> bool:
        """Whether a client of that tier answers by `project`, from a gradient, and not by `contribute`."""
        ...

    def counts(self, tier: Tier, examples: int) -> tuple[int, int]:
        """How many probes and projections a client of that tier and so many examples sends."""
        ...

    def project(self, gradient: NDArray[np.float64], work: Work) -> Scalars:
        """The scalars of one round from the gradient of the mean local loss in all that is trainable: float64
        (layout.trainable,)."""
        ...

    def check(self, work: Work, tier: Tier, examples: int, contribution: Scalars) -> None:
        """Raises ValueError, saying what is wrong, where this cannot be what a client of that tier and so many
        examples gives for that work."""
        ...

    def clip(self, parts: Sequence[Part]) -> tuple[tuple[Part, ...], int]:
        """A round's parts with their outlying scalars clipped, and how many were."""
        ...

    def moments(self, before: Moments, parts: Sequence[Part]) -> Moments:
        """What the coordinator has to remember after a round, given what it remembered before (nothing before the
        first), to make the steps of the next."""
        ...

    def combine(
        self,
        grid: Grid,
        done: int,
        parts: Sequence[Part],
        before: Moments = (),
        model: Callable[[], float] | None = None,
    ) -> tuple[Step, ...]:
        """The steps that a round makes, from its parts in ascending order of client. `done`: zeroth-order rounds
        committed before; `before`: the moments then; `model`: gives the root mean square of the weights. Raises HeadroomExceeded where a step is too long for `grid`."""
        ...
