"""One connection to the coordinator: its calls, with values in and out.

The only file of this room that knows the generated code. Every call raises `Final` where asking again cannot help,
`Declined` where the coordinator answered this one request with no, and `Broken` where the network or the coordinator
failed in passing. Waiting and trying again is the caller's (`presence`, `transfer`).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import Any, Self

import grpc

from zowarmup.client.faults import Broken, Declined, Distrust, Final
from zowarmup.client.messages import (
    Accepted,
    Fetch,
    Finished,
    Hello,
    Message,
    Offer,
    Refused,
    Report,
    Saying,
    Welcome,
)
from zowarmup.client.replica import Header
from zowarmup.client.trust import Trust, distrusted, shut
from zowarmup.common import codec
from zowarmup.common.layout import Layout
from zowarmup.common.run import PROTOCOL, ClientSpec
from zowarmup.common.work import Delta, Scalars, Tier
from zowarmup.v1 import coordinator_pb2 as wire
from zowarmup.v1 import coordinator_pb2_grpc

# What a reset in the middle of a chunk costs is sent again.
CHUNK_BYTES = 256 * 1024
# Unary calls and the opening of a stream; bulk streams and Participate have none, keepalive watches over them.
CALL_S = 20.0
OPTIONS = [
    # A dead link is noticed in 30 s: measured, the keepalive timeout alone never ends a silent connection, the ping
    # timeout does. The coordinator allows pings this often.
    ("grpc.keepalive_time_ms", 10000),
    ("grpc.keepalive_timeout_ms", 10000),
    ("grpc.http2.ping_timeout_ms", 10000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    # Each attempt is a fresh connection: `presence` decides when to try again, not a pool shared behind its back.
    ("grpc.use_local_subchannel_pool", 1),
]
_FINAL = {
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNIMPLEMENTED,
}
_FINAL_IN_BULK = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED}
_DECLINED_IN_BULK = {
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.ABORTED,
}


class Connection:
    """A channel to HOST:PORT, closed on leaving its context. `credentials`: who speaks, None before enrolling."""

    def __init__(self, address: str, trust: Trust, credentials: tuple[str, str] | None = None) -> None:
        if trust.credentials is None:
            self._channel = grpc.aio.insecure_channel(address, options=OPTIONS)
        else:
            self._channel = grpc.aio.secure_channel(address, trust.credentials, options=OPTIONS)
        self._stub: Any = coordinator_pb2_grpc.CoordinatorServiceStub(self._channel)
        self._metadata = (
            (("zowarmup-client", credentials[0]), ("zowarmup-credential", credentials[1])) if credentials else ()
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close(None)

    async def get_run(self) -> Offer:
        with _faults(_FINAL):
            answer = await self._stub.GetRun(wire.GetRunRequest(protocol=PROTOCOL), timeout=CALL_S)
        if answer.protocol != PROTOCOL:
            raise Final(
                f"the coordinator speaks protocol {answer.protocol} and this client {PROTOCOL}: install the same version "
                "of zowarmup on both"
            )
        try:
            return Offer(
                answer.run_id,
                answer.name,
                ClientSpec.from_json(answer.spec_json),
                Layout.from_json(answer.layout_json),
                answer.program_sha256,
                answer.program_bytes,
                answer.high_memory_bytes,
                answer.low_memory_bytes,
            )
        except ValueError as error:
            raise Final(f"cannot read the coordinator's run ({error}): install its version of zowarmup") from None

    async def enrol(
        self, run_id: str, name: str, tier: Tier, examples: int, token: str, credential: str
    ) -> tuple[str, str]:
        """The identity and the secret that this device has from now on. `token`: the invitation's secret, empty without
        one. Asking again with the same credential is answered the same."""
        request = wire.EnrolRequest(
            run_id=run_id,
            name=name,
            tier=codec.tier_to_wire(tier),
            examples=examples,
            token=token,
            credential=credential,
        )
        with _faults(_FINAL):
            answer = await self._stub.Enrol(request, timeout=CALL_S)
        return answer.client, answer.credential

    async def participate(self, hello: Hello, layout: Layout) -> "Stream":
        """Open the stream and say hello on it."""
        call = self._stub.Participate(metadata=self._metadata)
        stream = Stream(call, layout)
        await stream.write(
            wire.ParticipateRequest(
                hello=wire.Hello(
                    run_id=hello.run_id,
                    protocol=PROTOCOL,
                    version=hello.position.version,
                    digest=hello.position.digest,
                    examples=hello.examples,
                )
            )
        )
        return stream

    async def fetch_snapshot(self, version: int, offset: int) -> AsyncIterator[Header | bytes]:
        """The snapshot's header, then its bytes from an offset on."""
        request = wire.FetchSnapshotRequest(version=version, offset_bytes=offset)
        with _faults(_FINAL_IN_BULK, _DECLINED_IN_BULK):
            async for answer in self._stub.FetchSnapshot(request, metadata=self._metadata):
                if answer.HasField("header"):
                    header = answer.header
                    try:
                        yield Header(header.version, header.grid_exponent, header.digest, header.size_bytes)
                    except ValueError as error:
                        raise Broken(str(error)) from None
                if answer.chunk:
                    yield answer.chunk

    async def fetch_program(self, offset: int) -> AsyncIterator[bytes]:
        request = wire.FetchProgramRequest(offset_bytes=offset)
        with _faults(_FINAL_IN_BULK, _DECLINED_IN_BULK):
            async for answer in self._stub.FetchProgram(request, metadata=self._metadata):
                yield answer.chunk

    async def uploaded(self, delta: Delta) -> int:
        """How many of a delta's bytes the coordinator has."""
        request = wire.GetUploadRequest(round=delta.round, sha256=bytes.fromhex(delta.sha256))
        with _faults(_FINAL_IN_BULK, _DECLINED_IN_BULK):
            answer = await self._stub.GetUpload(request, metadata=self._metadata, timeout=CALL_S)
        return int(answer.offset_bytes)

    async def upload(self, delta: Delta, content: memoryview, offset: int) -> int:
        """Send a delta's bytes from an offset on; how many the coordinator has then."""

        def pieces() -> Iterator[wire.UploadDeltaRequest]:
            header = wire.DeltaHeader(
                round=delta.round,
                sha256=bytes.fromhex(delta.sha256),
                size_bytes=len(content),
                offset_bytes=offset,
            )
            yield wire.UploadDeltaRequest(header=header)
            for start in range(offset, len(content), CHUNK_BYTES):
                yield wire.UploadDeltaRequest(chunk=bytes(content[start : start + CHUNK_BYTES]))

        with _faults(_FINAL_IN_BULK, _DECLINED_IN_BULK):
            answer = await self._stub.UploadDelta(pieces(), metadata=self._metadata)
        return int(answer.stored_bytes)


