"""The state that the clients of a process share: gRPC channels, and one replica.

A coordinator that was gone is asked for by each channel, not by each client: gRPC tries, ever more rarely, and when it
answers, the clients come back one after the other.

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
from zowarmup.client.net.connection import WITHOUT_PROBES, Connection, channel
from zowarmup.client.net.retrying import Lookout, Missing
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
    """One connection for `clients`, made anew whenever it breaks."""

    def __init__(self, address: str, trust: Trust, clients: int, lookout: Lookout) -> None:
        self.channel = channel(address, trust, *_PATIENCE)
        self._address, self._lookout = address, lookout
        self._clients = clients
        self._connecting: asyncio.Task[None] | None = None

    async def up(self) -> None:
        """Wait until the coordinator answers; after a wait, a moment longer, each client another."""
        if self.channel.get_state(True) is grpc.ChannelConnectivity.READY:
            return
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._connect())
        await asyncio.shield(self._connecting)
        await asyncio.sleep(random.uniform(0, self._clients / RETURNS_PER_S))

    async def _connect(self) -> None:
        missing = Missing()
        while (state := self.channel.get_state(True)) is not grpc.ChannelConnectivity.READY:
            if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                reason = await self._lookout.why("it does not answer")
                if missing.worth_saying(reason, time.monotonic()):
                    log.warning("no answer from %s (%s)", self._address, reason)
            await self.channel.wait_for_state_change(state)

    async def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        await self.channel.close(None)


class SharedConnection(Connection):
    """A client's use of a line."""

    def __init__(
        self, address: str, trust: Trust, line: SharedChannel, who: tuple[str, str], meter: Meter, reader: Reader
    ) -> None:
        super().__init__(address, trust, who, meter, line.channel, reader)
        self._line = line

    async def __aenter__(self) -> Self:
        await self._line.up()
        return self


def shared_channels(address: str, trust: Trust, clients: int, lookout: Lookout) -> list[SharedChannel]:
    """The channels for a number of clients, which share them."""
    count = -(-clients // CLIENTS_A_LINE)
    return [SharedChannel(address, trust, clients, lookout) for _ in range(count)]


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
