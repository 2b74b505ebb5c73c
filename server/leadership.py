"""What a coordinator does only while it leads: it aggregates and evaluates, lets time pass, and tells trackers.

Where one coordinator serves a run by itself it leads from its start to its end. Where several do, one takes this up when the lease
becomes its own.
"""

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from typing import Any

from zowarmup.common.exact.replica import Replica
from zowarmup.server.aggregation.evaluation import Evaluator
from zowarmup.server.aggregation.round_jobs import RETRY_S, RoundJobs
from zowarmup.server.coordinator import Coordinator, Unavailable
from zowarmup.server.core import commands as cmd
from zowarmup.server.projections.history import History
from zowarmup.server.projections.traffic import Traffic
from zowarmup.server.shutdown import TICK_S
from zowarmup.server.store.archive import restore
from zowarmup.server.store.blobs import BlobStore, DiskRefused
from zowarmup.server.store.uploads import UploadStore
from zowarmup.server.telemetry.round_traces import RoundTraces
from zowarmup.server.tracking.delivery import RunTracking, Tracker

LAST_S = 0.3
"""How long trackers are told at the end what they have not been told yet."""


class Leadership:
    """Of one coordinator, from `begin` on.

    Args:
        coordinator: Decides already.
        history: Of its events.
        uploads: Which it may drop.
        evaluator: Of its versions.
        traffic: Saved with each commit.
        traces: Of its rounds; None without.
        trackers: Are told of the run.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        history: History,
        uploads: UploadStore,
        evaluator: Evaluator,
        traffic: Traffic,
        traces: RoundTraces | None = None,
        trackers: Sequence[Tracker] = (),
    ) -> None:
        self._coordinator, self._history, self._uploads = coordinator, history, uploads
        self._evaluator, self._traffic, self._traces, self._trackers = evaluator, traffic, traces, trackers
        self._tracking: RunTracking | None = None

    async def begin(self, blobs: BlobStore, replica: Replica | None = None) -> list[Coroutine[Any, Any, None]]:
        """Take the run up where it is.

        Args:
            blobs: Which it may delete.
            replica: At the state's version, where nobody has been let in yet; None: it is made here, of a snapshot and the steps since,
                while clients are answered, and an open round has been given its time again.

        Returns:
            What runs from now on, until cancelled.
        """
        coordinator, history, traffic = self._coordinator, self._history, self._traffic
        alone = replica is not None
        while replica is None:
            state = coordinator.state
            try:
                replica = await asyncio.to_thread(restore, state, history, blobs, state.version)
            except DiskRefused as error:
                coordinator.trouble.tell("snapshot", f"the snapshot of version {state.snapshot.version}: {error}")
                await asyncio.sleep(RETRY_S)
        coordinator.trouble.clear("snapshot")
        round_jobs = RoundJobs(
            coordinator,
            blobs,
            self._uploads,
            replica,
            self._evaluator,
            history,
            lambda: traffic.since(history.traffic.latest),
        )
        if self._traces is not None:
            round_jobs.part = self._traces.part
        self._tracking = RunTracking(self._trackers, coordinator.state, history)
        coordinator.observe(round_jobs)
        coordinator.observe(self._tracking)
        if alone:
            await coordinator.handle(cmd.Restart())
        round_jobs.resume(sweeps=alone)
        return [*([] if alone else [round_jobs.sweep()]), round_jobs.run(), _tick(coordinator)]

    @property
    def pending(self) -> bool:
        """Whether trackers are still being told of the run."""
        return self._tracking is not None and self._tracking.pending

    async def end(self) -> None:
        """Tell trackers what they have not been told, for a moment."""
        if self._tracking is not None:
            await asyncio.to_thread(self._tracking.close, LAST_S)


async def _tick(coordinator: Coordinator) -> None:
    while True:
        with contextlib.suppress(Unavailable):
            await coordinator.handle(cmd.Tick())
        await asyncio.sleep(TICK_S)
