"""The aggregator: a closed round's contributions become the next version of the coordinator's replica, or the run goes back to
its last good one.

Contributions are sorted by client, so nothing depends on the order of arrival, and the same inputs give the same bits: a
round that a crash cut off is simply aggregated again. The algorithm says what becomes of the model (`Aggregate`); here
its moves are rounded to the grid and taken, or its update is carried out piece by piece in threads, deltas and optimizer
state being read from disk and written to it a piece at a time.

A server optimizer's moments are twice the model, so they stay on disk. The new blob has a name only once it is whole, and
counts once a commit's snapshot names it; a round that cannot be aggregated leaves the old one as it is.

A rollback takes back the steps since, where steps alone lead from the good version to the present: sums of ticks are exact, so
this gives every bit. Clients get whichever is shorter, these steps or a snapshot. Otherwise it takes the snapshots on disk.
"""

import contextlib
import functools
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.algorithms.protocol import Aggregate, Start, Trained, Update
from zowarmup.common.algorithms.vectors import LazyVector, norm
from zowarmup.common.exact.grid import Grid, HeadroomExceeded
from zowarmup.common.exact.replica import Commit, Replica, merged
from zowarmup.common.exact.steps import Step, apply_steps
from zowarmup.common.messages.codec import encode_commit
from zowarmup.server.core.contributions import (
    aggregate_of,
    carried_out,
    deltas_of,
    naming_faults,
    parts_of,
    settle_on_grid,
    uploads_of,
)
from zowarmup.server.core.guard import GoodVersion
from zowarmup.server.core.state import Round, State
from zowarmup.server.projections.history import History
from zowarmup.server.store.archive import restore
from zowarmup.server.store.blobs import BlobError, BlobStore
from zowarmup.server.store.uploads import UploadStore

log = logging.getLogger(__name__)

