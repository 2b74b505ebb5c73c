"""Snapshots, artifacts and deltas: many bytes, in chunks, resumable by offset, never on the event loop. And bytes that
mean nothing, for a device that wants to know its link."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

from zowarmup.common.messages.values import Work
from zowarmup.server.coordinator import Coordinator
from zowarmup.server.core.decide import another_round, work_for
from zowarmup.server.core.errors import Rejected
from zowarmup.server.core.state import Client
from zowarmup.server.projections.traffic import CallTraffic, Traffic
from zowarmup.server.rpc import limits
from zowarmup.server.rpc.auth import Admission, Context, begin
from zowarmup.server.rpc.transfers import AT_ONCE, ClientCalls, DownloadCache, Framed, taken
from zowarmup.server.store.blobs import BlobStore, DiskRefused
from zowarmup.server.store.uploads import Upload, UploadStore
from zowarmup.v1 import coordinator_pb2 as wire
from zowarmup.v1 import coordinator_pb2_grpc as services

SMALLEST_CHUNK_BYTES = 1 << 14
"""A shorter piece of a delta, but for the last, counts as a message: it costs as much."""
# Room for pieces of 4 kB; without a limit they could be empty.
MEASURED_MESSAGES = 1024
# Incompressible, for links that compress.
FILLER = os.urandom(1 << 16)


class BulkCalls(services.CoordinatorServiceServicer):
    """The bulk half of CoordinatorService."""

    def __init__(
        self,
        coordinator: Coordinator,
        blobs: BlobStore,
        traffic: Traffic,
        admission: Admission,
        uploads: UploadStore,
        rate_limiter: limits.RateLimiter,
        call_limits: limits.CallLimits,
    ) -> None:
        self._coordinator, self._blobs, self._traffic, self._admission = coordinator, blobs, traffic, admission
        self._uploads, self._rate_limiter, self._outgoing = uploads, rate_limiter, DownloadCache(blobs)
        self._call_limits = call_limits
        self._downloads, self._uploading = ClientCalls("download", AT_ONCE), ClientCalls("upload", 1)
        coordinator.observe(self._downloads)
        coordinator.observe(self._uploading)

    async def FetchSnapshot(self, request: wire.FetchSnapshotRequest, context: Context) -> None:
        async with self._admission.refusing(context):
            name, _, line = await self._caller(context)
            snapshot = self._coordinator.state.snapshots.get(request.version)
            if snapshot is None:
                kept = ", ".join(map(str, sorted(self._coordinator.state.snapshots)))
                raise Rejected("not_found", f"no snapshot of version {request.version} is kept; there are {kept}")
            header = wire.SnapshotHeader(
                version=snapshot.version,
                grid_exponent=snapshot.exponent,
                grid_ranges=[wire.GridRange(start=start, exponent=exponent) for start, exponent in snapshot.ranges],
                digest=bytes.fromhex(snapshot.digest),
                size_bytes=(await asyncio.to_thread(self._blobs.open, snapshot.sha256)).size,
            )
            answer = wire.FetchSnapshotResponse(header=header)
            async with self._downloads.one(name):
                await begin(context)
                line.down("snapshot", answer.ByteSize())
                await taken(context, answer, self._call_limits.download_s)
                await self._send(snapshot.sha256, _snapshot, request.offset_bytes, context, line, "snapshot")

    async def FetchArtifact(self, request: wire.FetchArtifactRequest, context: Context) -> None:
        async with self._admission.refusing(context):
            name, _, line = await self._caller(context)
            record = self._coordinator.state.program
            named = {artifact.sha256: artifact.name for artifact in record.artifacts} | {record.sha256: "program"}
            wanted = request.sha256.hex() or record.sha256
            if wanted not in named:
                raise Rejected(
                    "not_found", f"this run has no artifact of sha256 {wanted[:64]}; GetRun says which it has"
                )
            async with self._downloads.one(name):
                await begin(context)
                await self._send(wanted, _artifact, request.offset_bytes, context, line, named[wanted])

    async def GetUpload(self, request: wire.GetUploadRequest, context: Context) -> wire.GetUploadResponse:
        async with self._admission.refusing(context):
            name, _, line = await self._caller(context)
            line.up("control", request.ByteSize())
            if len(request.digest) != 16:
                raise Rejected("invalid", "get_upload: digest must be 16 bytes")
            work = await self._work_in(request.round, name)
            size, digest = self._delta_bytes(name), request.digest.hex()
            async with self._uploading.one(name):
                have = await self._uploads.received(name, work.round, digest, size)
            answer = wire.GetUploadResponse(offset_bytes=have)
            line.down("control", answer.ByteSize())
        return answer

    async def UploadDelta(
        self, requests: AsyncIterator[wire.UploadDeltaRequest], context: Context
    ) -> wire.UploadDeltaResponse:
        async with self._admission.refusing(context), contextlib.AsyncExitStack() as stack:
            name, _, line = await self._caller(context)
            await stack.enter_async_context(self._uploading.one(name))
            first: wire.UploadDeltaRequest | limits.Chunk | limits.MessageTooLong | None = await anext(
                aiter(requests), None
            )
            if isinstance(first, limits.MessageTooLong):
                raise first.rejected()
            if not isinstance(first, wire.UploadDeltaRequest) or not first.HasField("header"):
                raise Rejected("invalid", "the first message of an upload must hold a header")
            header = first.header
            work, size, digest = await self._work_in(header.round, name), self._delta_bytes(name), header.digest.hex()
            if len(header.digest) != 16 or header.size_bytes != size:
                raise Rejected(
                    "malformed", f"a delta of {name} has {size} bytes and a digest of 16, not {header.size_bytes} bytes"
                )
            have = header.offset_bytes
            upload = await stack.enter_async_context(self._uploads.receive(name, work.round, digest, size, have))
            message: wire.UploadDeltaRequest | limits.Chunk | limits.MessageTooLong | None = first
            while message is not None:
                if isinstance(message, limits.MessageTooLong):
                    raise message.rejected()
                line.up("delta", message.size_bytes if isinstance(message, limits.Chunk) else message.ByteSize())
                chunk = message.chunk
                if len(chunk) > min(limits.CHUNK_BYTES, size - have):
                    raise Rejected("malformed", f"a chunk of {len(chunk)} bytes is more than is left or allowed")
                if self._work(name).round != work.round:
                    raise Rejected("late", f"round {work.round}, which the upload is for, is over")
                if len(chunk) < SMALLEST_CHUNK_BYTES and have + len(chunk) < size and message is not first:
                    self._rate_limiter.spend(name)
                if chunk:
                    await self._take(name, upload, chunk)
                    have += len(chunk)
                message = await anext(aiter(requests), None)
            if self._work(name).round != work.round:
                raise Rejected("late", f"round {work.round}, which the upload is for, is over")
            await (upload.finish() if have == size else upload.settle())
            answer = wire.UploadDeltaResponse(stored_bytes=have)
            line.down("control", answer.ByteSize())
        return answer

    async def MeasureLink(
        self, requests: AsyncIterator[wire.MeasureLinkRequest | limits.MessageTooLong], context: Context
    ) -> None:
        async with self._admission.refusing(context):
            name, _, line = await self._caller(context)
            async with self._downloads.one(name):
                await begin(context)
                wanted, received = await self._measured(requests, line)
                await self._answer(wire.MeasureLinkResponse(received_bytes=received), context, line)
                for start in range(0, wanted, len(FILLER)):
                    await self._answer(wire.MeasureLinkResponse(filler=FILLER[: wanted - start]), context, line)

    async def _send(
        self, blob: str, framed: Framed, offset: int, context: Context, line: CallTraffic, kind: str
    ) -> None:
        """A blob, from an offset on."""
        async with contextlib.aclosing(self._outgoing.messages(blob, framed, offset)) as messages:
            async for message in messages:
                line.down(kind, len(message))
                await taken(context, message, self._call_limits.download_s)

    async def _take(self, client: str, upload: Upload, chunk: bytes | memoryview) -> None:
        try:
            await upload.add(chunk)
        except DiskRefused as error:
            self._coordinator.trouble.tell("uploads", f"the upload of {client}: {error}")
            raise
        self._coordinator.trouble.clear("uploads")

    async def _caller(self, context: Context) -> tuple[str, Client, CallTraffic]:
        """The member of the fleet that is calling; the call counts as a message. Raises Rejected."""
        name, client = await self._admission.client(context)
        self._rate_limiter.spend(name)
        return name, client, self._traffic.call(context.peer(), client.tier, name)

    def _delta_bytes(self, client: str) -> int:
        return self._coordinator.state.uplink_bytes(client)

    async def _work_in(self, round: int, client: str) -> Work:
        """What the client has to upload in a round, which another coordinator may have given out before this one hears of it.
        Raises Rejected where there is nothing."""
        if round > self._coordinator.state.round:
            await self._coordinator.caught_up()
        work = self._work(client)
        if round != work.round:
            raise another_round(self._coordinator.state, round)
        return work

    def _work(self, client: str) -> Work:
        state = self._coordinator.state
        work = work_for(state, client, self._coordinator.clock())
        if work is None or not state.trains(client):
            raise Rejected("not_assigned", f"{client} has no delta to upload in round {state.round}")
        return work

    async def _measured(
        self, requests: AsyncIterator[wire.MeasureLinkRequest | limits.MessageTooLong], line: CallTraffic
    ) -> tuple[int, int]:
        """How many bytes are wanted, and how many came. Raises Rejected beyond what a measurement may take."""
        call_limits, wanted, received, messages = self._call_limits, 0, 0, 0
        try:
            async with asyncio.timeout(call_limits.measured_s):
                async for message in requests:
                    if isinstance(message, limits.MessageTooLong):
                        raise message.rejected()
                    line.up("measurement", message.ByteSize())
                    messages += 1
                    wanted, received = wanted or message.wanted_bytes, received + len(message.filler)
                    if max(wanted, received) > call_limits.measured_bytes or messages > MEASURED_MESSAGES:
                        raise Rejected(
                            "invalid",
                            f"a link is measured with at most {call_limits.measured_bytes} bytes each way, "
                            f"in {MEASURED_MESSAGES} messages",
                        )
        except TimeoutError:
            raise Rejected("too_slow", f"{received} bytes came in {call_limits.measured_s:g} s") from None
        return wanted, received

    async def _answer(self, answer: wire.MeasureLinkResponse, context: Context, line: CallTraffic) -> None:
        line.down("measurement", answer.ByteSize())
        await taken(context, answer, self._call_limits.download_s)


def _snapshot(chunk: bytes) -> bytes:
    return wire.FetchSnapshotResponse(chunk=chunk).SerializeToString()


def _artifact(chunk: bytes) -> bytes:
    return wire.FetchArtifactResponse(chunk=chunk).SerializeToString()
