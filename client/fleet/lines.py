"""Some connections to the coordinator for all clients of a process.

A coordinator that was gone is asked for by each connection, not by each client: gRPC tries, ever more rarely, and when
it answers, the clients come back one after the other.
"""

import asyncio
import logging
import random
import time
from typing import Self

import grpc

from zowarmup.client.lookout import Lookout
from zowarmup.client.presence import Missing
from zowarmup.client.session import WITHOUT_PROBES, Connection, channel
from zowarmup.client.stream import Meter, Reader
from zowarmup.client.trust import Trust

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


class Line:
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
        self, address: str, trust: Trust, line: Line, who: tuple[str, str], meter: Meter, reader: Reader
    ) -> None:
        super().__init__(address, trust, who, meter, line.channel, reader)
        self._line = line

    async def __aenter__(self) -> Self:
        await self._line.up()
        return self


def lines(address: str, trust: Trust, clients: int, lookout: Lookout) -> list[Line]:
    """As many as so many clients share."""
    count = -(-clients // CLIENTS_A_LINE)
    return [Line(address, trust, clients, lookout) for _ in range(count)]