REGRID_BITS = 3
STEPPED_SHARE = 0.25
"""Where clients move their own replicas in a round, weights may be as large as this share of the grid's limit."""
PIECES_AT_ONCE = min(4, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Aggregated:
    """The next version, at which the replica is already: by `steps`, or, where these are None and the grid may have
    changed, by a snapshot that is still to be written. `optimizer`: the blob with the optimizer's state, empty where it
    has none."""

    digest: str
    steps: tuple[Step, ...] | None
    aggregate: Aggregate
    optimizer: str = ""


class Aggregator:
    """Moves `replica` on."""

    def __init__(self, replica: Replica, blobs: BlobStore, uploads: UploadStore) -> None:
        self._replica, self._blobs, self._uploads = replica, blobs, uploads
        self._pieces = ThreadPoolExecutor(PIECES_AT_ONCE, thread_name_prefix="pieces")

    def close(self) -> None:
        self._pieces.shutdown(wait=False)

    def aggregate(self, state: State, closed: Round) -> Aggregated:
        """Move the replica on by a closed round. What this raises (ValueError, ArithmeticError, BlobError, OSError) leaves
        it as it was."""
        replica, algorithm = self._replica, state.algorithm(closed.phase)
        name = state.rules_of(closed.phase).algorithm
        before = state.snapshot.optimiser
        with optimizer_state(self._blobs, before, algorithm.optimizer_values) as optimizer:
            start = Start(replica.weights, replica.grid, state.rounds_done, state.moments, optimizer.before)
            with naming_faults(name, BlobError):
                found = aggregate_of(state, closed, start, [*self._trained(closed), *parts_of(state, closed)])
                if found.update is not None:
                    grid, moved = self._updated(found.update, optimizer)
        for note in found.notes:
            log.warning("round %d: %s", closed.number, note)
        if found.update is not None:
            replica.replace(grid, moved)
            replica.version += 1
            return Aggregated(replica.digest().hex(), None, found, optimizer.kept)
        if found.clipped_scalars:
            log.info("round %d: %d outlying scalars are clipped", closed.number, found.clipped_scalars)
        with naming_faults(name):
            return self._stepped(found, state.rules.steps_locally)

    def _trained(self, closed: Round) -> list[Trained]:
        """The round's deltas, in ascending order of client; exact norms are found together, by all threads."""
        named, deltas = uploads_of(closed), deltas_of(closed)
        vectors = {client: self._uploads.vector(name) for client, name in named.items()}

        @functools.cache
        def exact() -> dict[str, float]:
            return dict(zip(vectors, self._pieces.map(norm, vectors.values()), strict=True))

        return [
            Trained(
                deltas[client].examples,
                vectors[client],
                client,
                self._uploads.norm(name),
                lambda client=client: exact()[client],  # type: ignore[misc]
            )
            for client, name in named.items()
        ]

    def _updated(self, update: Update, optimizer: "OptimizerState") -> tuple[Grid, NDArray[np.float32]]:
        layout = self._replica.layout
        moved = carried_out(update, layout.size, self._pieces.map, optimizer.put)
        if not np.isfinite(moved[layout.trainable :]).all():
            raise HeadroomExceeded("the mean of the deltas is beyond what float32 holds")
        return settle_on_grid(moved, layout, self._pieces.map), moved

    def _stepped(self, found: Aggregate, steps_locally: bool) -> Aggregated:
        replica = self._replica
        steps: tuple[Step, ...] | None = None
        try:
            self._check_room(steps_locally)
            steps = found.steps(replica.grid)
            moved = replica.step(steps)
        except HeadroomExceeded as error:
            log.warning("%s: the next version is a snapshot on a coarser grid", error)
            replica.replace(*self._on_a_coarser_grid(found))
            steps, moved = None, replica.digest()
        replica.version += 1
        return Aggregated(moved.hex(), steps, found)

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


class OptimizerState:
    """The server optimizer's state in one round: `before` is what the last one left, None at first; `kept` the sha256 of the blob with
    what this one leaves, empty until it is durable and where the optimizer keeps nothing."""

    def __init__(self, before: LazyVector | None, blobs: BlobStore, draft: str) -> None:
        self.before, self.kept, self._blobs, self._draft = before, "", blobs, draft

    def put(self, start: int, values: NDArray[np.float32]) -> None:
        """Any thread; raises DiskRefused."""
        self._blobs.write(self._draft, 4 * start, values.data.cast("B"))


@contextlib.contextmanager
def optimizer_state(blobs: BlobStore, before: str, size: int) -> Iterator[OptimizerState]:
    """For a round of an algorithm whose server optimizer keeps `size` float32 values, the last ones in the blob `before` (empty: none).
    What it wrote is a durable blob once the block is left without an error, and gone otherwise. Raises BlobError where
    the blob is missing or of another size, DiskRefused."""
    if not size:
        yield OptimizerState(None, blobs, "")
        return
    known = blobs.vector(before) if before else None
    if known is not None and known.shape != (size,):
        raise BlobError(f"blob {before} holds {known.shape[0]} values, not the {size} of the optimizer")
    with blobs.draft() as draft:
        moments = OptimizerState(known, blobs, draft)
        yield moments
        moments.kept = blobs.keep(draft)


def go_back(
    replica: Replica, state: State, good: GoodVersion, history: History, blobs: BlobStore
) -> tuple[Step, ...] | None:
    """Move the replica, which is at the present version, to the weights of the good one, as the next version: the steps
    that did it, None where only a snapshot can tell, or is shorter. Raises ArchiveError where no snapshot on disk leads
    there."""
    commits = history.since(good.version, state.version)
    steps: tuple[Step, ...] | None = None
    if commits is not None:
        steps = tuple(merged([step.reverse for commit in commits for step in commit.steps]))
        apply_steps(replica.weights, replica.grid, steps)
        sent = encode_commit(Commit(state.version + 1, bytes.fromhex(good.digest), steps), state.layout)
        if len(sent) > replica.weights.nbytes:
            steps = None
    else:
        restored = restore(state, history, blobs, good.version)
        replica.replace(restored.grid, restored.weights)
    replica.version = state.version + 1
    return steps
