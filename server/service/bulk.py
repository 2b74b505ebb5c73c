"""Snapshots, the program and deltas: many bytes, in chunks, resumable by offset, never on the event loop."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np

from zowarmup.common.work import Phase, Tier, Work
from zowarmup.server.blobs import BlobError, Blobs
from zowarmup.server.coordinator import Coordinator
from zowarmup.server.decide import Rejected, work_for
from zowarmup.server.service.admission import Context, authenticate, refusals
from zowarmup.server.traffic import Traffic
from zowarmup.v1 import coordinator_pb2 as wire
from zowarmup.v1 import coordinator_pb2_grpc as services

CHUNK_BYTES = 1 << 19
CHUNK_LIMIT = 1 << 21


class BulkCalls(services.CoordinatorServiceServicer):
    """The bulk half of CoordinatorService."""

    def __init__(self, coordinator: Coordinator, blobs: Blobs, deltas: Blobs, traffic: Traffic) -> None:
        self._coordinator, self._blobs, self._deltas, self._traffic = coordinator, blobs, deltas, traffic

    async def FetchSnapshot(
        self, request: wire.FetchSnapshotRequest, context: Context
    ) -> AsyncIterator[wire.FetchSnapshotResponse]:
        async with refusals(context):
            _, client = authenticate(self._coordinator, context)
            snapshot = self._coordinator.state.snapshots.get(request.version)
            if snapshot is None:
                kept = ", ".join(map(str, sorted(self._coordinator.state.snapshots)))
                raise Rejected("not_found", f"no snapshot of version {request.version} is kept; there are {kept}")
            path = self._blobs.path(snapshot.sha256)
            header = wire.SnapshotHeader(
                version=snapshot.version,
                grid_exponent=snapshot.exponent,
                digest=bytes.fromhex(snapshot.digest),
                size_bytes=path.stat().st_size,
            )
            answer = wire.FetchSnapshotResponse(header=header)
            self._count(client.tier, "snapshot", answer.ByteSize())
            yield answer
            async for chunk in _read(path, request.offset_bytes):
                answer = wire.FetchSnapshotResponse(chunk=chunk)
                self._count(client.tier, "snapshot", answer.ByteSize())
                yield answer

    async def FetchProgram(
        self, request: wire.FetchProgramRequest, context: Context
    ) -> AsyncIterator[wire.FetchProgramResponse]:
        async with refusals(context):
            _, client = authenticate(self._coordinator, context)
            path = self._blobs.path(self._coordinator.state.program.sha256)
            async for chunk in _read(path, request.offset_bytes):
                answer = wire.FetchProgramResponse(chunk=chunk)
                self._count(client.tier, "program", answer.ByteSize())
                yield answer

    async def GetUpload(self, request: wire.GetUploadRequest, context: Context) -> wire.GetUploadResponse:
        async with refusals(context):
            name, client = authenticate(self._coordinator, context)
            self._traffic.up(client.tier, self._coordinator.state.phase, "control", request.ByteSize())
            if len(request.sha256) != 32:
                raise Rejected("invalid", "get_upload: sha256 must be 32 bytes")
            work = self._work(name)
            size, sha256 = 4 * self._coordinator.state.layout.size, request.sha256.hex()
            if request.round != work.round:
                raise Rejected(
                    "late", f"the upload is for round {request.round}, the round in progress is {work.round}"
                )
            spool = _spool_name(name, sha256)
            have = size if self._deltas.has(sha256) else self._deltas.spooled(spool, size)
            if have == size and not self._deltas.has(sha256):
                # All of it came, and the call broke before it was adopted.
                await asyncio.to_thread(self._finish, spool, sha256)
        return wire.GetUploadResponse(offset_bytes=have)

    async def UploadDelta(
        self, requests: AsyncIterator[wire.UploadDeltaRequest], context: Context
    ) -> wire.UploadDeltaResponse:
        async with refusals(context):
            name, client = authenticate(self._coordinator, context)
            first = await anext(aiter(requests), None)
            if first is None or not first.HasField("header"):
                raise Rejected("invalid", "the first message of an upload must hold a header")
            header, work, size = first.header, self._work(name), 4 * self._coordinator.state.layout.size
            sha256 = header.sha256.hex()
            spool = _spool_name(name, sha256)
            if header.round != work.round:
                raise Rejected("late", f"the upload is for round {header.round}, the round in progress is {work.round}")
            if len(header.sha256) != 32 or header.size_bytes != size:
                raise Rejected(
                    "malformed", f"a delta has {size} bytes and a sha256 of 32, not {header.size_bytes} bytes"
                )
            have = self._deltas.spooled(spool, size)
            if header.offset_bytes != have:
                raise Rejected(
                    "offset", f"{have} bytes of this delta are here: go on from there, not {header.offset_bytes}"
                )
            message: wire.UploadDeltaRequest | None = first
            while message is not None:
                self._traffic.up(client.tier, self._coordinator.state.phase, "delta", message.ByteSize())
                if len(message.chunk) > min(CHUNK_LIMIT, size - have):
                    raise Rejected(
                        "malformed", f"a chunk of {len(message.chunk)} bytes is more than is left or allowed"
                    )
                if message.chunk:
                    await asyncio.to_thread(self._deltas.spool, spool, have, message.chunk)
                    have += len(message.chunk)
                message = await anext(aiter(requests), None)
            if have == size:
                await asyncio.to_thread(self._finish, spool, sha256)
            answer = wire.UploadDeltaResponse(stored_bytes=have)
            self._traffic.down(client.tier, self._coordinator.state.phase, "control", answer.ByteSize())
        return answer

    def _check_uploaded(self, sha256: str) -> None:
        """Raises Rejected where a contribution names a delta that is not here."""
        if not self._deltas.has(sha256):
            raise Rejected("malformed", "the delta it names has not been uploaded")

    def _finish(self, spool: str, sha256: str) -> None:
        try:
            self._deltas.finish(spool, sha256)
        except BlobError as error:
            raise Rejected("malformed", str(error)) from error
        delta = self._deltas.vector(sha256)
        if not all(np.isfinite(piece).all() for piece in np.array_split(delta, max(1, delta.size >> 18))):
            self._deltas.remove(sha256)
            raise Rejected("not_finite", "the delta holds values that are not finite")

    def _work(self, client: str) -> Work:
        state = self._coordinator.state
        work = work_for(state, client, self._coordinator.clock())
        if work is None or work.phase is not Phase.WARM_UP:
            raise Rejected("not_assigned", f"{client} has no delta to upload in round {state.round}")
        return work

    def _count(self, tier: Tier, kind: str, payload_bytes: int) -> None:
        self._traffic.down(tier, self._coordinator.state.phase, kind, payload_bytes)


def _spool_name(client: str, sha256: str) -> str:
    """Where an upload grows: a new delta of the same client begins anew."""
    return f"{client}.{sha256[:16]}"


async def _read(path: Path, offset: int) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        if offset > path.stat().st_size:
            raise Rejected("invalid", f"offset {offset} is beyond the end")
        file.seek(offset)
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield chunk
