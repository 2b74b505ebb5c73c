"""What a closed round's contributions come to: the steps that its scalars make, and the grid that averaged weights get.

Functions of the state and the contributions alone, so that a check of the ledger can ask again.
"""

import math

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.grid import Grid
from zowarmup.common.layout import Layout
from zowarmup.common.methods.fedavg import PIECE, length
from zowarmup.common.methods.protocol import Part
from zowarmup.common.methods.vector import Each
from zowarmup.common.steps import Step
from zowarmup.common.work import Delta, Scalars
from zowarmup.server.spool import upload_name
from zowarmup.server.state import Round, State


def steps_of(state: State, closed: Round, grid: Grid, weights: NDArray[np.float32]) -> tuple[Step, ...]:
    """The steps that a closed zeroth-order round's contributions make.

    Args:
        state: As the round closed.
        closed: The round.
        grid: That the steps are to be on.
        weights: Those of the version that it began at, float32 (layout.size,).

    Returns:
        The same whenever it is asked, so a check of the ledger can ask again.

    Raises:
        HeadroomExceeded: A step is too long for the grid.
    """
    parts = parts_of(state, closed)

    def model() -> float:
        return length(weights) / math.sqrt(weights.size)

    return state.zeroth_order.combine(grid, state.rounds_done, parts, state.moments, model)


def parts_of(state: State, closed: Round) -> list[Part]:
    """What a zeroth-order round's contributors sent, in ascending order of client."""
    return [
        Part(closed.seeds[client], closed.examples[client], scalars, state.clients[client].tier)
        for client, scalars in sorted(closed.contributions.items())
        if isinstance(scalars, Scalars)
    ]


def deltas_of(closed: Round | None) -> dict[str, Delta]:
    """A round's contributions that are deltas, by client in ascending order."""
    given = sorted(closed.contributions.items()) if closed else ()
    return {client: delta for client, delta in given if isinstance(delta, Delta)}


def uploads_of(closed: Round | None) -> dict[str, str]:
    """The names of the uploads that those are, likewise."""
    return {client: upload_name(client, delta.digest) for client, delta in deltas_of(closed).items()}


def settle_on_grid(weights: NDArray[np.float32], layout: Layout, each: Each = map) -> Grid:
    """Choose a grid for the trainable part of a flat vector, block by block, and round it to that, in place, by pieces that
    `each` goes through. Buffers stay: no step touches them. Raises HeadroomExceeded, the weights unchanged, where no grid
    fits."""
    trainable = layout.trainable
    grid = Grid.choose(weights[:trainable], edges=layout.edges)

    def settle(start: int) -> None:
        piece = weights[start : min(start + PIECE, trainable)]
        piece[:] = grid.quantise(piece, start)

    for _ in each(settle, range(0, trainable, PIECE)):
        pass
    return grid
