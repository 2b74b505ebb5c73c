"""The aggregator: a closed round's contributions become the next version of the coordinator's replica.

Contributions are sorted by client, so nothing depends on the order of arrival, and the same inputs give the same bits: a
round that a crash cut off is simply aggregated again. The algorithm says what becomes of the model (`Aggregate`); here
its moves are rounded to the grid and taken, or its update is carried out piece by piece in threads, deltas and optimizer
state being read from disk and written to it a piece at a time.
"""

import functools
import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.algorithms.protocol import Aggregate, Start, Trained, Update
from zowarmup.common.algorithms.vectors import norm
from zowarmup.common.exact.grid import Grid, HeadroomExceeded
from zowarmup.common.exact.replica import Replica
from zowarmup.common.exact.steps import Step, apply_steps
from zowarmup.server.aggregation.optimizer_state import OptimizerState, optimizer_state
from zowarmup.server.core.contributions import carried_out, deltas_of, parts_of, settle_on_grid, uploads_of
from zowarmup.server.core.state import Round, State
from zowarmup.server.store.blobs import Blobs

log = logging.getLogger(__name__)

REGRID_BITS = 3
STEPPED_SHARE = 0.25
"""Where clients move their own replicas in a round, weights may be as large as this share of the grid's limit."""
PIECES_AT_ONCE = min(4, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Aggregated:
    """The next version, at which the replica is already: by `steps`, or, where these are None and the grid may have
    changed, by a snapshot that is still to be written. `optimiser`: the blob with the optimizer's state, empty where it
    has none."""

    digest: str
    steps: tuple[Step, ...] | None
    aggregate: Aggregate
    optimiser: str = ""


class Aggregator:
    """Moves `replica` on. `lengths`: the Euclidean norms of uploads, by name, roughly and as far as they are known."""

    def __init__(self, replica: Replica, blobs: Blobs, lengths: Mapping[str, float] | None = None) -> None:
        self._replica, self._blobs = replica, blobs
        self._lengths: Mapping[str, float] = {} if lengths is None else lengths
        self._pieces = ThreadPoolExecutor(PIECES_AT_ONCE, thread_name_prefix="pieces")

    def close(self) -> None:
        self._pieces.shutdown(wait=False)

    def combine(self, state: State, closed: Round) -> Aggregated:
        """Move the replica on by a closed round. What this raises (ValueError, ArithmeticError, BlobError, OSError) leaves
        it as it was."""
        replica, algorithm = self._replica, state.algorithm(closed.phase)
        before = state.snapshot.optimiser
        with optimizer_state(self._blobs, before, algorithm.optimizer_values) as optimiser:
            start = Start(replica.weights, replica.grid, state.rounds_done, state.moments, optimiser.before)
            found = algorithm.aggregate(start, [*self._trained(closed), *parts_of(state, closed)])
            if found.update is not None:
                grid, moved = self._updated(found.update, optimiser)
        for note in found.notes:
            log.warning("round %d: %s", closed.number, note)
        if found.update is not None:
            replica.grid, replica.weights[:] = grid, moved
            replica.version += 1
            return Aggregated(replica.digest().hex(), None, found, optimiser.kept)
        if found.clipped_scalars:
            log.info("round %d: %d outlying scalars are clipped", closed.number, found.clipped_scalars)
        return self._stepped(found, state.rules.steps_locally)

    def _trained(self, closed: Round) -> list[Trained]:
        """The round's deltas, in ascending order of client; exact norms are found together, by all threads."""
        named, deltas = uploads_of(closed), deltas_of(closed)
        vectors = {client: self._blobs.stored(name) for client, name in named.items()}

        @functools.cache
        def exact() -> dict[str, float]:
            return dict(zip(vectors, self._pieces.map(norm, vectors.values()), strict=True))

        return [
            Trained(
                deltas[client].examples,
                vectors[client],
                client,
                self._lengths.get(name),
                lambda client=client: exact()[client],  # type: ignore[misc]
            )
            for client, name in named.items()
        ]

    def _updated(self, update: Update, optimiser: OptimizerState) -> tuple[Grid, NDArray[np.float32]]:
        layout = self._replica.layout
        moved = carried_out(update, layout.size, self._pieces.map, optimiser.remember)
        if not np.isfinite(moved[layout.trainable :]).all():
            raise HeadroomExceeded("the mean of the deltas is beyond what float32 holds")
        return settle_on_grid(moved, layout, self._pieces.map), moved

    def _stepped(self, found: Aggregate, steps_locally: bool) -> Aggregated:
        replica = self._replica
        steps: tuple[Step, ...] | None = None
        try:
            self._check_room(steps_locally)
            steps = found.steps(replica.grid)
            apply_steps(replica.weights, replica.grid, steps)
        except HeadroomExceeded as error:
            log.warning("%s: the next version is a snapshot on a coarser grid", error)
            replica.grid, replica.weights[:] = self._on_a_coarser_grid(found)
            steps = None
        replica.version += 1
        return Aggregated(replica.digest().hex(), steps, found)

    def _check_room(self, steps_locally: bool) -> None:
        """Raises HeadroomExceeded where clients that move their own replicas would soon meet the grid's limit: they cannot
        change it, and could not contribute."""
        replica = self._replica
        for start, stop, here in replica.grid.within(0, replica.layout.trainable):
            part = replica.weights[start:stop]
            if steps_locally and max(-part.min(), part.max()) > STEPPED_SHARE * here.limit:
                raise HeadroomExceeded(f"weights leave clients no room for steps of their own below {here.limit:g}")

    def _on_a_coarser_grid(self, found: Aggregate) -> tuple[Grid, NDArray[np.float32]]:
        """The finest grid that holds the moved weights, and those; coarser in every block alike. Raises HeadroomExceeded
        where there is none."""
        replica, grid = self._replica, self._replica.grid
        while True:
            try:
                grid = grid.coarser(REGRID_BITS)
            except ValueError:
                raise HeadroomExceeded("no grid is coarse enough for the step") from None
            moved = replica.weights.copy()
            trainable = moved[: replica.layout.trainable]
            try:
                trainable[:] = grid.quantise(trainable)
                apply_steps(moved, grid, found.steps(grid))
            except HeadroomExceeded:
                continue
            return grid, moved
