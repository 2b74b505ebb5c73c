"""Jobs between a round's end and the next version, in a thread of their own: aggregation, snapshots, evaluation,
pruning.

A closed round becomes a job: aggregate its contributions (sorted by client, so that nothing depends on the order of
arrival) into the next version of the coordinator's replica, write what must outlive a crash, and hand the result back
as a command. The same inputs give the same bits, so a job that a crash cut off is simply done again. Contributions
that no version follows from (a model that diverges) abandon the round, and the replica stays as it was. Snapshots,
pruning, evaluation and the way back from a version that is no good are jobs of the same queue: the replica is only ever
touched here, and an evaluation is on record before the next version is. A disk that refuses is tried
again until it takes what must be written; the coordinator says meanwhile what it waits for.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from zowarmup.common.exact.replica import Replica
from zowarmup.common.messages.values import Phase
from zowarmup.server.aggregation.aggregator import Aggregator, go_back
from zowarmup.server.aggregation.evaluation import Evaluator, measured
from zowarmup.server.coordinator import Coordinator, Unavailable
from zowarmup.server.core import commands as cmd
from zowarmup.server.core import events as ev
from zowarmup.server.core.decide import awaits_evaluation
from zowarmup.server.core.state import Round, State
from zowarmup.server.projections.history import History
from zowarmup.server.store.blobs import BlobError, BlobStore, DiskRefused
from zowarmup.server.store.housekeeping import Housekeeping, passes
from zowarmup.server.store.uploads import UploadStore

log = logging.getLogger(__name__)
_T = TypeVar("_T")

# What a restart may have to replay: some 2 s on one core of a server (0.15 ns a sign was measured).
REPLAY_SIGNS = 15_000_000_000
RETRY_S = 1.0
# After these there may be something to evaluate, or to write.
HOUSEKEEPING = ev.Pivoted | ev.RunFinished | ev.RunGaveUp | ev.PivotRequested | ev.StopRequested


class RoundJobs:
    """Jobs for one coordinator. `traffic` gives the counts to save with a commit; `retry_s`: a disk that refuses is tried
    again so often; `replay_signs`: a snapshot is due where a restart had to replay so many. `part`: what is entered for as long as a named
    part of a round takes ("aggregate", "commit", "evaluate"), for traces."""

    def __init__(
        self,
        coordinator: Coordinator,
        blobs: BlobStore,
        uploads: UploadStore,
        replica: Replica,
        evaluator: Evaluator,
        history: History,
        traffic: Callable[[], tuple[ev.TrafficCount, ...]],
        *,
        retry_s: float = RETRY_S,
        replay_signs: int = REPLAY_SIGNS,
    ) -> None:
        self.part: Callable[[str, int], AbstractContextManager[None]] = lambda name, round: nullcontext()
        self._round = 0
        self._coordinator, self._blobs, self._uploads, self._replica = coordinator, blobs, uploads, replica
        self._evaluator, self._history, self._traffic = evaluator, history, traffic
        self._retry_s, self._replay_signs = retry_s, replay_signs
        self._jobs: asyncio.Queue[Round | None] = asyncio.Queue()
        self._aggregator = Aggregator(replica, blobs, uploads)
        self._housekeeping = Housekeeping()
        self._held: set[str] = set()  # blobs of snapshots that there have been, as far as they are still there
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="round-jobs")

    def __call__(self, now: float, events: Sequence[ev.Event], state: State) -> None:
        """Observe: every round that ends is a job, and so is the model's state whenever it may need housekeeping."""
        if any(isinstance(event, ev.RoundClosed) for event in events):
            self._jobs.put_nowait(state.current)
        elif any(isinstance(event, ev.RoundAbandoned) for event in events):
            # One that had been closed is at work already.
            self._jobs.put_nowait(state.previous if state.previous and not state.previous.closed else None)
        elif any(isinstance(event, HOUSEKEEPING) for event in events):
            self._jobs.put_nowait(None)

    def resume(self, sweeps: bool = True) -> None:
        """After a restart, before anyone is let in: what the crash left half done on disk goes, and a round that was
        closed and not committed is aggregated again. `sweeps`: else blobs are left to `sweep`."""
        state = self._coordinator.state
        current = state.current
        self._held |= state.snapshot_blobs
        with self._housekeeping.attempt("remove what an earlier stop left half done"):
            if swept := (self._blobs.sweep(_named(state)) if sweeps else 0) + self._uploads.resume(state):
                log.info("%d files that an earlier stop had left half done are removed", swept)
        # An evaluation that the crash cut off comes before the version that follows: `plateau` and `guard` count on that.
        self._jobs.put_nowait(None)
        if current is not None and current.closed:
            self._jobs.put_nowait(current)

    async def sweep(self) -> None:
        """Let the blobs go that an earlier leader has left half done, as a job: in a database that may take long."""
        with self._housekeeping.attempt("remove what an earlier leader left half done"):
            if swept := await self._off_loop(self._blobs.sweep, _named(self._coordinator.state)):
                log.info("%d blobs that an earlier leader had left half done are removed", swept)

    async def run(self) -> None:
        """Do jobs in order until cancelled."""
        try:
            while True:
                ended = await self._jobs.get()
                if ended is not None and ended.closed and self._is_current(ended):
                    self._round = ended.number
                    with self.part("aggregate", self._round):
                        outcome = await self._outcome(ended)
                    with self.part("commit", self._round):
                        await self._record(outcome)
                await self._keep_house()
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._aggregator.close()

    def _is_current(self, closed: Round) -> bool:
        """Whether a closed round still is to be aggregated: it is abandoned where the version before it is rejected."""
        current = self._coordinator.state.current
        return current is not None and current.number == closed.number

    async def _keep_house(self) -> None:
        state, version = self._coordinator.state, self._replica.version
        settings = state.run_file
        at_turn = version == state.pivot_version or state.phase is Phase.FINISHED
        far = version - state.snapshot.version >= settings.zeroth_order.snapshot_every
        if version not in state.snapshots and (at_turn or far or state.replay_signs >= self._replay_signs):
            await self._record(cmd.RecordSnapshot(await self._snapshot(state.digest)))
        evaluated = state.evaluation and state.evaluation.version == version
        watched = state.phase is Phase.WARM_UP and settings.warmup.pivot == "auto"
        at_turn |= awaits_evaluation(self._coordinator.state)
        if not evaluated and (at_turn or watched or version % settings.evaluation.every == 0):
            with self.part("evaluate", self._round):
                found = await self._off_loop(measured, self._evaluator, self._replica)
                await self._record(cmd.RecordEvaluation(version, *found))
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
                await self._off_loop(self._remove, sha256)
                self._held.discard(sha256)

    def _remove(self, sha256: str) -> None:
        self._blobs.delete(sha256)
        self._blobs.free()

    async def _outcome(self, closed: Round) -> cmd.CommitRound | cmd.AbandonRound:
        try:
            aggregated = await self._until_taken(
                lambda: self._aggregator.aggregate(self._coordinator.state, closed),
                f"the aggregate of round {closed.number}",
            )
        except (ValueError, ArithmeticError, BlobError, OSError) as error:
            return cmd.AbandonRound(closed.number, f"{ev.NOT_AGGREGATED}{error}")
        snapshot = (
            None if aggregated.steps is not None else await self._snapshot(aggregated.digest, aggregated.optimizer)
        )
        return cmd.CommitRound(
            ev.Committed(
                version=self._replica.version,
                round=closed.number,
                digest=aggregated.digest,
                steps=aggregated.steps or (),
                snapshot=snapshot,
                traffic=self._traffic(),
                clipped_scalars=aggregated.aggregate.clipped_scalars,
                clipped_deltas=aggregated.aggregate.clipped_deltas,
                moments=aggregated.aggregate.optimizer_state,
                bounds=aggregated.aggregate.bounds,
            )
        )

    async def _snapshot(self, digest: str, optimizer: str = "") -> ev.Snapshot:
        """The replica, whose digest (hex) is known, on disk, beside the blob of the server optimizer's state. Like `_record`,
        it tries until the disk takes it."""
        replica = self._replica
        weights, what = replica.weights.data.cast("B"), f"the snapshot of version {replica.version}"
        sha256 = await self._until_taken(lambda: self._blobs.put(weights), what)
        snapshot = ev.Snapshot(replica.version, sha256, replica.grid.exponent, digest, optimizer, replica.grid.ranges)
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
                await asyncio.sleep(self._retry_s)

    async def _record(self, command: cmd.Command) -> None:
        """The replica is at the new version already, so there is no way back: try until the disk takes it."""
        while True:
            try:
                await self._coordinator.handle(command)
                return
            except Unavailable:
                await asyncio.sleep(self._retry_s)

    async def _off_loop(self, job: Callable[..., _T], *arguments: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, job, *arguments)


def _named(state: State) -> set[str]:
    """The blobs that the run needs."""
    return {*state.program.blobs, *state.snapshot_blobs}
