"""A bad network: a TCP proxy on loopback that a test makes slow, dead or cruel while bytes pass through it.

`Link` is what the test turns: delay, rate, a black hole (connections stay open and nothing arrives any more), a cut
(every connection ends and new ones are refused), a reset after so many bytes in the middle of whatever is being sent,
and somebody who reads along and changes what passes.
It runs in a thread of its own, so that tests may block, and counts every byte in both directions.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Self

PIECE = 16384
# Small buffers, so that what has been read here is not far ahead of what has arrived there.
BUFFER_BYTES = 65536


class Link:
    """Listens on 127.0.0.1:`port` and passes on to `target`. Every setting may be changed at any time."""

    def __init__(self, target: str, port: int = 0) -> None:
        host, _, number = target.rpartition(":")
        self._target = (host, int(number))
        self.delay_s = 0.0
        self.bytes_per_second = 0.0
        self.bytes_up = self.bytes_down = self.connections = self.resets = 0
        self.passing: Callable[[bytes, bool], bytes] = lambda piece, up: piece
        self._hole = self._cut = False
        self._reset_in = -1
        self._reset_each = 0
        self._pairs: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="link", daemon=True)
        self._thread.start()
        self._server = self._do(self._listen(port))
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def black_hole(self, on: bool = True) -> None:
        """Swallow everything; connections stay open, and new ones are accepted and lead nowhere."""
        self._hole = on

    def cut(self) -> None:
        """End every connection at once and refuse new ones until `mend`."""
        self._cut = True
        self._do(self._drop())

    def drop(self) -> None:
        """End every connection at once; new ones pass."""
        self._do(self._drop())

    def mend(self) -> None:
        """Everything passes again. Connections that fell into the black hole are gone."""
        if self._hole:
            self._do(self._drop())
        self._cut = self._hole = False

    def reset_after(self, upward_bytes: int, again: bool = False) -> None:
        """Reset (RST) the connection that carries the so-manieth byte upwards from now on, in the middle of it; and
        again after as many more."""
        self._reset_in, self._reset_each = upward_bytes, upward_bytes if again else 0

    async def _listen(self, port: int) -> asyncio.Server:
        return await asyncio.start_server(self._accept, "127.0.0.1", port, limit=BUFFER_BYTES)

    async def _close(self) -> None:
        self._server.close()
        await self._drop()

    async def _drop(self) -> None:
        for writer in list(self._writers):
            _reset(writer)
        pairs = list(self._pairs)
        for pair in pairs:
            pair.cancel()
        await asyncio.gather(*pairs, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pairs.add(task)
        self.connections += 1
        ends, ways = [writer], list[asyncio.Task[None]]()
        self._writers.add(writer)
        try:
            if self._cut:
                return
            far_reader, far_writer = await asyncio.open_connection(*self._target, limit=BUFFER_BYTES)
            ends.append(far_writer)
            self._writers.add(far_writer)
            for end in ends:
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
                end.transport.set_write_buffer_limits(BUFFER_BYTES)
            for way in (self._pass(reader, far_writer, True), self._pass(far_reader, writer, False)):
                ways.append(asyncio.create_task(way))
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass  # nobody listens there: this end closes too
        except asyncio.CancelledError:
            if not self._cut and not self._hole and self._server.is_serving():
                raise
        finally:
            self._pairs.discard(task)
            for end in ends:
                self._writers.discard(end)
                _reset(end)
            for passing in ways:
                passing.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, up: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(PIECE):
                while self._hole:  # until `mend` drops this connection
                    await asyncio.sleep(0.05)
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if self.bytes_per_second:
                    await asyncio.sleep(len(piece) / self.bytes_per_second)
                if up and self._reset_in >= 0:
                    self._reset_in -= len(piece)
                    if self._reset_in < 0:
                        self._reset_in = self._reset_each or -1
                        self.resets += 1
                        half = piece[: len(piece) // 2]
                        self.bytes_up += len(half)
                        writer.write(half)
                        return
                if up:
                    self.bytes_up += len(piece)
                else:
                    self.bytes_down += len(piece)
                writer.write(self.passing(piece, up))
                await writer.drain()

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


@contextlib.contextmanager
def answer_lost(link: Link) -> Iterator[None]:
    """The next that comes down is swallowed, and every connection is gone then; new ones are served."""
    swallowed = threading.Event()

    def swallow(piece: bytes, up: bool) -> bytes:
        if up or swallowed.is_set():
            return piece
        swallowed.set()
        return b""

    def drop() -> None:
        swallowed.wait(60)
        link.drop()

    link.passing = swallow
    dropping = threading.Thread(target=drop)
    dropping.start()
    try:
        yield
    finally:
        swallowed.set()
        dropping.join()
        link.passing = lambda piece, up: piece


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST, as a router that has lost its memory would."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
