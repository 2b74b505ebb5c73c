"""What the coordinator does between a round's end and the next version, in a thread of its own.

A closed round becomes a job: combine its contributions (sorted by client, so that nothing depends on the order of
arrival) into the next version of the coordinator's replica, write what must outlive a crash, and hand the result back
as a command. The same inputs give the same bits, so a job that a crash cut off is simply done again. Contributions
that no version follows from (a model that diverges) abandon the round, and the replica stays as it was. Snapshots,
pruning and evaluation are jobs of the same queue: the replica is only ever touched here. A disk that refuses is tried
again until it takes what must be written; the coordinator says meanwhile what it waits for.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.grid import COARSEST, Grid, HeadroomExceeded
from zowarmup.common.methods.fedavg import FedAvg
from zowarmup.common.methods.zeroth_order import ZOWarmUp
from zowarmup.common.replica import Replica
from zowarmup.common.steps import Step, apply_steps
from zowarmup.common.work import Delta, Phase, Scalars
from zowarmup.server import events as ev
from zowarmup.server.blobs import BlobError, Blobs, DiskRefused
from zowarmup.server.coordinator import Coordinator, Unavailable
from zowarmup.server.evaluation import Evaluator
from zowarmup.server.state import Round, State

log = logging.getLogger(__name__)
_T = TypeVar("_T")

REGRID_BITS = 3
RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class Combined:
    """The next version, at which the replica is already: by `steps`, or, where these are None and the grid may have
    changed, by a snapshot that is still to be written."""

    digest: str
    steps: tuple[Step, ...] | None
    clipped_scalars: int = 0
    clipped_deltas: int = 0


class Effects:
    """Jobs for one coordinator. `traffic` gives the counts to save with a commit."""

    def __init__(
        self,
        coordinator: Coordinator,
        blobs: Blobs,
        replica: Replica,
        evaluator: Evaluator,
        traffic: Callable[[], tuple[ev.TrafficCount, ...]],
    ) -> None:
        self._coordinator, self._blobs, self._replica = coordinator, blobs, replica
        self._evaluator, self._traffic = evaluator, traffic
        self._jobs: asyncio.Queue[Round | None] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="effects")

    def __call__(self, now: float, events: Sequence[ev.Event], state: State) -> None:
        """Observe: every closed round is a job, and so is the model's state whenever it may need housekeeping."""
        if any(isinstance(event, ev.RoundClosed) for event in events):
            self._jobs.put_nowait(state.current)
        elif any(isinstance(event, ev.Pivoted | ev.RunFinished | ev.RoundAbandoned) for event in events):
            self._jobs.put_nowait(None)
        if any(isinstance(event, ev.RoundAbandoned) for event in events) and state.previous:
            self._drop_deltas(state.previous)

    def resume(self) -> None:
        """After a restart, before anyone is let in: what the crash left half done on disk goes, and a round that was
        closed and not committed is combined again."""
        state = self._coordinator.state
        current = state.current
        uploads = {c.sha256 for c in current.contributions.values() if isinstance(c, Delta)} if current else set()
        resumable = current is not None and current.phase is Phase.WARM_UP and not current.closed
        named = {state.program.sha256, *(snapshot.sha256 for snapshot in state.snapshots.values())}
        if swept := self._blobs.sweep(named, uploads, resumable):
            log.info("%d files that an earlier stop had left half done are removed", swept)
        self._jobs.put_nowait(state.current if state.current and state.current.closed else None)

    async def run(self) -> None:
        """Do jobs in order until cancelled."""
        try:
            while True:
                closed = await self._jobs.get()
                if closed is not None:
                    await self._record(await self._outcome(closed))
                    self._drop_deltas(closed)
                await self._keep_house()
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def _keep_house(self) -> None:
        state, version = self._coordinator.state, self._replica.version
        settings = state.run_file
        at_turn = version == state.pivot_version or state.phase is Phase.FINISHED
        if version not in state.snapshots and (
            at_turn or version - state.snapshot.version >= settings.zeroth_order.snapshot_every
        ):
            await self._record(ev.RecordSnapshot(await self._snapshot()))
        evaluated = state.evaluation and state.evaluation.version == version
        if not evaluated and (at_turn or version % settings.evaluation.every == 0):
            accuracy, loss, examples = await self._off_loop(self._evaluator.evaluate, self._replica.weights)
            await self._record(ev.RecordEvaluation(version, accuracy, loss, examples))
        await self._prune()

    async def _prune(self) -> None:
        state = self._coordinator.state
        snapshots = state.snapshots
        keep = {state.pivot_version, *sorted(snapshots)[-state.run_file.server.keep_snapshots :]}
        if stale := tuple(version for version in snapshots if version not in keep):
            await self._record(ev.PruneSnapshots(stale))
            kept = {snapshot.sha256 for snapshot in self._coordinator.state.snapshots.values()}
            for version in stale:
                if snapshots[version].sha256 not in kept:
                    self._blobs.remove(snapshots[version].sha256)

    async def _outcome(self, closed: Round) -> ev.CommitRound | ev.AbandonRound:
        try:
            combined = await self._off_loop(self._combine, closed)
        except DiskRefused:
            raise
        except (ValueError, ArithmeticError, BlobError) as error:
            return ev.AbandonRound(closed.number, f"its contributions cannot be combined: {error}")
        snapshot = await self._snapshot() if combined.steps is None else None
        return ev.CommitRound(
            closed.number,
            self._replica.version,
            combined.digest,
            combined.steps or (),
            snapshot,
            self._traffic(),
            combined.clipped_scalars,
            combined.clipped_deltas,
        )

    def _combine(self, closed: Round) -> Combined:
        """Move the replica on. What this raises leaves it as it was."""
        if closed.phase is Phase.WARM_UP:
            return self._combine_deltas(closed)
        return self._combine_scalars(closed)

    def _combine_deltas(self, closed: Round) -> Combined:
        replica = self._replica
        named = [(client, d) for client, d in sorted(closed.contributions.items()) if isinstance(d, Delta)]
        deltas = [(delta.examples, self._blobs.upload(delta.sha256)) for _, delta in named]
        method = FedAvg(self._coordinator.state.run_file.warmup, replica.layout)
        scales = method.scales(deltas)
        for (client, _), scale in zip(named, scales, strict=True):
            if scale < 1:
                log.warning(
                    "round %d: %s sent an outlying delta, which counts %.3g times", closed.number, client, scale
                )
        with np.errstate(over="ignore"):  # becomes infinite, which is refused
            moved = method.combine(replica.weights, deltas, scales)
        if not np.isfinite(moved).all():
            raise HeadroomExceeded("the mean of the deltas is beyond what float32 holds")
        replica.grid = settle_on_grid(moved, replica.layout.trainable)
        replica.weights[:] = moved
        replica.version += 1
        return Combined(replica.digest().hex(), None, clipped_deltas=sum(scale < 1 for scale in scales))

    def _combine_scalars(self, closed: Round) -> Combined:
        replica, state = self._replica, self._coordinator.state
        _, clipped = ZOWarmUp(state.run_file.zeroth_order, replica.layout).clip(scalars_of(closed))
        if clipped:
            log.info("round %d: %d outlying scalars are clipped", closed.number, clipped)
        try:
            steps = steps_of(state, closed, replica.grid)
            apply_steps(replica.weights, replica.grid, steps)
        except HeadroomExceeded as error:
            log.warning("%s: the next version is a snapshot on a coarser grid", error)
            replica.grid, replica.weights[:] = self._on_a_coarser_grid(lambda grid: steps_of(state, closed, grid))
            replica.version += 1
            return Combined(replica.digest().hex(), None, clipped_scalars=clipped)
        replica.version += 1
        return Combined(replica.digest().hex(), steps, clipped_scalars=clipped)

    def _on_a_coarser_grid(self, steps_on: Callable[[Grid], tuple[Step, ...]]) -> tuple[Grid, NDArray[np.float32]]:
        """The finest grid that holds the moved weights, and those. Raises HeadroomExceeded where there is none."""
        replica = self._replica
        for exponent in range(replica.grid.exponent - REGRID_BITS, COARSEST - 1, -REGRID_BITS):
            grid, moved = Grid(exponent), replica.weights.copy()
            trainable = moved[: replica.layout.trainable]
            try:
                trainable[:] = grid.quantise(trainable)
                apply_steps(moved, grid, steps_on(grid))
            except HeadroomExceeded:
                continue
            return grid, moved
        raise HeadroomExceeded("no grid is coarse enough for the step")

    async def _snapshot(self) -> ev.Snapshot:
        """The replica on disk. Like `_record`, it tries until the disk takes it."""
        replica = self._replica
        while True:
            try:
                sha256 = await self._off_loop(self._blobs.put, replica.weights.data.cast("B"))
                self._coordinator.trouble.clear("snapshot")
                return ev.Snapshot(replica.version, sha256, replica.grid.exponent, replica.digest().hex())
            except DiskRefused as error:
                self._coordinator.trouble.tell("snapshot", f"the snapshot of version {replica.version}: {error}")
                await asyncio.sleep(RETRY_S)

    def _drop_deltas(self, closed: Round) -> None:
        for contribution in closed.contributions.values():
            if isinstance(contribution, Delta):
                self._blobs.drop_upload(contribution.sha256)

    async def _record(self, command: ev.Command) -> None:
        """The replica is at the new version already, so there is no way back: try until the disk takes it."""
        while True:
            try:
                await self._coordinator.handle(command)
                return
            except Unavailable:
                await asyncio.sleep(RETRY_S)

    async def _off_loop(self, job: Callable[..., _T], *arguments: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, job, *arguments)


def steps_of(state: State, closed: Round, grid: Grid) -> tuple[Step, ...]:
    """The steps that a closed zeroth-order round's contributions make on a grid: the same whenever it is asked, so a
    check of the ledger can ask again. `state`: as the round closed. Raises HeadroomExceeded."""
    return ZOWarmUp(state.run_file.zeroth_order, state.layout).combine(grid, state.rounds_done, scalars_of(closed))


def scalars_of(closed: Round) -> list[tuple[int, int, Scalars]]:
    """What a zeroth-order round's contributors sent, each with its seed and examples, in ascending order of client."""
    return [
        (closed.seeds[client], closed.examples[client], scalars)
        for client, scalars in sorted(closed.contributions.items())
        if isinstance(scalars, Scalars)
    ]


def settle_on_grid(weights: NDArray[np.float32], trainable: int) -> Grid:
    """Choose a grid for the trainable part of a flat vector and round it to that, in place. Buffers stay: no step
    touches them."""
    grid = Grid.choose(weights[:trainable])
    weights[:trainable] = grid.quantise(weights[:trainable])
    return grid
