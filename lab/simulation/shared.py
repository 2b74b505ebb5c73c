"""The state that the clients of a process share: gRPC channels, and one replica.

A coordinator that was gone is asked for by each channel, not by each client: gRPC tries, ever more rarely, and when it
answers, the clients come back one after the other. Where there are several, channels are spread over them, and each goes to
another when its own does not answer.

The first client to receive a commit applies it, for all; for every other one its digest is compared with what the
replica had at that version. A client's own position is what it has received itself, so it says hello, catches up and
reports as if it had a replica to itself. Everything that changes the replica runs in the one thread that computes.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import grpc
import numpy as np
from numpy.typing import NDArray

from zowarmup.client.errors import Declined
from zowarmup.client.net.choice import Backoff
from zowarmup.client.net.connection import WITHOUT_PROBES, Connection, channel
from zowarmup.client.net.contact import Contact
from zowarmup.client.net.coordinators import CoordinatorPlace, Coordinators
from zowarmup.client.net.retrying import Missing
from zowarmup.client.net.stream import Meter, Reader
from zowarmup.client.net.tls import Trust
from zowarmup.client.net.transfer import Transfers
from zowarmup.client.store.replica import LocalReplica, Position, SnapshotHeader
from zowarmup.client.work.executor import Executor
from zowarmup.common.exact.layout import Layout
from zowarmup.common.exact.replica import Commit, Diverged, Replica

log = logging.getLogger(__name__)
CLIENTS_A_LINE = 250
# How many clients a second come back when the coordinator answers again.
RETURNS_PER_S = 500.0
LEAVE_S = 10.0
"""What is under way on a channel that is left, and has not been seen to break, may take so long."""
_PATIENCE = (
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 2000),
    ("grpc.max_reconnect_backoff_ms", 10000),
    WITHOUT_PROBES,
    ("grpc.http2.lookahead_bytes", 1048576),
    ("grpc.http2.max_frame_size", 1048576),
    ("grpc.experimental.tcp_max_read_chunk_size", 65536),
)


class SharedChannel:
    """One connection for `clients`, made anew whenever it breaks, to another coordinator where there are several. In an event
    loop."""

    def __init__(self, coordinators: Coordinators, clients: int) -> None:
        self.coordinators, self._clients = coordinators, clients
        self.channel = self._dialled()
        self._connecting: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def up(self) -> None:
        """Wait until the coordinator answers; after a wait, a moment longer, each client another."""
        if self.channel.get_state(True) is not grpc.ChannelConnectivity.READY:
            await self.connected()
            await asyncio.sleep(random.uniform(0, self._clients / RETURNS_PER_S))

    async def connected(self) -> None:
        """Wait until a coordinator answers."""
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._connect())
        await asyncio.shield(self._connecting)

    async def _connect(self) -> None:
        coordinators, missing = self.coordinators, Missing()
        while (state := self.channel.get_state(True)) is not grpc.ChannelConnectivity.READY:
            if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                place, reason = coordinators.place, "it does not answer"
                delay_s = await coordinators.broke(place)
                if coordinators.exhausted:  # there is time to look
                    reason = await coordinators.why(place, reason)
                if missing.worth_saying(reason, time.monotonic()):
                    log.warning("no answer from %s (%s)", place, reason)
                if coordinators.place != place:
                    await asyncio.sleep(delay_s)
                    self._closing.add(asyncio.create_task(self.channel.close(LEAVE_S)))
                    self.channel = self._dialled()
                    continue
            await self.channel.wait_for_state_change(state)
        coordinators.works()

    def _dialled(self) -> grpc.aio.Channel:
        place = self.coordinators.place
        return channel(place.address, self.coordinators.trust, *_PATIENCE, dialled=place.dialled)

    async def close(self) -> None:
        for task in filter(None, (self._connecting, *self._closing)):
            task.cancel()
        await self.channel.close(None)


class ThroughLine(Coordinators):
    """The coordinators as one of a line's clients has them: the line goes to another, and the client with it."""

    def __init__(self, line: SharedChannel) -> None:  # nothing of what the line has: there are thousands
        self._of_line, self._backoff = line.coordinators, Backoff()

    @property
    def place(self) -> CoordinatorPlace:
        return self._of_line.place

    @property
    def exhausted(self) -> bool:
        return True

    def works(self) -> None:
        self._backoff.reset()

    def hears(self) -> None:
        self._backoff.reset()

    def back_off(self) -> float:
        return self._backoff.next_s()

    async def broke(self, place: CoordinatorPlace, stopping: bool = False) -> float:
        return self._backoff.next_s()

    async def contact(self, place: CoordinatorPlace) -> Contact:
        return await self._of_line.contact(place)

    async def why(self, place: CoordinatorPlace, otherwise: str) -> str:
        return await self._of_line.why(place, otherwise)


class SharedConnection(Connection):
    """A client's use of a line. `who`: it and its secret; None before it is a member."""

    def __init__(
        self,
        line: SharedChannel,
        who: tuple[str, str] | None = None,
        meter: Meter | None = None,
        reader: Reader | None = None,
    ) -> None:
        super().__init__(str(line.coordinators.place), line.coordinators.trust, who, meter, line.channel, reader)
        self._line, self._member = line, who is not None

    async def __aenter__(self) -> Self:
        await (self._line.up() if self._member else self._line.connected())
        self._use(self._line.channel)  # it may be another now
        return self


