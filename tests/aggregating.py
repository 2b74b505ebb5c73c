"""What a round's contributions make of a model, for tests and benchmarks that have no coordinator."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.algorithms.protocol import Aggregate, ClientScalars, Start, Trained
from zowarmup.common.algorithms.step_builder import Moments
from zowarmup.common.algorithms.vectors import LazyVector, Mapper
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.steps import Step
from zowarmup.server.core.contributions import carried_out


class Aggregates(Protocol):
    """As much of an algorithm as these need."""

    def aggregate(self, start: Start, contributions: Sequence[ClientScalars | Trained]) -> Aggregate: ...


def aggregated(
    algorithm: Aggregates,
    parts: Sequence[ClientScalars],
    *,
    grid: Grid | None = None,
    done: int = 0,
    moments: Moments = (),
    weights: NDArray[np.float32] | None = None,
) -> Aggregate:
    """A round of scalars; without `weights` the model is so large that it bounds nothing."""
    weights = np.full(1, 1e30, np.float32) if weights is None else weights
    return algorithm.aggregate(Start(weights, grid or Grid(20), done, moments), parts)


def steps(
    algorithm: Aggregates,
    grid: Grid,
    done: int,
    parts: Sequence[ClientScalars],
    moments: Moments = (),
    weights: NDArray[np.float32] | None = None,
) -> tuple[Step, ...]:
    """The steps of a round of scalars on a grid."""
    return aggregated(algorithm, parts, grid=grid, done=done, moments=moments, weights=weights).steps(grid)


def moved(
    algorithm: Aggregates,
    weights: NDArray[np.float32],
    deltas: Sequence[tuple[int, LazyVector]],
    each: Mapper = map,
    before: LazyVector | None = None,
    store: Callable[[int, NDArray[np.float32]], None] | None = None,
) -> NDArray[np.float32]:
    """The weights after a round of deltas, each with the examples that its client claims."""
    trained = [Trained(examples, delta) for examples, delta in deltas]
    update = algorithm.aggregate(Start(weights, Grid(20), vectors=before), trained).update
    assert update is not None
    return carried_out(update, weights.size, each, store)
