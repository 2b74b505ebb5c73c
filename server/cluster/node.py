"""One node of a cluster, a coordinator among those of a run: what it follows the leader with, and what it leads with.

One object a life: a coordinator that has lost the lease begins another.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zowarmup.server.cluster.election import Election
from zowarmup.server.cluster.front_end import FrontEnd
from zowarmup.server.cluster.service import ClusterService, RelayInterceptor, RemoteLeader
from zowarmup.server.cluster.sessions import Sessions
from zowarmup.server.cluster.uploads import SharedUploadsSweeper
from zowarmup.server.core import events as ev
from zowarmup.server.core.state import State
from zowarmup.server.projections.traffic import Traffic
from zowarmup.server.store.blobs import BlobStore, SharedBlobs
from zowarmup.server.store.cached_blobs import CachedBlobs
from zowarmup.server.store.event_log import LedgerError, SharedLog
from zowarmup.server.store.housekeeping import Housekeeping
from zowarmup.server.store.lease import Held, Holder, Lease

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SharedStore:
    """What the coordinators of one run share, as one of them sees it.

    Attributes:
        log: Of the run's events.
        blobs: Snapshots, the program and artifacts, of which it has those as files that it uses.
        uploads: Of clients, as this one receives and reads them.
        received: Those of all coordinators.
        lease: Whoever holds it leads.
        close: Gives back connections.
    """

    log: SharedLog
    blobs: CachedBlobs
    uploads: BlobStore
    received: SharedBlobs
    lease: Lease
    close: Callable[[], None] = lambda: None


class Node:
    """See the module.

    Args:
        store: The shared one.
        holder: This coordinator.
        lasts_s: How long a lease lasts, seconds.
        relay: Of the coordinator's server.
        shown: As `RemoteLeader` has it, at the moment.
    """

    def __init__(
        self,
        store: SharedStore,
        holder: Holder,
        lasts_s: float,
        relay: RelayInterceptor,
        shown: Callable[[], tuple[bytes, bytes] | None] = lambda: None,
    ) -> None:
        self.store, self.relay, self._shown = store, relay, shown
        self.service = ClusterService(holder.secret)
        self.election = Election(store.lease, holder, lasts_s, self._turn_to)
        self._front_end: FrontEnd | None = None
        self._sweeper: SharedUploadsSweeper | None = None
        self._held: Held | None = None
        self.changes = 0
        self._remote: RemoteLeader | None = None
        self._following: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._housekeeping = Housekeeping()
        self.relay.follows = True

    @property
    def epoch(self) -> int:
        """Of the lease, as known here; 0 where nobody has held it."""
        return self.election.epoch or (self._held.epoch if self._held else 0)

    @property
    def front_ends(self) -> Mapping[str, int]:
        """How many streams each front end of this one holds; empty where it does not lead."""
        return self.service.sessions.front_ends if self.service.sessions else {}

    @property
    def leader(self) -> str:
        """Who leads, for people."""
        if self.election.epoch:
            return "this coordinator"
        return f"{self._held.holder.name} at {self._held.holder.address}" if self._held else "nobody at the moment"

    def follow(self, front_end: FrontEnd) -> "asyncio.Task[None]":
        """Let a front end follow whoever leads. The task ends when it leads itself."""
        self._front_end = front_end
        front_end.observe(self._let_go)
        front_end.turn_to(self._remote, self._held.epoch if self._held else 0)
        self._following = asyncio.create_task(front_end.follow())
        return self._following

    async def lead(self, traffic: Traffic, superseded: Callable[[str, int], None]) -> Coroutine[Any, Any, None]:
        """Lead from now on, in the epoch of the lease that this coordinator has taken.

        Args:
            traffic: Is given what front ends have carried.
            superseded: As `Sessions` has it.

        Returns:
            What watches over front ends until it is cancelled.

        Raises:
            Fenced: The lease is another's already.
        """
        front_end, following, epoch = self._front_end, self._following, self.election.epoch
        assert front_end is not None and following is not None and epoch
        self.changes += 1
        self._turn_to(None)
        await front_end.lead(self.store.log.leading(epoch), following)
        sessions = Sessions(front_end, epoch, traffic.include, superseded)
        front_end.observe(sessions)
        self._sweeper = SharedUploadsSweeper(self.store.received.leading(epoch))
        front_end.observe(self._sweeper)
        self.service.sessions = sessions
        self.relay.follows = False
        return sessions.watch()

    def renew(self) -> None:
        """There is another certificate: call the leader anew, and show it that."""
        if self._held is not None:
            self._turn_to(self._held)

    async def deposed(self) -> bool:
        """Whether this coordinator has led and another has the lease by now, as far as the store says."""
        epoch = self.election.epoch
        try:
            held = await asyncio.to_thread(self.store.lease.look) if epoch else None
        except LedgerError:
            return False
        return held is not None and held.epoch != epoch

    async def leave(self) -> None:
        """Let go of everything; the lease is another's at once."""
        self.service.sessions = None
        await self.election.leave()
        self._turn_to(None)
        if self._front_end is not None:
            self._front_end.close()
        if self._sweeper is not None:
            self._sweeper.close()
        if self._closing:
            await asyncio.wait(self._closing)
        await asyncio.to_thread(self.store.close)

    def _let_go(self, now: float, events: Sequence[ev.Event], state: State) -> None:
        """Observe: files of snapshots that the leader has let go of."""
        if not self.election.epoch and any(isinstance(event, ev.SnapshotsPruned) for event in events):
            named = {*state.program.blobs, *state.snapshot_blobs}
            asyncio.get_running_loop().run_in_executor(None, self._retain, named)

    def _retain(self, named: set[str]) -> None:
        with self._housekeeping.attempt("remove copies of old snapshots"):
            self.store.blobs.retain(named)

    def _turn_to(self, held: Held | None) -> None:
        if self._remote is not None:
            task = asyncio.create_task(self._remote.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        self._held, self._remote = held, RemoteLeader(held.holder, self._shown()) if held else None
        self.relay.leader = (self._remote.channel, held.holder.secret) if held and self._remote else None
        if held is not None:
            self.changes += 1
            log.info("coordinator %s at %s leads (epoch %d)", held.holder.name, held.holder.address, held.epoch)
        if self._front_end is not None:
            self._front_end.turn_to(self._remote, held.epoch if held else 0)
