"""A stranger who floods: `python -m tests.faults.flood HOST:PORT --connections 5000 --calls 10000`.

Connections that say nothing or half of something stay open until the coordinator cuts them off; calls of every kind come on
some connections of their own. On loopback only. What it met is printed as one line of JSON; it ends when all calls have been
answered, and all connections made, or after `--seconds`.
"""

import argparse
import asyncio
import collections
import contextlib
import json
import random
import resource
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc

SERVICE = "/zowarmup.v1.CoordinatorService"
METHODS = (
    *(
        f"{SERVICE}/{name}"
        for name in ("GetRun", "Enrol", "Participate", "FetchSnapshot", "FetchArtifact", "GetUpload")
    ),
    *(f"{SERVICE}/{name}" for name in ("UploadDelta", "MeasureLink", "Nothing")),
    *(f"/zowarmup.v1.OperatorService/{name}" for name in ("GetStatus", "ListVersions", "ListClients", "Stop")),
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)
OPENINGS = (
    b"",
    b"\x16\x03\x01\x02\x00\x01\x00",  # the beginning of a TLS handshake
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9 * 3),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    b"GET /metrics HTTP/1.1\r\n",
)
CONNECTING = 50
CHANNELS, CALLS_AT_ONCE = 20, 500
CALL_S = 20.0


class Flood:
    def __init__(self, address: str, source: str, seed: int) -> None:
        host, _, port = address.rpartition(":")
        self._to, self._source = (host, int(port)), source
        self._chance, self._held = random.Random(seed), list[socket.socket]()
        self.met: collections.Counter[str] = collections.Counter()

    async def connect(self, count: int) -> None:
        """Open connections, some at a time, and hold them."""
        ahead = asyncio.Semaphore(CONNECTING)
        await asyncio.gather(*(self._one(ahead, OPENINGS[number % len(OPENINGS)]) for number in range(count)))

    async def _one(self, ahead: asyncio.Semaphore, opening: bytes) -> None:
        async with ahead:
            one = socket.socket()
            self._held.append(one)
            one.setblocking(False)
            try:
                one.bind((self._source, 0))
                async with asyncio.timeout(5):
                    await asyncio.get_running_loop().sock_connect(one, self._to)
                one.send(opening)
                self.met["connected"] += 1
            except (OSError, TimeoutError):
                self.met["not connected"] += 1

    async def come_again(self, count: int) -> None:
        """Keep so many connections open, whatever the coordinator does, until cancelled."""
        while True:
            gone = [one for one in self._held if self._ended(one)]
            for one in gone:
                one.close()
                self._held.remove(one)
            await self.connect(min(CONNECTING, count - len(self._held)))
            await asyncio.sleep(0 if len(self._held) < count else 0.05)

    def cut_off(self) -> int:
        """How many of the connections the coordinator has ended."""
        return sum(map(self._ended, self._held))

    def _ended(self, one: socket.socket) -> bool:
        try:
            while one.recv(1 << 16):
                pass
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    async def call(self, count: int) -> None:
        """Call whatever there is, with garbage, nothing, too much or an empty message, again and again."""
        numbers = iter(range(count))
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        address = f"{self._to[0]}:{self._to[1]}"
        channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(CHANNELS)]
        try:
            await asyncio.gather(
                *(self._calls(numbers, channels[number % CHANNELS]) for number in range(CALLS_AT_ONCE))
            )
        finally:
            await asyncio.gather(*(channel.close(None) for channel in channels))

    async def _calls(self, numbers: Iterator[int], channel: grpc.aio.Channel) -> None:
        for _ in numbers:
            messages = self._chance.choice(([b""], [self._chance.randbytes(50)], [b"\xff" * 90_000], []))
            silent = not messages
            call: Any = channel.stream_stream(self._chance.choice(METHODS), bytes, bytes)(
                self._say(messages, silent), timeout=CALL_S
            )
            try:
                async for _ in call:
                    pass
                self.met["OK"] += 1
            except grpc.aio.AioRpcError as error:
                self.met[error.code().name] += 1
            except (asyncio.CancelledError, asyncio.InvalidStateError):
                self.met["ended"] += 1

    async def _say(self, messages: list[bytes], silent: bool) -> AsyncIterator[bytes]:
        for message in messages:
            yield message
        if silent:  # the call stays open, and nothing comes
            await asyncio.sleep(CALL_S)


async def flood(
    address: str, connections: int, calls: int, seconds: float, source: str, again: bool, seed: int
) -> dict[str, Any]:
    """What it met."""
    began, storm = time.monotonic(), Flood(address, source, seed)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.gather(
                storm.come_again(connections) if again else storm.connect(connections), storm.call(calls)
            )
    return {**storm.met, "cut off": storm.cut_off(), "seconds": round(time.monotonic() - began, 1)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("--connections", type=int, default=5000)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--source", default="127.0.0.1", help="the loopback address that connections come from")
    parser.add_argument("--again", action="store_true", help="open anew what is cut off, until the time is over")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    met = asyncio.run(
        flood(
            arguments.address,
            arguments.connections,
            arguments.calls,
            arguments.seconds,
            arguments.source,
            arguments.again,
            arguments.seed,
        )
    )
    print(json.dumps(met))
    return 0


if __name__ == "__main__":
    sys.exit(main())
