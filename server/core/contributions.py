"""The contributions of a closed round as the input of aggregation, and the grid of averaged weights.

Functions of the state and the contributions alone, so that a check of the ledger can ask again.
"""

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.algorithms.protocol import Aggregate, ClientScalars, Start, Trained, Update
from zowarmup.common.algorithms.vectors import PIECE, Mapper
from zowarmup.common.exact.grid import Grid, HeadroomExceeded
from zowarmup.common.exact.layout import Layout
from zowarmup.common.exact.steps import Step
from zowarmup.common.messages.values import Delta, Scalars
from zowarmup.common.text import in_words, where
from zowarmup.server.core.masking import mean_of, noised_mean_of
from zowarmup.server.core.state import Round, State

Store = Callable[[int, NDArray[np.float32]], None]
"""Keeps values of the next optimizer state, from a place on. Any thread may call it with its piece."""


class AlgorithmFault(ValueError):
    """An error of an algorithm's own code; the sentence names the algorithm, the file and the line."""


@contextlib.contextmanager
def naming_faults(algorithm: str, *passing: type[Exception]) -> Iterator[None]:
    """Around calls of an algorithm's own code: whatever it raises becomes an AlgorithmFault.

    Args:
        algorithm: Its name, as the run file says it.
        passing: What is not of its making, and stays as it is; so do HeadroomExceeded, OSError, and a ValueError or
            ArithmeticError of this package: those are about numbers.
    """
    try:
        yield
    except Exception as error:
        numbers = isinstance(error, ValueError | ArithmeticError) and not where(error)
        if numbers or isinstance(error, (AlgorithmFault, HeadroomExceeded, OSError, *passing)):
            raise
        raise AlgorithmFault(f"algorithm {algorithm}: {in_words(error)}") from error


def aggregate_of(
    state: State, closed: Round, start: Start, contributions: Sequence[ClientScalars | Trained]
) -> Aggregate:
    """What the algorithm makes of a closed round's contributions. Raises TypeError where that is no Aggregate, and what its
    code raises."""
    algorithm = state.algorithm(closed.phase)
    found: object
    if closed.members and state.run_file.privacy.shares_noise:
        found = algorithm.aggregate(start, [noised_mean_of(state, closed, start.weights)])
    elif closed.members:
        found = algorithm.aggregate_mean(start, *mean_of(state, closed))
    else:
        found = algorithm.aggregate(start, contributions)
    if not isinstance(found, Aggregate):
        raise TypeError(f"its `aggregate` gives {type(found).__name__}, not an Aggregate")
    return found


def steps_of(state: State, closed: Round, grid: Grid, weights: NDArray[np.float32]) -> tuple[Step, ...]:
    """The steps that a closed round's scalars make.

    Args:
        state: As the round closed.
        closed: The round; nobody contributed a delta.
        grid: That the steps are to be on.
        weights: Those of the version that it began at, float32 (layout.size,).

    Returns:
        The same whenever it is asked, so a check of the ledger can ask again.

    Raises:
        HeadroomExceeded: A step is too long for the grid.
        ValueError: No aggregate can be made of them, or the algorithm's code fails.
    """
    start = Start(weights, grid, state.rounds_done, state.moments)
    with naming_faults(state.rules_of(closed.phase).algorithm):
        return aggregate_of(state, closed, start, parts_of(state, closed)).steps(grid)


def parts_of(state: State, closed: Round) -> list[ClientScalars]:
    """What a round's contributors sent in scalars, in ascending order of client."""
    return [
        ClientScalars(closed.seeds[client], closed.examples[client], scalars, state.clients[client].tier)
        for client, scalars in sorted(closed.contributions.items())
        if isinstance(scalars, Scalars)
    ]


def deltas_of(closed: Round | None) -> dict[str, Delta]:
    """A round's contributions that are deltas, by client in ascending order."""
    given = sorted(closed.contributions.items()) if closed else ()
    return {client: delta for client, delta in given if isinstance(delta, Delta)}


def uploads_of(closed: Round | None) -> dict[str, str]:
    """The names of the uploads that those are, likewise."""
    return {client: upload_name(client, delta.round, delta.digest) for client, delta in deltas_of(closed).items()}


def carried_out(update: Update, size: int, each: Mapper = map, store: Store | None = None) -> NDArray[np.float32]:
    """The weights after an update.

    Args:
        update: An algorithm's.
        size: How many weights there are.
        each: Goes through the pieces, such as `map` of a pool of threads.
        store: Takes the next optimizer state; None where the algorithm keeps none.

    Returns:
        A new float32 array (size,) that is not yet on a grid; what float32 does not hold is infinite.
    """
    moved = np.empty(size, dtype=np.float32)

    def move(start: int) -> None:
        place = slice(start, min(start + update.extent, size))
        for begin, values in update.piece(place, moved[place]):
            if store is None:
                raise ValueError("there is nothing to keep the optimizer's state in")
            store(begin, values)

    for _ in each(move, range(0, size, update.extent)):
        pass
    return moved


def settle_on_grid(weights: NDArray[np.float32], layout: Layout, each: Mapper = map) -> Grid:
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


def upload_name(client: str, round: int, digest: str) -> str:
    """The blob of one client's delta for one round with that digest (hex), whole or not: no other client can name it or write
    to it. So digests tell apart only what one client sends, and guard it against accidents: whoever wants to can make two
    deltas of one digest, and only the first that is whole counts."""
    return f"{round}.{client}.{digest}"


def round_of(upload: str) -> int:
    """The round that an upload of this name is for; 0, which no round has, where the name is none of `upload_name`."""
    number = upload.partition(".")[0]
    return int(number) if number.isdecimal() else 0


def last_over(state: State) -> int:
    """The last round whose uploads can be neither resumed nor named any more."""
    return state.round - (state.current is not None and not state.current.closed)


def is_over(upload: str, ended: int, kept: Collection[str]) -> bool:
    """Whether an upload of this name, whole or not, can go: it is for the round `ended` or an earlier one, or for none, and is not one of those
    that are `kept`, as they are aggregated or being named."""
    return round_of(upload) <= ended and upload not in kept