class Stream:
    """An open Participate stream: iterate over the coordinator's messages, `say` things to it."""

    def __init__(self, call: Any, layout: Layout) -> None:
        self._call, self._layout = call, layout

    async def say(self, saying: Saying) -> int:
        """Send one message; its payload in bytes. Raises Broken where the stream is down."""
        match saying:
            case Scalars():
                request = wire.ParticipateRequest(scalars=codec.scalars_to_wire(saying))
            case Delta():
                request = wire.ParticipateRequest(delta_ready=codec.delta_to_wire(saying))
            case Report(position, peak):
                report = wire.Report(version=position.version, digest=position.digest, peak_memory_bytes=peak)
                request = wire.ParticipateRequest(report=report)
        await self.write(request)
        return request.ByteSize()

    async def write(self, request: wire.ParticipateRequest) -> None:
        await self._while_open(self._call.write(request))

    async def leave(self) -> None:
        """Nothing more will be said; the coordinator then ends the stream. Raises Broken where it is down."""
        await self._while_open(self._call.done_writing())

    async def _while_open(self, doing: Awaitable[None]) -> None:
        with _faults(_FINAL):
            try:
                await doing
            except asyncio.InvalidStateError:  # the call ended before: its reader says how
                raise Broken("the stream has ended") from None

    async def __aiter__(self) -> AsyncIterator[Message]:
        with _faults(_FINAL):
            while (answer := await self._call.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
                try:
                    yield _message(answer, self._layout)
                except ValueError as error:
                    raise Broken(f"the coordinator sent what this client cannot read ({error})") from None


def _message(answer: wire.ParticipateResponse, layout: Layout) -> Message:
    """Raises ValueError where the message is not valid."""
    match answer.WhichOneof("message"):
        case "welcome":
            welcome = answer.welcome
            return Welcome(welcome.epoch, codec.phase_from_wire(welcome.phase), welcome.version, welcome.waiting)
        case "work":
            return codec.work_from_wire(answer.work)
        case "commit":
            return codec.commit_from_wire(answer.commit, layout)
        case "fetch":
            return Fetch(answer.fetch.version, answer.fetch.reason)
        case "accepted":
            return Accepted(answer.accepted.round)
        case "refused":
            return Refused(answer.refused.round, answer.refused.reason, answer.refused.detail)
        case "finished":
            return Finished(answer.finished.version, answer.finished.digest)
    raise ValueError("a message of a kind it does not know")


@contextmanager
def _faults(
    final: AbstractSet[grpc.StatusCode], declined: AbstractSet[grpc.StatusCode] = frozenset()
) -> Iterator[None]:
    """Map a failed call to whose fault it is. The coordinator's word for programs is in the trailing metadata."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        code, details = error.code(), (error.details() or error.code().name).strip()
        trailing: Any = error.trailing_metadata() or ()
        reason = dict(trailing).get("zowarmup-reason")
        if reason == "superseded":
            raise Final(
                "another process takes part with this device's identity and has taken its place: stop one of the two"
            ) from None
        if code is grpc.StatusCode.UNIMPLEMENTED:
            raise Final(
                f"no coordinator of this kind answers there ({details}): check --server and both versions"
            ) from None
        if reason == "offset":  # more had arrived than it said: ask where to go on
            raise Broken(details) from None
        if code in final:
            raise Final(details) from None
        if code in declined:
            raise Declined(details) from None
        if code is grpc.StatusCode.UNAVAILABLE and (sentence := distrusted(details)):
            raise Distrust(sentence) from None
        if sentence := shut(details):
            raise Broken(sentence) from None
        # When a connection cannot be made, grpc's long sentence ends in the system's short one.
        raise Broken(details.rpartition(": ")[2] if "last error: " in details else details) from None
