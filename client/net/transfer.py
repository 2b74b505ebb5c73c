"""Bulk transfers from and to the coordinator: snapshots, the run's artifacts, deltas.

Each goes over a connection of its own, so that neither holds up the stream, and goes on from where it broke off, on
the device's disk or on the coordinator's, for as long as it takes.
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import BinaryIO

from zowarmup.client.errors import Broken, Declined, Final, Setback
from zowarmup.client.net.choice import Backoff
from zowarmup.client.net.connection import Connection
from zowarmup.client.store.replica import SnapshotHeader
from zowarmup.common.messages.values import Delta
from zowarmup.common.system.files import open_given, settle
from zowarmup.common.text import amount

log = logging.getLogger(__name__)


async def _at_once() -> None:
    """Nothing is waited for."""


class Transfers:
    """`connect` opens a connection as this device, once `ready` is over: where there are several coordinators, transfers follow the
    device's stream to another."""

    def __init__(self, connect: Callable[[], Connection], ready: Callable[[], Awaitable[None]] = _at_once) -> None:
        self._connect, self._ready = connect, ready

    async def snapshot(self, version: int, size: int, part: Path) -> tuple[SnapshotHeader, int]:
        """Gather a version's bytes in `part`; its header and how many bytes came. Raises Declined where the coordinator
        does not have that version (any more), Final where it has another size."""
        header: SnapshotHeader | None = None

        async def pieces(connection: Connection, offset: int) -> AsyncIterator[bytes]:
            nonlocal header
            async for piece in connection.fetch_snapshot(version, offset):
                if isinstance(piece, SnapshotHeader):
                    header = piece
                    if header.size_bytes != size:
                        raise Final(
                            f"snapshot {version} has {header.size_bytes} bytes and the run's layout {size}: install the "
                            "coordinator's version of zowarmup"
                        )
                else:
                    yield piece

        received = await self._gather(f"snapshot {version}", part, pieces, size)
        if header is None:
            raise Final(f"the coordinator sends snapshot {version} without its header: restart it")
        return header, received

    async def artifact(self, what: str, sha256: bytes, size: int, file: Path) -> int:
        """Have a file of the run that never changes.

        Args:
            what: PROGRAM, or the artifact's name, for sentences.
            sha256: Of its bytes.
            size: In bytes.
            file: Where it is, or is to be.

        Returns:
            How many bytes came over the network.

        Raises:
            Final: The coordinator sends something else than it has announced.
            Setback: The disk fails.
        """
        part, received = file.with_name(file.name + ".part"), 0

        def pieces(connection: Connection, offset: int) -> AsyncIterator[bytes]:
            return connection.fetch_artifact(sha256, offset)

        for _ in range(2):  # what is on disk may be damaged, what comes anew may not
            try:
                if not file.exists():
                    received += await self._gather(f"the {what}", part, pieces, size)
                    settle(part, file)
                if file.stat().st_size == size and await asyncio.to_thread(_sha256, file) == sha256:
                    return received
                file.unlink()
            except OSError as error:
                raise Setback(f"cannot keep {file} ({error.strerror or error}): make room there") from None
        raise Final(f"the coordinator sends another {what} than it announced (its sha256 differs): restart it")

    async def upload(self, delta: Delta, content: memoryview) -> None:
        """Bring a delta to the coordinator's disk. Raises Declined where its round has closed."""
        delays, before = Backoff(), 0
        while True:
            await self._ready()
            try:
                async with self._connect() as connection:
                    stored = await connection.uploaded(delta)
                    if stored > before:
                        delays.reset()
                    before = stored
                    if stored < len(content):
                        stored = await connection.upload(delta, content, stored)
                if stored == len(content):
                    return
                reason = f"{amount(stored)} of {amount(len(content))} arrived"
            except Broken as fault:
                reason = fault.reason
            log.warning("the upload for round %d broke off (%s); will go on from there", delta.round, reason)
            await asyncio.sleep(delays.next_s())

    async def _gather(
        self,
        what: str,
        part: Path,
        pieces: Callable[[Connection, int], AsyncIterator[bytes]],
        size: int,
    ) -> int:
        """Append pieces to a file until it has its size; how many bytes came. Raises Final where more come."""
        delays, received = Backoff(), 0
        while True:
            if part.exists() and part.stat().st_size > size:
                part.unlink()  # of another that was larger
            held = offset = part.stat().st_size if part.exists() else 0
            await self._ready()
            try:
                async with self._connect() as connection:
                    with _appending(part) as out:
                        async for piece in pieces(connection, offset):
                            held += len(piece)
                            if held > size:
                                break
                            out.write(piece)
                            received += len(piece)
                            delays.reset()
                if held > size:
                    part.unlink()
                    raise Final(f"the coordinator sends more of {what} than the {amount(size)} that it announced")
                if held == size:
                    return received
                reason = "it ended early"
            except Declined:
                part.unlink(missing_ok=True)
                if offset == 0:
                    raise
                continue  # what was gathered before does not fit: begin again
            except OSError as error:
                raise Setback(f"cannot write {part} ({error.strerror or error}): make room there") from None
            except Broken as fault:
                reason = fault.reason
            log.warning(
                "the fetch of %s broke off at %s (%s); will go on from there",
                what,
                amount(offset + received),
                reason,
            )
            await asyncio.sleep(delays.next_s())


def _sha256(file: Path) -> bytes:
    with open_given(file) as content:
        return hashlib.file_digest(content, "sha256").digest()


def _appending(file: Path) -> BinaryIO:
    # On the event loop: a chunk goes to the page cache, and `LocalReplica.load` syncs in a thread.
    return open(file, "ab")
