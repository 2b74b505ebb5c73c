"""What the coordinator does between a round's end and the next version, in a thread of its own.

A closed round becomes a job: combine its contributions (sorted by client, so that nothing depends on the order of
arrival) into the next version of the coordinator's replica, write what must outlive a crash, and hand the result back
as a command. The same inputs give the same bits, so a job that a crash cut off is simply done again. Contributions
that no version follows from (a model that diverges) abandon the round, and the replica stays as it was. Snapshots,
pruning and evaluation are jobs of the same queue: the replica is only ever touched here.
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
from zowarmup.common.layout import digest
from zowarmup.common.methods.fedavg import FedAvg
from zowarmup.common.methods.zeroth_order import ZOWarmUp
from zowarmup.common.replica import Replica
from zowarmup.common.steps import Step, apply_steps
from zowarmup.common.work import Delta, Phase, Scalars
from zowarmup.server import events as ev
from zowarmup.server.blobs import BlobError, Blobs
from zowarmup.server.coordinator import Coordinator, Unavailable
from zowarmup.server.evaluation import Evaluator
from zowarmup.server.state import Round, State

log = logging.getLogger(__name__)
_T = TypeVar("_T")

REGRID_BITS = 3
RETRY_S = 1.0
CLOCK_S = 1.0  # by so much a file's time may lag behind ours


@dataclass(frozen=True, slots=True)
class Combined:
    """The next version: by `steps`, or by a `snapshot` where the grid changed. The replica is at it already."""

    digest: str
    steps: tuple[Step, ...]
    snapshot: ev.Snapshot | None


class Effects:
    """Jobs for one coordinator. `deltas` are the uploads, kept apart from what the run stands on, so that a client can
    neither name nor cost it anything of that. `traffic` gives the counts to save with a commit."""

    def __init__(
        self,
        coordinator: Coordinator,
        blobs: Blobs,
        deltas: Blobs,
        replica: Replica,
        evaluator: Evaluator,
        traffic: Callable[[], tuple[ev.TrafficCount, ...]],
    ) -> None:
        self._coordinator, self._blobs, self._deltas, self._replica = coordinator, blobs, deltas, replica
        self._evaluator, self._traffic = evaluator, traffic
        self._jobs: asyncio.Queue[Round | None] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="effects")
        self._round_ended = 0.0

    def __call__(self, now: float, events: Sequence[ev.Event], state: State) -> None:
        """Observe: every closed round is a job, and so is the model's state whenever it may need housekeeping."""
        if any(isinstance(event, ev.Committed | ev.RoundAbandoned) for event in events):
            self._round_ended = now
        if any(isinstance(event, ev.RoundClosed) for event in events):
            self._jobs.put_nowait(state.current)
        elif any(isinstance(event, ev.Pivoted | ev.RunFinished | ev.RoundAbandoned) for event in events):
            self._jobs.put_nowait(None)

    def resume(self) -> None:
        """After a restart: a round that was closed and not committed is combined again."""
        state = self._coordinator.state
        if state.current is None:
            self._round_ended = self._coordinator.clock()
        self._jobs.put_nowait(state.current if state.current and state.current.closed else None)

    async def run(self) -> None:
        """Do jobs in order until cancelled."""
        while True:
            closed = await self._jobs.get()
            if closed is not None:
                await self._record(await self._off_loop(self._outcome, closed))
            await self._keep_house()

    async def _keep_house(self) -> None:
        state, version = self._coordinator.state, self._replica.version
        settings = state.run_file
        at_turn = version == state.pivot_version or state.phase is Phase.FINISHED
        if version not in state.snapshots and (
            at_turn or version - state.snapshot.version >= settings.zeroth_order.snapshot_every
        ):
            await self._record(ev.RecordSnapshot(await self._off_loop(self._snapshot)))
        evaluated = state.evaluation and state.evaluation.version == version
        if not evaluated and (at_turn or version % settings.evaluation.every == 0):
            accuracy, loss, examples = await self._off_loop(self._evaluator.evaluate, self._replica.weights)
            await self._record(ev.RecordEvaluation(version, accuracy, loss, examples))
        await self._prune()
        # What was uploaded for rounds that have ended; the next round's uploads began later.
        current = state.current.contributions.values() if state.current else ()
        keep = {contribution.sha256 for contribution in current if isinstance(contribution, Delta)}
        await self._off_loop(self._deltas.sweep, keep, self._round_ended - CLOCK_S)

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

    def _outcome(self, closed: Round) -> ev.CommitRound | ev.AbandonRound:
        try:
            combined = self._combine(closed)
        except (ValueError, ArithmeticError, BlobError) as error:
            return ev.AbandonRound(closed.number, f"its contributions cannot be combined: {error}")
        return ev.CommitRound(
            closed.number,
            self._replica.version,
            combined.digest,
            combined.steps,
            combined.snapshot,
            self._traffic(),
        )

    def _combine(self, closed: Round) -> Combined:
        """Move the replica on. What this raises leaves it as it was."""
        if closed.phase is Phase.WARM_UP:
            return self._combine_deltas(closed)
        return self._combine_scalars(closed)

    def _combine_deltas(self, closed: Round) -> Combined:
        replica = self._replica
        deltas = [(d.examples, self._deltas.vector(d.sha256)) for d in _in_order(closed) if isinstance(d, Delta)]
        method = FedAvg(self._coordinator.state.run_file.warmup, replica.layout)
        with np.errstate(over="ignore"):  # becomes infinite, which is refused
            moved = method.combine(replica.weights, deltas)
        if not np.isfinite(moved).all():
            raise HeadroomExceeded("the mean of the deltas is beyond what float32 holds")
        replica.grid = settle_on_grid(moved, replica.layout.trainable)
        replica.weights[:] = moved
        replica.version += 1
        snapshot = self._snapshot()
        return Combined(snapshot.digest, (), snapshot)

    def _combine_scalars(self, closed: Round) -> Combined:
        replica, state = self._replica, self._coordinator.state
        method = ZOWarmUp(state.run_file.zeroth_order, replica.layout)
        contributions = [
            (closed.seeds[client], closed.examples[client], scalars)
            for client, scalars in sorted(closed.contributions.items())
            if isinstance(scalars, Scalars)
        ]

        def steps_on(grid: Grid) -> tuple[Step, ...]:
            return method.combine(grid, state.rounds_done, contributions)

        try:
            steps = steps_on(replica.grid)
            apply_steps(replica.weights, replica.grid, steps)
        except HeadroomExceeded as error:
            log.warning("%s: the next version is a snapshot on a coarser grid", error)
            replica.grid, replica.weights[:] = self._on_a_coarser_grid(steps_on)
            replica.version += 1
            snapshot = self._snapshot()
            return Combined(snapshot.digest, (), snapshot)
        replica.version += 1
        return Combined(digest(replica.weights).hex(), steps, None)

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

    def _snapshot(self) -> ev.Snapshot:
        replica = self._replica
        sha256 = self._blobs.put(replica.weights.data.cast("B"))
        return ev.Snapshot(replica.version, sha256, replica.grid.exponent, replica.digest().hex())

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


def settle_on_grid(weights: NDArray[np.float32], trainable: int) -> Grid:
    """Choose a grid for the trainable part of a flat vector and round it to that, in place. Buffers stay: no step
    touches them."""
    grid = Grid.choose(weights[:trainable])
    weights[:trainable] = grid.quantise(weights[:trainable])
    return grid


def _in_order(closed: Round) -> list[Delta | Scalars]:
    return [contribution for _, contribution in sorted(closed.contributions.items())]
