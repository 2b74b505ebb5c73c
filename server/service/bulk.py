"""Snapshots, the program and deltas: many bytes, in chunks, resumable by offset, never on the event loop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np

from zowarmup.common.work import Phase, Tier, Work
from zowarmup.server.blobs import BlobError, Blobs, DiskRefused
from zowarmup.server.coordinator import Coordinator
from zowarmup.server.decide import work_for
from zowarmup.server.rejection import Rejected
from zowarmup.server.service import limits
from zowarmup.server.service.admission import Admission, Context
from zowarmup.server.service.uploads import Uploads, spool_name
from zowarmup.server.state import Client
from zowarmup.server.traffic import Traffic
from zowarmup.v1 import coordinator_pb2 as wire
from zowarmup.v1 import coordinator_pb2_grpc as services

CHUNK_BYTES = 1 << 19

LARGEST = 2.0**20
"""No weight moves so far in a round of training; sums of such moves still fit a grid, so that no delta can make a model
that the coordinator cannot hold, and with it a round that fails anew after each restart."""


class BulkCalls(services.CoordinatorServiceServicer):
    """The bulk half of CoordinatorService."""

    def __init__(
        self,
        coordinator: Coordinator,
        blobs: Blobs,
        traffic: Traffic,
        admission: Admission,
        uploads: Uploads,
        allowances: limits.Allowances,
    ) -> None:
        self._coordinator, self._blobs, self._traffic, self._admission = coordinator, blobs, traffic, admission
        self._uploads, self._allowances = uploads, allowances

    async def FetchSnapshot(
        self, request: wire.FetchSnapshotRequest, context: Context
    ) -> AsyncIterator[wire.FetchSnapshotResponse]:
        async with self._admission.refusing(context):
            _, client = self._caller(context)
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
        async with self._admission.refusing(context):
            _, client = self._caller(context)
            path = self._blobs.path(self._coordinator.state.program.sha256)
            async for chunk in _read(path, request.offset_bytes):
                answer = wire.FetchProgramResponse(chunk=chunk)
                self._count(client.tier, "program", answer.ByteSize())
                yield answer

    async def GetUpload(self, request: wire.GetUploadRequest, context: Context) -> wire.GetUploadResponse:
        async with self._admission.refusing(context):
            name, client = self._caller(context)
            self._traffic.up(client.tier, self._coordinator.state.phase, "control", request.ByteSize())
            if len(request.sha256) != 32:
                raise Rejected("invalid", "get_upload: sha256 must be 32 bytes")
            work = self._work(name)
            size, sha256 = 4 * self._coordinator.state.layout.size, request.sha256.hex()
            if request.round != work.round:
                raise Rejected(
                    "late", f"the upload is for round {request.round}, the round in progress is {work.round}"
                )
            spool = spool_name(name, sha256)
            have = size if self._blobs.has_upload(sha256) else self._blobs.spooled(spool, size)
            if have == size and not self._blobs.has_upload(sha256):
                # All of it came, and the call broke before it was adopted.
                await asyncio.to_thread(self._finish, spool, sha256)
        return wire.GetUploadResponse(offset_bytes=have)

    async def UploadDelta(
        self, requests: AsyncIterator[wire.UploadDeltaRequest], context: Context
    ) -> wire.UploadDeltaResponse:
        async with self._admission.refusing(context), contextlib.AsyncExitStack() as stack:
            name, client = self._caller(context)
            stack.enter_context(self._uploads.only(name))
            first = await anext(aiter(requests), None)
            if first is None or not first.HasField("header"):
                raise Rejected("invalid", "the first message of an upload must hold a header")
            header, work, size = first.header, self._work(name), 4 * self._coordinator.state.layout.size
            sha256 = header.sha256.hex()
            if header.round != work.round:
                raise Rejected("late", f"the upload is for round {header.round}, the round in progress is {work.round}")
            if len(header.sha256) != 32 or header.size_bytes != size:
                raise Rejected(
                    "malformed", f"a delta has {size} bytes and a sha256 of 32, not {header.size_bytes} bytes"
                )
            spool = self._uploads.hold(name, sha256, size)
            have = self._blobs.spooled(spool, size)
            if header.offset_bytes != have:
                raise Rejected(
                    "offset", f"{have} bytes of this delta are here: go on from there, not {header.offset_bytes}"
                )
            message: wire.UploadDeltaRequest | None = first
            while message is not None:
                self._traffic.up(client.tier, self._coordinator.state.phase, "delta", message.ByteSize())
                if len(message.chunk) > min(limits.CHUNK_BYTES, size - have):
                    raise Rejected(
                        "malformed", f"a chunk of {len(message.chunk)} bytes is more than is left or allowed"
                    )
                if self._work(name).round != work.round:
                    raise Rejected("late", f"round {work.round}, which the upload is for, is over")
                if message.chunk:
                    await self._spool(name, spool, have, message.chunk)
                    have += len(message.chunk)
                message = await anext(aiter(requests), None)
            if have == size:
                await asyncio.to_thread(self._finish, spool, sha256)
            answer = wire.UploadDeltaResponse(stored_bytes=have)
            self._traffic.down(client.tier, self._coordinator.state.phase, "control", answer.ByteSize())
        return answer

    async def _spool(self, client: str, spool: str, offset: int, chunk: bytes) -> None:
        try:
            await asyncio.to_thread(self._blobs.spool, spool, offset, chunk)
        except DiskRefused as error:
            self._coordinator.trouble.tell("uploads", f"the upload of {client}: {error}")
            raise
        self._coordinator.trouble.clear("uploads")

    def _check_uploaded(self, sha256: str) -> None:
        """Raises Rejected where a contribution names a delta that is not here."""
        if not self._blobs.has_upload(sha256):
            raise Rejected("malformed", "the delta it names has not been uploaded")

    def _finish(self, spool: str, sha256: str) -> None:
        """Checked before it has its name, so that an upload that is here whole is a good one, whatever crashes."""
        delta = self._blobs.part(spool)
        for piece in np.array_split(delta, max(1, delta.size >> 18)):
            if not (piece.min() > -LARGEST and piece.max() < LARGEST):  # NaN fails both
                self._blobs.drop_part(spool)
                raise Rejected("too_large", f"the delta holds values that are not finite or reach {LARGEST:g}")
        try:
            self._blobs.finish(spool, sha256)
        except DiskRefused:
            raise
        except BlobError as error:
            raise Rejected("damaged", str(error)) from error

    def _caller(self, context: Context) -> tuple[str, Client]:
        """The member of the fleet that is calling; the call counts as a message. Raises Rejected."""
        name, client = self._admission.client(context)
        self._allowances.spend(name)
        return name, client

    def _work(self, client: str) -> Work:
        state = self._coordinator.state
        work = work_for(state, client, self._coordinator.clock())
        if work is None or work.phase is not Phase.WARM_UP:
            raise Rejected("not_assigned", f"{client} has no delta to upload in round {state.round}")
        return work

    def _count(self, tier: Tier, kind: str, payload_bytes: int) -> None:
        self._traffic.down(tier, self._coordinator.state.phase, kind, payload_bytes)


async def _read(path: Path, offset: int) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        if offset > path.stat().st_size:
            raise Rejected("invalid", f"offset {offset} is beyond the end")
        file.seek(offset)
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield chunk
