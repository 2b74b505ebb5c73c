"""What the coordinator does between a round's end and the next version, in a thread of its own.

A closed round becomes a job: combine its contributions (sorted by client, so that nothing depends on the order of
arrival) into the next version of the coordinator's replica, write what must outlive a crash, and hand the result back
as a command. The same inputs give the same bits, so a job that a crash cut off is simply done again. Contributions
that no version follows from (a model that diverges) abandon the round, and the replica stays as it was. Snapshots,
pruning, evaluation and the way back from a version that is no good are jobs of the same queue: the replica is only ever
touched here, and an evaluation is on record before the next version is. A disk that refuses is tried
again until it takes what must be written; the coordinator says meanwhile what it waits for.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.grid import Grid, HeadroomExceeded
from zowarmup.common.methods.fedavg import PIECE, length
from zowarmup.common.methods.mixed import mixed, share_of_trained
from zowarmup.common.methods.rough import rough_length
from zowarmup.common.replica import Replica
from zowarmup.common.steps import Step, apply_steps
from zowarmup.common.work import Delta, Phase
from zowarmup.server import commands as cmd
from zowarmup.server import events as ev
from zowarmup.server.blobs import BlobError, Blobs, DiskRefused
from zowarmup.server.combining import deltas_of, parts_of, settle_on_grid, steps_of, uploads_of
from zowarmup.server.coordinator import Coordinator, Unavailable
from zowarmup.server.decide import awaits_evaluation
from zowarmup.server.evaluation import Evaluator, measured
from zowarmup.server.history import History
from zowarmup.server.housekeeping import Housekeeping, passes
from zowarmup.server.remembering import remembering
from zowarmup.server.returning import go_back
from zowarmup.server.state import Round, State

log = logging.getLogger(__name__)
_T = TypeVar("_T")

REGRID_BITS = 3
# Where clients move their own replicas in a round, weights may be as large as this share of the grid's limit.
STEPPED_SHARE = 0.25
# What a restart may have to replay: some 2 s on one core of a server (0.15 ns a sign was measured).
REPLAY_SIGNS = 15_000_000_000
RETRY_S = 1.0
# After these there may be something to evaluate, or to write.
HOUSEKEEPING = ev.Pivoted | ev.RunFinished | ev.RunGaveUp | ev.PivotRequested | ev.StopRequested
PIECES_AT_ONCE = min(4, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Combined:
    """The next version, at which the replica is already: by `steps`, or, where these are None and the grid may have
    changed, by a snapshot that is still to be written."""

    digest: str
    steps: tuple[Step, ...] | None
    clipped_scalars: int = 0
    clipped_deltas: int = 0
    moments: tuple[float, ...] = ()
    optimiser: str = ""


class Effects:
    """Jobs for one coordinator. `traffic` gives the counts to save with a commit; `lengths` are the Euclidean norms of
    uploads, by name, roughly and as far as they are known already."""

    def __init__(
        self,
        coordinator: Coordinator,
        blobs: Blobs,
        replica: Replica,
        evaluator: Evaluator,
        history: History,
        traffic: Callable[[], tuple[ev.TrafficCount, ...]],
        lengths: Mapping[str, float] | None = None,
    ) -> None:
        self._coordinator, self._blobs, self._replica = coordinator, blobs, replica
        self._evaluator, self._history, self._traffic = evaluator, history, traffic
        self._jobs: asyncio.Queue[Round | None] = asyncio.Queue()
        self._lengths: Mapping[str, float] = {} if lengths is None else lengths
        self._housekeeping = Housekeeping()
        self._held: set[str] = set()  # blobs of snapshots that there have been, as far as they are still there
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="effects")
        self._pieces = ThreadPoolExecutor(PIECES_AT_ONCE, thread_name_prefix="pieces")

    def __call__(self, now: float, events: Sequence[ev.Event], state: State) -> None:
        """Observe: every round that ends is a job, and so is the model's state whenever it may need housekeeping."""
        if any(isinstance(event, ev.RoundClosed) for event in events):
            self._jobs.put_nowait(state.current)
        elif any(isinstance(event, ev.RoundAbandoned) for event in events):
            # One that had been closed is at work already.
            self._jobs.put_nowait(state.previous if state.previous and not state.previous.closed else None)
        elif any(isinstance(event, HOUSEKEEPING) for event in events):
            self._jobs.put_nowait(None)

    def resume(self) -> None:
        """After a restart, before anyone is let in: what the crash left half done on disk goes, and a round that was
        closed and not committed is combined again."""
        state = self._coordinator.state
        current = state.current
        uploads = uploads_of(current).values()
        resumable = (
            current is not None
            and not current.closed
            and any(state.work_of(client) is Phase.WARM_UP for client in current.seeds)
        )
        self._held |= state.snapshot_blobs
        named = {state.program.sha256, *state.snapshot_blobs}
        with self._housekeeping.attempt("remove what an earlier stop left half done"):
            if swept := self._blobs.sweep(named, set(uploads), resumable):
                log.info("%d files that an earlier stop had left half done are removed", swept)
        # An evaluation that the crash cut off comes before the version that follows: `plateau` and `guard` count on that.
        self._jobs.put_nowait(None)
        if current is not None and current.closed:
            self._jobs.put_nowait(current)

    async def run(self) -> None:
        """Do jobs in order until cancelled."""
        try:
            while True:
                ended = await self._jobs.get()
                if ended is not None and ended.closed and self._is_current(ended):
                    await self._record(await self._outcome(ended))
                    await self._empty_bin(ended)
                await self._keep_house()
                await self._empty_bin(ended)
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._pieces.shutdown(wait=False)

    def _is_current(self, closed: Round) -> bool:
        """Whether a closed round still is to be combined: it is abandoned where the version before it is rejected."""
        current = self._coordinator.state.current
        return current is not None and current.number == closed.number

    async def _empty_bin(self, ended: Round | None) -> None:
        with self._housekeeping.attempt("remove files that are no longer needed"):
            await self._off_loop(self._blobs.empty_bin, *self._spare(ended))

    async def _keep_house(self) -> None:
        state, version = self._coordinator.state, self._replica.version
        settings = state.run_file
        at_turn = version == state.pivot_version or state.phase is Phase.FINISHED
        far = version - state.snapshot.version >= settings.zeroth_order.snapshot_every
        if version not in state.snapshots and (at_turn or far or state.replay_signs >= REPLAY_SIGNS):
            await self._record(cmd.RecordSnapshot(await self._snapshot(state.digest)))
        evaluated = state.evaluation and state.evaluation.version == version
        watched = state.phase is Phase.WARM_UP and settings.warmup.pivot == "auto"
        at_turn |= awaits_evaluation(self._coordinator.state)
        if not evaluated and (at_turn or watched or version % settings.evaluation.every == 0):
            accuracy, loss, examples = await self._off_loop(measured, self._evaluator, self._replica)
            await self._record(cmd.RecordEvaluation(version, accuracy, loss, examples))
        if self._coordinator.state.progress.rejected:
            await self._go_back()
        await self._prune()

    async def _go_back(self) -> None:
        """To the last good version's weights, as a new version."""
        state, replica = self._coordinator.state, self._replica
        good = state.progress.good
        assert good is not None
        steps = await self._off_loop(go_back, replica, state, good, self._history, self._blobs)
        snapshot = None
        if steps is None:
            kept = state.snapshots.get(good.version)
            snapshot = await self._snapshot(good.digest, kept.optimiser if kept else "")
        digest = (await self._off_loop(replica.digest)).hex()
        await self._record(cmd.RollBack(replica.version, digest, steps or (), snapshot, self._traffic()))

    async def _prune(self) -> None:
        state = self._coordinator.state
        snapshots = state.snapshots
        self._held |= state.snapshot_blobs
        keep = {state.pivot_version, *sorted(snapshots)[-state.run_file.server.keep_snapshots :]}
        if good := state.progress.good:  # there must be a way back to it
            keep.add(max((version for version in snapshots if version <= good.version), default=None))
        if stale := tuple(version for version in snapshots if version not in keep):
            await self._record(cmd.PruneSnapshots(stale))
        kept = self._coordinator.state.snapshot_blobs
        for sha256 in sorted(self._held - kept):
            with self._housekeeping.attempt("remove old snapshots"):
                await self._off_loop(self._blobs.remove, sha256)
                self._held.discard(sha256)

    async def _outcome(self, closed: Round) -> cmd.CommitRound | cmd.AbandonRound:
        try:
            combined = await self._until_taken(lambda: self._combine(closed), f"what round {closed.number} comes to")
        except (ValueError, ArithmeticError, BlobError, OSError) as error:
            return cmd.AbandonRound(closed.number, f"its contributions cannot be combined: {error}")
        snapshot = None if combined.steps is not None else await self._snapshot(combined.digest, combined.optimiser)
        return cmd.CommitRound(
            ev.Committed(
                version=self._replica.version,
                round=closed.number,
                digest=combined.digest,
                steps=combined.steps or (),
                snapshot=snapshot,
                traffic=self._traffic(),
                clipped_scalars=combined.clipped_scalars,
                clipped_deltas=combined.clipped_deltas,
                moments=combined.moments,
            )
        )

    def _combine(self, closed: Round) -> Combined:
        """Move the replica on. What this raises leaves it as it was."""
        if any(isinstance(contribution, Delta) for contribution in closed.contributions.values()):
            return self._combine_deltas(closed)
        return self._combine_scalars(closed)

    def _combine_deltas(self, closed: Round) -> Combined:
        replica = self._replica
        named = uploads_of(closed)
        trained = [delta.examples for delta in deltas_of(closed).values()]
        deltas = list(zip(trained, map(self._blobs.stored, named.values()), strict=True))
        method = self._coordinator.state.warm_up
        sizes = [vector.shape[0] for _, vector in deltas]
        rough = [self._lengths.get(name) for name in named.values()]
        if method.takes_whole(rough, sizes, rough_length(replica.weights)):
            scales: tuple[float, ...] = (1.0,) * len(deltas)
        else:
            lengths = list(self._pieces.map(length, [vector for _, vector in deltas]))
            scales = method.scales(lengths, sizes, length(replica.weights))
        for client, scale in zip(named, scales, strict=True):
            if scale < 1:
                log.warning(
                    "round %d: %s sent an outlying delta, which counts %.3g times", closed.number, client, scale
                )
        clipped, moments, before = 0, self._coordinator.state.moments, self._coordinator.state.snapshot.optimiser
        with remembering(self._blobs, before, method.remembered) as optimiser:
            moved = method.combine(replica.weights, deltas, scales, self._pieces.map, optimiser)
            if closed.phase is Phase.ZEROTH_ORDER:
                moved, clipped, moments = self._mixed(closed, moved, trained)
            if not np.isfinite(moved[replica.layout.trainable :]).all():
                raise HeadroomExceeded("the mean of the deltas is beyond what float32 holds")
            grid = settle_on_grid(moved, replica.layout, self._pieces.map)
        replica.grid, replica.weights[:] = grid, moved
        replica.version += 1
        scaled = sum(scale < 1 for scale in scales)
        return Combined(replica.digest().hex(), None, clipped, scaled, moments, optimiser.kept)

    def _mixed(
        self, closed: Round, averaged: NDArray[np.float32], trained: Sequence[int]
    ) -> tuple[NDArray[np.float32], int, tuple[float, ...]]:
        """What the deltas alone make and what the scalars make, in one; how many of these were clipped; the moments."""
        state, replica = self._coordinator.state, self._replica
        parts = parts_of(state, closed)
        if not parts:
            return averaged, 0, state.moments
        _, clipped = state.zeroth_order.clip(parts)
        probed = replica.weights.copy()
        apply_steps(probed, replica.grid, steps_of(state, closed, replica.grid, replica.weights))
        share = share_of_trained(trained, [part.examples for part in parts], state.run_file.zeroth_order)
        return (
            mixed(averaged, probed, share, PIECE, self._pieces.map),
            clipped,
            state.zeroth_order.moments(state.moments, parts),
        )

    def _combine_scalars(self, closed: Round) -> Combined:
        replica, state = self._replica, self._coordinator.state
        parts = parts_of(state, closed)
        _, clipped = state.zeroth_order.clip(parts)
        moments = state.zeroth_order.moments(state.moments, parts)
        if clipped:
            log.info("round %d: %d outlying scalars are clipped", closed.number, clipped)
        try:
            self._check_room(state.run_file.zeroth_order.steps_locally)
            steps = steps_of(state, closed, replica.grid, replica.weights)
            apply_steps(replica.weights, replica.grid, steps)
        except HeadroomExceeded as error:
            log.warning("%s: the next version is a snapshot on a coarser grid", error)
            replica.grid, replica.weights[:] = self._on_a_coarser_grid(
                lambda grid: steps_of(state, closed, grid, replica.weights)
            )
            replica.version += 1
            return Combined(replica.digest().hex(), None, clipped, moments=moments)
        replica.version += 1
        return Combined(replica.digest().hex(), steps, clipped, moments=moments)

    def _check_room(self, steps_locally: bool) -> None:
        """Raises HeadroomExceeded where clients that move their own replicas would soon meet the grid's limit: they cannot
        change it, and could not contribute."""
        replica = self._replica
        for start, stop, here in replica.grid.within(0, replica.layout.trainable):
            part = replica.weights[start:stop]
            if steps_locally and max(-part.min(), part.max()) > STEPPED_SHARE * here.limit:
                raise HeadroomExceeded(f"weights leave clients no room for steps of their own below {here.limit:g}")

    def _on_a_coarser_grid(self, steps_on: Callable[[Grid], tuple[Step, ...]]) -> tuple[Grid, NDArray[np.float32]]:
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
                apply_steps(moved, grid, steps_on(grid))
            except HeadroomExceeded:
                continue
            return grid, moved

    async def _snapshot(self, digest: str, optimiser: str = "") -> ev.Snapshot:
        """The replica, whose digest (hex) is known, on disk, beside the blob that the method remembers by. Like `_record`,
        it tries until the disk takes it."""
        replica = self._replica
        weights, what = replica.weights.data.cast("B"), f"the snapshot of version {replica.version}"
        sha256 = await self._until_taken(lambda: self._blobs.put(weights), what)
        snapshot = ev.Snapshot(replica.version, sha256, replica.grid.exponent, digest, optimiser, replica.grid.ranges)
        self._held.update(snapshot.blobs)
        return snapshot

    async def _until_taken(self, write: Callable[[], _T], what: str) -> _T:
        """Something for the disk, done in the thread, and again until the disk takes it."""
        while True:
            try:
                done = await self._off_loop(write)
                self._coordinator.trouble.clear("snapshot")
                return done
            except (DiskRefused, OSError) as error:
                if not passes(error):
                    raise
                self._coordinator.trouble.tell("snapshot", f"{what}: {error}")
                await asyncio.sleep(RETRY_S)

    def _spare(self, ended: Round | None) -> tuple[int, int]:
        """How many of the files that are no longer needed the next round can use, and their size: as many as this one had
        deltas, and one for the snapshot."""
        given = ended.contributions.values() if ended is not None else ()
        deltas = sum(isinstance(contribution, Delta) for contribution in given)
        more = deltas and self._coordinator.state.phase is not Phase.FINISHED
        return deltas + 1 if more else 0, self._replica.weights.nbytes

    async def _record(self, command: cmd.Command) -> None:
        """The replica is at the new version already, so there is no way back: try until the disk takes it."""
        while True:
            try:
                await self._coordinator.handle(command)
                return
            except Unavailable:
                await asyncio.sleep(RETRY_S)

    async def _off_loop(self, job: Callable[..., _T], *arguments: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, job, *arguments)
