"""The rate at which gRPC streams chunks when nothing is done with them: what bulk transfers are measured beside.

A server in a process of its own sends and takes the same bytes again and again: no disk, no digest, no message but bytes,
gRPC as it comes. Chunks are as long as the coordinator and the clients make them.
"""

import asyncio
import multiprocessing
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self

import grpc

from benchmarks.fleet import CHUNK_BYTES, OPTIONS
from zowarmup.server.rpc.transfers import CHUNK_BYTES as SERVED_BYTES

DOWN, UP = "/raw/Down", "/raw/Up"


class Raw:
    """The server, and clients in this process, each with a channel of its own. Within its context."""

    def __init__(self, size_bytes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._told, self._size = context.Queue(), size_bytes
        self._process = context.Process(target=_serve, args=(size_bytes, self._told), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        self._address = f"127.0.0.1:{self._told.get(timeout=60)}"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()

    def exchange(self, clients: int) -> float:
        """Seconds until each of so many clients, all at once, has got all the bytes and then sent as many."""
        return asyncio.run(self._exchange(clients))

    async def _exchange(self, clients: int) -> float:
        channels = [grpc.aio.insecure_channel(self._address, options=OPTIONS) for _ in range(clients)]
        await asyncio.gather(*(channel.channel_ready() for channel in channels))
        start = time.perf_counter()
        await asyncio.gather(*map(self._one, channels))
        seconds = time.perf_counter() - start
        await asyncio.gather(*(channel.close(None) for channel in channels))
        return seconds

    async def _one(self, channel: Any) -> None:
        received = 0
        async for data in channel.unary_stream(DOWN)(b""):
            received += len(data)
        sent = await channel.stream_unary(UP)(_chunks(self._size, CHUNK_BYTES))
        if (received, int(sent)) != (self._size, self._size):
            raise RuntimeError(f"{received} bytes came and {int(sent)} arrived of {self._size}")


def _chunks(size: int, chunk_bytes: int) -> Iterator[bytes]:
    data = bytes(chunk_bytes)
    for start in range(0, size, chunk_bytes):
        yield data[: size - start]


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    def __init__(self, size: int) -> None:
        self._size = size

    def service(self, details: Any) -> Any:
        if details.method == DOWN:
            return grpc.unary_stream_rpc_method_handler(self._down)
        return grpc.stream_unary_rpc_method_handler(self._up)

    async def _down(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for chunk in _chunks(self._size, SERVED_BYTES):
            yield chunk

    async def _up(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        received = 0
        async for chunk in requests:
            received += len(chunk)
        return b"%d" % received


def _serve(size: int, told: Any) -> None:
    async def run() -> None:
        server = grpc.aio.server(options=(*OPTIONS, ("grpc.so_reuseport", 0)))
        server.add_generic_rpc_handlers((_Handlers(size),))
        told.put(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        await server.wait_for_termination()

    asyncio.run(run())