async def shared_channels(servers: str, trust: Trust, clients: int, generator: random.Random) -> list[SharedChannel]:
    """The channels for a number of clients, which share them, to all coordinators alike."""
    first, lines = generator.randrange(1 << 16), []
    for number in range(-(-clients // CLIENTS_A_LINE)):
        coordinators = Coordinators(servers, trust, generator)
        await coordinators.find(first + number)
        lines.append(SharedChannel(coordinators, clients))
    return lines


# How many versions' digests are remembered: nobody is so far behind the others.
DIGESTS_KEPT = 100_000


class SharedReplica:
    """`heard`: the newest version that any of the clients has heard of. `generation` changes with every loss or
    replacement of the weights. `fetching` is held by the one client that fetches."""

    def __init__(self, local: LocalReplica) -> None:
        self.local = local
        self.heard = local.position.version
        self.generation = 0
        self.fetching = asyncio.Lock()
        self._digests: dict[int, bytes] = {}
        self._note(local.position)

    def hear(self, version: int) -> None:
        self.heard = max(self.heard, version)

    def apply(self, commits: Sequence[Commit]) -> None:
        here = self.local.position.version
        for commit in commits:
            if commit.version <= here:
                self.check(commit.version, commit.digest)
        if fresh := [commit for commit in commits if commit.version > here]:
            self.local.apply(fresh)
            for commit in fresh:
                self._note(Position(commit.version, commit.digest))

    def check(self, version: int, expected: bytes) -> None:
        """Raises Diverged where the replica had another digest at that version."""
        if (found := self._digests.get(version, expected)) != expected:
            raise Diverged(version, expected, found)

    def load(self, header: SnapshotHeader) -> None:
        """Take a snapshot that was fetched, unless the replica is or was there already."""
        if header.version in self._digests:
            self.check(header.version, header.digest)
            return
        self.generation += 1
        self.local.load(header)
        self._note(self.local.position)

    def header(self, version: int) -> SnapshotHeader | None:
        """Of a version that need not be fetched. Raises Declined where the replica has left it behind."""
        if self.local.held is not None and version in self._digests:
            grid = self.local.held.grid
            size_bytes = self.local.weights.nbytes
            return SnapshotHeader(version, grid.exponent, self._digests[version], size_bytes, grid.ranges)
        if version < self.local.position.version:
            raise Declined(f"snapshot {version} is older than what the others have")
        return None

    def drop(self, generation: int) -> None:
        """Forget the replica, unless it has been replaced since `generation`."""
        if generation == self.generation:
            self.generation += 1
            self._digests.clear()
            self.local.drop()
            self.heard = 0

    def _note(self, position: Position) -> None:
        if position.digest:
            self.hear(position.version)
            self._digests[position.version] = position.digest
            if len(self._digests) > DIGESTS_KEPT:
                del self._digests[next(iter(self._digests))]


class View:
    """The shared replica as one client's own."""

    def __init__(self, shared: SharedReplica) -> None:
        self._shared = shared
        self.greet()

    def greet(self) -> None:
        """Take the shared replica's position: what a Hello says is held, is held."""
        self.position, self._generation = self._shared.local.position, self._shared.generation

    @property
    def layout(self) -> Layout:
        return self._shared.local.layout

    @property
    def weights(self) -> NDArray[np.float32]:
        return self._shared.local.weights

    @property
    def held(self) -> Replica | None:
        return self._shared.local.held

    def overtaken(self, version: int) -> bool:
        return self._shared.heard > version

    def incoming(self, version: int) -> Path:
        return Path()  # the one who fetches for all says where to

    def load(self, header: SnapshotHeader) -> None:
        self._shared.load(header)
        self.position, self._generation = Position(header.version, header.digest), self._shared.generation

    def apply(self, commits: Sequence[Commit]) -> None:
        self._shared.apply(commits)
        self.position = Position(commits[-1].version, commits[-1].digest)

    def intact(self) -> bool:
        return self._shared.local.intact()

    def drop(self) -> None:
        self._shared.drop(self._generation)
        self.position = Position()


class SharedTransfers(Transfers):
    """One client's transfers, where what another has fetched is not fetched again: `meter` is charged for it all the
    same. A snapshot is loaded by the client that fetched it, before anyone else may fetch."""

    def __init__(
        self, connect: Callable[[], Connection], shared: SharedReplica, meter: Meter, own_executor: Executor
    ) -> None:
        super().__init__(connect)
        self._shared, self._meter, self._own_executor = shared, meter, own_executor

    async def snapshot(self, version: int, size: int, part: Path) -> tuple[SnapshotHeader, int]:
        shared = self._shared
        async with shared.fetching:
            if (known := shared.header(version)) is not None:
                self._meter.down_bytes += known.size_bytes
                return known, 0
            header, received = await super().snapshot(version, size, shared.local.incoming(version))
            await self._own_executor.compute(shared.load, header)
            return header, received
