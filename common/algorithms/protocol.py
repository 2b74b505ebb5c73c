"""The interface of an algorithm to the rest of the system.

The coordinator and the clients ask for what stands here, and for nothing by an algorithm's name. An algorithm is a
frozen value, made of its settings and the model's layout. What it commits are steps on the grid or a whole vector that
becomes a snapshot. The order in which contributions arrive plays no part in it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.algorithms.step_builder import CommitCost, Moments, Move, steps_of
from zowarmup.common.algorithms.vectors import LazyVector, norm
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import Block
from zowarmup.common.exact.steps import Step, Weights
from zowarmup.common.exact.submodel import Submodel
from zowarmup.common.messages.values import Contribution, Scalars, Tier, Work

VALUE_BYTES = 4
"""Of a float32, which every value of a contribution is, unless an algorithm says otherwise."""
TRAINING_FORWARDS = 3
"""Forward passes that a step of back-propagation counts for, on the same examples."""


@dataclass(frozen=True, eq=False, slots=True)
class LossAndGradient:
    """What a forward pass over some examples gives.

    Args:
        loss_sum: The task's loss, summed over the examples, nats.
        head_gradient_sum: Its gradient by the head's parameters, float64 (head block's size,) in the block's order;
            None where it was not asked for.
    """

    loss_sum: float
    head_gradient_sum: NDArray[np.float64] | None


@dataclass(frozen=True, eq=False, slots=True)
class EachLoss:
    """What forward passes at several vectors of weights give.

    Args:
        loss_sums: For each vector the task's loss, summed over its examples, nats, float64 (m,).
        head_gradient_sum: Their gradient by the head's parameters, summed over all of the vectors, as in `LossAndGradient`.
    """

    loss_sums: NDArray[np.float64]
    head_gradient_sum: NDArray[np.float64] | None


class Forward(Protocol):
    """The model's forward pass over the local data, at the weights as they are when it is called."""

    def evaluate(self, examples: NDArray[np.int64], head_gradient: bool) -> LossAndGradient:
        """Run the model forward over some of the local data.

        Args:
            examples: Indices into the local data, int64 (n,).
            head_gradient: Whether the head's gradient is wanted, too.
        """
        ...

    def features(self, examples: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
        """What the model makes below the head of some of the local data, not yet whitened, a micro-batch after the other.

        Args:
            examples: Indices into the local data, int64 (n,).

        Yields:
            Float32 (m, h).
        """
        ...


@runtime_checkable
class CutForward(Forward, Protocol):
    """That of a model that is cut in two (`Layout.cut`)."""

    def pieces(self, examples: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Cut some of the local data up, so that what is held of a piece (`lower`) takes bounded memory.

        Args:
            examples: Indices into the local data, int64 (n,).

        Yields:
            Indices, int64, together those of `examples`.
        """
        ...

    def lower(self, examples: NDArray[np.int64]) -> Any:
        """Run what lies below the cut over some of the local data.

        Args:
            examples: Indices into the local data, int64 (n,).

        Returns:
            What crosses the cut, to be held for `upper`.
        """
        ...

    def upper(self, held: Any, head_gradient: bool) -> LossAndGradient:
        """As `evaluate`, from what `lower` has given: what lies above the cut at the weights as they are now.

        Args:
            held: What `lower` gave.
            head_gradient: Whether the head's gradient is wanted, too.
        """
        ...


@runtime_checkable
class ForwardEach(Forward, Protocol):
    """A forward pass that can be made at several vectors of weights at once."""

    def at_once(self, block: Block) -> int:
        """How many vectors `evaluate_each` takes that differ within a block; 0: none, since its tensors are everybody's."""
        ...

    def evaluate_each(
        self, vectors: NDArray[np.float32], examples: Sequence[NDArray[np.int64]], head_gradient: bool
    ) -> EachLoss:
        """Run the model forward over some of the local data at each of several vectors.

        Args:
            vectors: Float32 (m, layout.size); they differ within a block that `at_once` allows.
            examples: For each vector over which of the local data: indices, int64 (n,), at least one.
            head_gradient: Whether the head's gradient is wanted, too.

        Returns:
            What `evaluate` would give for each, up to rounding, and the gradients added up.
        """
        ...


@dataclass(frozen=True, eq=False, slots=True)
class ExampleLosses:
    """What a forward pass gives of each of some examples.

    Args:
        examples: Indices into the local data, int64 (n,).
        losses: The task's, nats, float64 (n,).
        head_gradients: Their gradients by the head's parameters, float64 (n, head block's size) in the block's order; None where
            they were not asked for.
    """

    examples: NDArray[np.int64]
    losses: NDArray[np.float64]
    head_gradients: NDArray[np.float64] | None


@runtime_checkable
class ForwardByExample(Forward, Protocol):
    """A forward pass that tells the examples apart."""

    def by_example(self, head_gradients: bool) -> Iterator[ExampleLosses]:
        """Run the model forward over all of the local data, a micro-batch after the other.

        Args:
            head_gradients: Whether the head's gradients are wanted, too.
        """
        ...


class ClientScalars(NamedTuple):
    """The scalars that one client gave to a round, and what its work was.

    Args:
        seed: Of its work.
        examples: How many the client claims to hold.
        scalars: What it gave.
        tier: The client's.
    """

    seed: int
    examples: int
    scalars: Scalars
    tier: Tier = Tier.LOW


class Trained(NamedTuple):
    """The delta that one client gave to a round.

    Args:
        examples: How many the client claims to hold.
        delta: Float32, as many values as the client's tier trains; read by pieces, so that it may stay on disk.
        client: Its name.
        approximate_norm: The delta's Euclidean norm as `vectors.ApproximateNorm` has it; None where it is not known.
        exact_norm: Gives the exact one (`vectors.norm`), perhaps found together with the others'.
    """

    examples: int
    delta: LazyVector
    client: str = ""
    approximate_norm: float | None = None
    exact_norm: Callable[[], float] | None = None

    @property
    def norm(self) -> float:
        """The Euclidean norm of the delta."""
        return self.exact_norm() if self.exact_norm else norm(self.delta)


class LocalTraining(NamedTuple):
    """SGD over the local data.

    Args:
        epochs: Passes over the data.
        batch: Examples in a batch.
        rate: The learning rate.
    """

    epochs: int
    batch: int
    rate: float


@dataclass(frozen=True, eq=False, slots=True)
class Start:
    """What a round starts from.

    Args:
        weights: Float32 (layout.size,); not to be written.
        grid: That the trainable ones lie on.
        done: Rounds of the phase that are committed.
        optimizer_state: The server optimizer's state, where it is a few numbers; empty before the first round.
        vectors: The same where it is as large as the model; None before the first round.
    """

    weights: NDArray[np.float32]
    grid: Grid
    done: int = 0
    optimizer_state: Moments = ()
    vectors: LazyVector | None = None


Vectors = tuple[tuple[int, NDArray[np.float32]], ...]
"""Pieces of the next optimizer state: where each begins, and its values, float32."""


@dataclass(frozen=True, eq=False, slots=True)
class Update:
    """The next weights as a function of the place, so that whoever holds them decides which pieces are computed when
    and in which thread.

    Args:
        piece: Writes the next weights of any slice of them (start and stop, no step) into an array, float32 and as long
            as the slice, and gives what belongs to it of the optimizer state. Pieces do not depend on each other.
        extent: How many parameters a piece has at most, so that it takes a few MB.
    """

    piece: Callable[[slice, NDArray[np.float32]], Vectors]
    extent: int


@dataclass(frozen=True, slots=True)
class Aggregate:
    """What a round's contributions make of the model: `moves` along seeded directions, or an `update` of all of it.

    Args:
        moves: In units of a weight, before they are rounded to the grid.
        update: Not on a grid yet; what float32 does not hold is infinite.
        turn: The number that decides how moves are rounded (`step_builder.steps_of`).
        optimizer_state: The next state of the server optimizer, where it is a few numbers.
        bounds: To which clients of the next round clip what they add to a sum; empty where there are none.
        clipped_scalars: How many scalars were scaled down as outliers.
        clipped_deltas: How many deltas were.
        notes: What is to be logged of it, a sentence each.
    """

    moves: tuple[Move, ...] = ()
    update: Update | None = None
    turn: int = 0
    optimizer_state: Moments = ()
    bounds: tuple[float, ...] = ()
    clipped_scalars: int = 0
    clipped_deltas: int = 0
    notes: tuple[str, ...] = ()

    def steps(self, grid: Grid) -> tuple[Step, ...]:
        """The moves on a grid. Raises HeadroomExceeded where a step is too long for it."""
        return steps_of(self.moves, grid, self.turn)


class Algorithm(Protocol):
    """A way to train: what a client computes in a round, what is checked of it, and how contributions move the model. A
    client whose computation is TRAINING trains as `training` says, one whose is GRADIENT asks `project`, one whose is
    FORWARD `contribute`. What a subclass does not say is as for an algorithm by scalars that needs no more than these."""

    @property
    def training(self) -> LocalTraining | None:
        """How those train whose computation is TRAINING."""
        return None

    @property
    def optimizer_values(self) -> int:
        """How many float32 values the server optimizer keeps from a round to the next, on disk; 0 where it keeps none."""
        return 0

    def submodel(self, tier: Tier) -> Submodel | None:
        """What a client trains and uploads.

        Args:
            tier: The client's.

        Returns:
            Its part of the model, or None for all of it.
        """
        return None

    def contribute(self, weights: Weights, grid: Grid, forward: Forward, examples: int, work: Work) -> Scalars:
        """Compute the scalars of one round from forward passes, on the device.

        `weights` are bit for bit what they were when this returns or raises.

        Args:
            weights: Float32 (layout.size,), or a device's vector; on `grid` in the trainable part, moved in place under
                `forward`.
            grid: That they lie on.
            forward: The model's forward pass over the local data, at `weights` as they are when it is called.
            examples: How many the client holds, at least 1.
            work: The client's part of the round.

        Raises:
            ValueError: The algorithm asks for no forward passes, or a scalar cannot be sent.
            HeadroomExceeded: A move is beyond the grid.
        """
        raise ValueError("this algorithm asks for no forward passes")

    def example_scalars(
        self, weights: Weights, grid: Grid, forward: Forward, examples: int, work: Work
    ) -> NDArray[np.float64]:
        """What each local example contributes to each scalar of a round, for differential privacy: of the local data nothing else is
        used, and of this but the sum of clipped rows, with noise. Settings whose `check_private` refuses nothing have it.

        Args:
            weights: As for `contribute`.
            grid: As there.
            forward: As there, a `ForwardByExample`.
            examples: How many the client holds, at least 1.
            work: The client's part of the round.

        Returns:
            Float64 (examples, m), as many scalars as `counts` says.

        Raises:
            ValueError: The algorithm has no private rounds.
            HeadroomExceeded: A move is beyond the grid.
        """
        raise ValueError("this algorithm has no private rounds")

    def scalars_of_mean(self, weights: Weights, noised: NDArray[np.float64], work: Work) -> Scalars:
        """The scalars that the noised mean of rows of `example_scalars` makes, of one client or of several.

        Args:
            weights: At which they were measured.
            noised: Float64 (m,).
            work: For which they were, a client's part of the round.

        Raises:
            ValueError: The algorithm has no private rounds, or a scalar cannot be sent.
        """
        raise ValueError("this algorithm has no private rounds")

    def project(self, gradient: NDArray[np.float64], work: Work) -> Scalars:
        """Compute the scalars of one round from a gradient, on the device.

        Args:
            gradient: Of the mean local loss by all that is trainable, float64 (layout.trainable,).
            work: The client's part of the round.

        Raises:
            ValueError: The algorithm asks for no gradient, or a scalar cannot be sent.
        """
        raise ValueError("this algorithm asks for no gradient")

    def counts(self, tier: Tier, examples: int) -> tuple[int, int]:
        """How many scalars a client sends in a round.

        Args:
            tier: The client's.
            examples: How many it holds, at least 1.

        Returns:
            The numbers of probes and of projections.
        """
        return 0, 0

    def uplink_values(self, tier: Tier, examples: int) -> int:
        """How many values a client's contribution has, scalars or those of a delta.

        Args:
            tier: The client's.
            examples: How many it holds, at least 1.
        """
        return sum(self.counts(tier, examples))

    def answer_values(self, work: Work, tier: Tier, examples: int) -> int:
        """How many values a client's answer to its work has, which is what a device counts that allows so many.

        Args:
            work: What it was given.
            tier: The client's.
            examples: How many it holds, at least 1.
        """
        return self.uplink_values(tier, examples)

    def uplink_bytes(self, tier: Tier, examples: int) -> int:
        """How many bytes these values have.

        Args:
            tier: The client's.
            examples: How many it holds, at least 1.
        """
        return VALUE_BYTES * self.uplink_values(tier, examples)

    def commit_cost(self, contributors: Sequence[Tier], examples: int, grid: Grid) -> CommitCost:
        """An estimate of what a commit costs each who applies it.

        Args:
            contributors: The tiers of those who contribute to a round, at least one.
            examples: How many each holds, at least 1.
            grid: That the weights lie on.

        Returns:
            By default, of steps in which every scalar is a tick of two bytes and each contributor has directions of its
            own in the whole model.
        """
        counts = [sum(self.counts(tier, examples)) for tier in contributors]
        return CommitCost(sum(2 * count + 16 for count in counts), sum(-(-count // 8) for count in counts))

    def forwards(self, tier: Tier, examples: int) -> int:
        """What a client's contribution costs, in forward passes over one example.

        Args:
            tier: The client's.
            examples: How many it holds, at least 1.

        Returns:
            A step of back-propagation on an example counts as TRAINING_FORWARDS.
        """
        ...

    def release_forwards(self, tier: Tier, examples: int) -> int:
        """As `forwards`, of a contribution with differential privacy (`release`).

        Args:
            tier: The client's.
            examples: How many it holds, at least 1.
        """
        return self.forwards(tier, examples)

    def walks(self, tier: Tier, examples: int) -> int:
        """How many times a client's contribution goes through all parameters along a direction.

        Args:
            tier: The client's.
            examples: How many it holds, at least 1.
        """
        return 0

    def check(self, work: Work, tier: Tier, examples: int, contribution: Contribution) -> None:
        """Refuse what cannot be a client's answer to its work. A delta's values are checked as they are uploaded.

        Args:
            work: What the client was given.
            tier: The client's.
            examples: How many it holds.
            contribution: What it gave.

        Raises:
            ValueError: The contribution is of another kind, round or size, or impossible; the sentence says what is
                wrong.
        """
        ...

    def aggregate(self, start: Start, contributions: Sequence[ClientScalars | Trained]) -> Aggregate:
        """Turn a round's contributions into a move of the model. Asked again with the same it answers the same.

        Args:
            start: What the round starts from.
            contributions: At least one, in ascending order of client.

        Returns:
            Moves along seeded directions or an update of all weights, with the server optimizer's next state and what
            was clipped.

        Raises:
            ValueError: No aggregate can be made of them.
        """
        ...

    def sum_limits(self, bounds: tuple[float, ...], done: int) -> NDArray[np.float64]:
        """The largest magnitude that a client's summand has at each place. Only of what `Rounds.check_sums` allows.

        Args:
            bounds: The largest root mean squares of probes and of projections that count in full; empty: those of a first round.
            done: As `Work.done` says.

        Returns:
            Above 0, float64 (n,).
        """
        raise ValueError("this algorithm works from no sum")

    def summand(self, part: ClientScalars, bounds: tuple[float, ...], done: int) -> NDArray[np.float64]:
        """What a client adds to the sum of a round in its scalars' place, clipped by itself: the mean of it over clients is
        all that `aggregate_mean` needs.

        Args:
            part: What the client has to give.
            bounds: The largest root mean squares of probes and of projections that count in full; empty: those of a first round.
            done: As `Work.done` says.

        Returns:
            Float64, within `sum_limits`, (n,).
        """
        raise ValueError("this algorithm works from no sum")

    def aggregate_mean(
        self, start: Start, mean: NDArray[np.float64], contributors: Sequence[ClientScalars]
    ) -> Aggregate:
        """As `aggregate`, from the weighted mean of the contributors' summands.

        Args:
            start: What the round starts from.
            mean: Float64 (n,).
            contributors: In ascending order of client; their scalars are 0.

        Raises:
            ValueError: No aggregate can be made of it.
        """
        raise ValueError("this algorithm works from no sum")


def wrong_kind(contribution: Contribution, work: Work) -> str:
    """The sentence that a contribution of its kind does not answer the work.

    Args:
        contribution: What a client gave.
        work: What it was given.
    """
    return f"a {type(contribution).__name__.lower()} does not belong in a {work.phase} round"
