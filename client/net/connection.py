"""One connection to the coordinator: its calls, with values in and out.

With `stream` the only file of this package that uses the generated code. Every call raises `Final` where asking again
cannot help, `Declined` where the coordinator answered this one request with no, and `Broken` where the network or the
coordinator failed in passing. Waiting and trying again is the caller's (`stream`, `transfer`).
"""

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self

import grpc

from zowarmup.client.errors import Broken, Final
from zowarmup.client.net.messages import Hello, Offer
from zowarmup.client.net.stream import DECLINED_IN_BULK, FINAL, FINAL_IN_BULK, Meter, Reader, Stream, faults, parsed
from zowarmup.client.net.tls import Trust, dialling
from zowarmup.client.policy import Policy
from zowarmup.client.store.replica import SnapshotHeader
from zowarmup.common.exact.layout import Layout
from zowarmup.common.messages import codec
from zowarmup.common.messages.values import Artifact, Delta, Tier
from zowarmup.common.plugin import NotAllowed
from zowarmup.common.settings.addresses import host_and_port
from zowarmup.common.settings.run import PROTOCOL, SOFTWARE, ClientSpec
from zowarmup.v1 import coordinator_pb2 as wire
from zowarmup.v1 import coordinator_pb2_grpc

# What a reset in the middle of a chunk costs is sent again: a chunk is what the link takes in a fraction of a second.
SMALLEST_CHUNK_BYTES, LARGEST_CHUNK_BYTES = 1 << 16, 1 << 19
QUICK_S, SLOW_S = 0.1, 0.5
# Unary calls and the opening of a stream; bulk streams and Participate have none, keepalive watches over them.
CALL_S = 20.0
# A layout has 100 characters for each tensor.
LONGEST_JSON = 4_000_000
# A snapshot's header has some for each range of its grid.
MOST_BULK_FIELDS = 1 << 16
MEASURE_BYTES = 32 * 1024
OPTIONS = [
    # A dead link is noticed in 30 s: measured, the keepalive timeout alone never ends a silent connection, the ping
    # timeout does. The coordinator allows pings this often.
    ("grpc.keepalive_time_ms", 10000),
    ("grpc.keepalive_timeout_ms", 10000),
    ("grpc.http2.ping_timeout_ms", 10000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    # Each attempt is a fresh connection: `stream` decides when to try again, not a pool shared behind its back.
    ("grpc.use_local_subchannel_pool", 1),
]
# gRPC learns by pings how much a link holds, and with each ping go window updates: 60 bytes, most of a contribution. Only
# what is large needs more under way than gRPC's first window of 64 KiB.
WITHOUT_PROBES = ("grpc.http2.bdp_probe", 0)
# For that it has a fixed window: on a busy machine a device that fetched a snapshot of 45 MB has taken 33 MB more than planned, and with
# this it has not. That gRPC's probes had opened the window so far is the likely cause, and was not looked at itself.
WINDOW = ("grpc.http2.lookahead_bytes", 2 << 20)


SERVICE = "/zowarmup.v1.CoordinatorService/"


def channel(address: str, trust: Trust, *options: tuple[str, int], dialled: str = "") -> grpc.aio.Channel:
    """A channel to HOST:PORT, with options of gRPC's beyond the usual. `dialled`: IP:PORT to be connected to instead; what is there
    is HOST all the same."""
    chosen = [*OPTIONS, *dialling(address), *options]
    if dialled:
        chosen += [("grpc.default_authority", address), ("grpc.ssl_target_name_override", host_and_port(address)[0])]
    if trust.credentials is None:
        return grpc.aio.insecure_channel(dialled or address, options=chosen)
    return grpc.aio.secure_channel(dialled or address, trust.credentials, options=chosen)


class Connection:
    """A channel to HOST:PORT, closed on leaving its context.

    Args:
        address: HOST:PORT.
        trust: How it is protected.
        credentials: Who speaks, its name and secret; None before enrolling.
        meter: Counts what is said.
        shared: A channel to use instead of an own one, and to leave open.
        reader: What reads the stream, where streams share one.
        bulk: Whether it is for what is large.
        dialled: IP:PORT, where the host's name has several addresses.
    """

    def __init__(
        self,
        address: str,
        trust: Trust,
        credentials: tuple[str, str] | None = None,
        meter: Meter | None = None,
        shared: grpc.aio.Channel | None = None,
        reader: Reader | None = None,
        bulk: bool = False,
        dialled: str = "",
    ) -> None:
        options = (WITHOUT_PROBES, WINDOW) if bulk else (WITHOUT_PROBES,)
        self._own = None if shared else channel(address, trust, *options, dialled=dialled)
        self._meter, self._reader = meter or Meter(), reader
        self._use(shared or self._own)
        self._metadata = (
            (("zowarmup-client", credentials[0]), ("zowarmup-credential", credentials[1])) if credentials else ()
        )

    def _use(self, channel: Any) -> None:
        self._channel, self._stub = channel, coordinator_pb2_grpc.CoordinatorServiceStub(channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._own is not None:
            await self._own.close(None)

    async def get_run(self, policy: Policy | None = None) -> Offer:
        """What is trained. Raises Final where it cannot be read, or where it is done by code that the policy does not
        allow; that code has not been imported then."""
        with faults(FINAL):
            answer = await self._stub.GetRun(wire.GetRunRequest(protocol=PROTOCOL), timeout=CALL_S)
        self._meter.received(answer.ByteSize())
        return offered(answer, policy)

    async def measure(self, up_bytes: int, down_bytes: int) -> tuple[float, float]:
        """How long so many bytes took up the link and down it.

        Returns:
            Seconds up and down; what a call costs by itself is not taken off.

        Raises:
            TimeoutError: It took longer than CALL_S.
        """

        def pieces() -> Iterator[wire.MeasureLinkRequest]:
            yield wire.MeasureLinkRequest(wanted_bytes=down_bytes)
            for start in range(0, up_bytes, len(filler)):
                yield wire.MeasureLinkRequest(filler=filler[: up_bytes - start])

        filler = os.urandom(MEASURE_BYTES)
        times = [time.monotonic()]
        with faults(FINAL):
            async with asyncio.timeout(CALL_S):
                async for answer in self._stub.MeasureLink(pieces(), metadata=self._metadata):
                    if answer.received_bytes:
                        times.append(time.monotonic())
        return times[1] - times[0], time.monotonic() - times[1]

    async def enrol(
        self, run_id: str, name: str, tier: Tier, examples: int, token: str, credential: str, identity: bytes = b""
    ) -> tuple[str, str]:
        """Become a member. Asking again with the same credential is answered the same.

        Args:
            run_id: Of the run.
            name: What to be called in the fleet.
            tier: The one to take part in.
            examples: How many this device holds.
            token: The invitation's secret, empty without one.
            credential: The secret that this device proposes, hex.
            identity: Its public Ed25519 key, where the run has secure aggregation.

        Returns:
            The identity and the secret that this device has from now on.
        """
        request = wire.EnrolRequest(
            run_id=run_id,
            name=name,
            tier=codec.tier_to_wire(tier),
            examples=examples,
            token=token,
            credential=credential,
            identity=identity,
        )
        with faults(FINAL):
            answer = await self._stub.Enrol(request, timeout=CALL_S)
        return answer.client, answer.credential

    async def participate(self, hello: Hello, layout: Layout) -> Stream:
        """Open the stream and say hello on it."""
        # Bytes come in as they are: `Reader` makes messages of them.
        participate = self._channel.stream_stream(SERVICE + "Participate", wire.ParticipateRequest.SerializeToString)
        stream = Stream(participate(metadata=self._metadata), self._reader or Reader(layout), self._meter)
        try:
            await stream.write(
                wire.ParticipateRequest(
                    hello=wire.Hello(
                        run_id=hello.run_id,
                        protocol=PROTOCOL,
                        version=hello.position.version,
                        digest=hello.position.digest,
                        examples=hello.examples,
                        software=SOFTWARE,
                    )
                )
            )
        except BaseException:
            stream.cancel()
            raise
        return stream

    async def fetch_snapshot(self, version: int, offset: int) -> AsyncIterator[SnapshotHeader | bytes]:
        """The snapshot's header, then its bytes from an offset on."""
        request = wire.FetchSnapshotRequest(version=version, offset_bytes=offset)
        with faults(FINAL_IN_BULK, DECLINED_IN_BULK):
            async for answer in self._fetched("FetchSnapshot", request, wire.FetchSnapshotResponse):
                if answer.HasField("header"):
                    header = answer.header
                    try:
                        ranges = tuple((part.start, part.exponent) for part in header.grid_ranges)
                        yield SnapshotHeader(
                            header.version, header.grid_exponent, header.digest, header.size_bytes, ranges
                        )
                    except ValueError as error:
                        raise Broken(str(error)) from None
                if answer.chunk:
                    yield answer.chunk

    async def fetch_artifact(self, sha256: bytes, offset: int) -> AsyncIterator[bytes]:
        request = wire.FetchArtifactRequest(offset_bytes=offset, sha256=sha256)
        with faults(FINAL_IN_BULK, DECLINED_IN_BULK):
            async for answer in self._fetched("FetchArtifact", request, wire.FetchArtifactResponse):
                yield answer.chunk

    async def _fetched(self, method: str, request: Any, answers: Any) -> AsyncIterator[Any]:
        """What a call is answered with. It comes in as bytes, which are counted: a message that is asked for its size is
        serialised once more, and that left 2 MB of holes in the heap of a client that had fetched ResNet18."""
        call = self._channel.unary_stream(SERVICE + method, type(request).SerializeToString)
        async for content in call(request, metadata=self._metadata):
            self._meter.received(len(content))
            try:
                answer = parsed(content, answers, MOST_BULK_FIELDS, f"an answer to {method}")
            except ValueError as error:
                raise Broken(f"the coordinator sent what this client cannot read ({error})") from None
            yield answer

    async def uploaded(self, delta: Delta) -> int:
        """How many of a delta's bytes the coordinator has."""
        request = wire.GetUploadRequest(round=delta.round, digest=bytes.fromhex(delta.digest))
        with faults(FINAL_IN_BULK, DECLINED_IN_BULK):
            answer = await self._stub.GetUpload(request, metadata=self._metadata, timeout=CALL_S)
        return int(answer.offset_bytes)

    async def upload(self, delta: Delta, content: memoryview, offset: int) -> int:
        """Send a delta's bytes from an offset on; how many the coordinator has then."""

        def pieces() -> Iterator[wire.UploadDeltaRequest]:
            header = wire.DeltaHeader(
                round=delta.round,
                digest=bytes.fromhex(delta.digest),
                size_bytes=len(content),
                offset_bytes=offset,
            )
            yield wire.UploadDeltaRequest(header=header)
            start, size = offset, SMALLEST_CHUNK_BYTES
            while start < len(content):
                chunk, begun = bytes(content[start : start + size]), time.monotonic()
                self._meter.up_bytes += len(chunk)
                yield wire.UploadDeltaRequest(chunk=chunk)
                start, size = start + size, next_chunk(size, time.monotonic() - begun)

        self._meter.require(len(content) - offset)
        with faults(FINAL_IN_BULK, DECLINED_IN_BULK):
            answer = await self._stub.UploadDelta(pieces(), metadata=self._metadata)
        return int(answer.stored_bytes)


def offered(answer: wire.GetRunResponse, policy: Policy | None = None) -> Offer:
    """The run of an answer. Raises Final where this device cannot read it, or does not allow the code of its algorithms."""
    if answer.protocol != PROTOCOL:
        raise Final(
            f"the coordinator speaks protocol {answer.protocol} and this client {PROTOCOL}: install the same version "
            "of zowarmup on both"
        )
    for text in (answer.spec_json, answer.layout_json):
        if len(text) > LONGEST_JSON:
            raise Final(
                f"cannot read the coordinator's run: its description has {len(text)} characters, "
                f"at most {LONGEST_JSON} are read"
            )
    try:
        return Offer(
            answer.run_id,
            answer.name,
            ClientSpec.from_json(answer.spec_json, (policy or Policy()).models),
            Layout.from_json(answer.layout_json),
            answer.program_sha256,
            answer.program_bytes,
            answer.high_memory_bytes,
            answer.low_memory_bytes,
            answer.now_s,
            answer.software,
            tuple(Artifact(part.name, part.sha256.hex(), part.size_bytes) for part in answer.artifacts),
            described(answer),
        )
    except NotAllowed as error:
        raise Final(
            f"this device does not run the code of {error.named}: its owner can allow it with "
            f"{' '.join(f'--allow-model {name}' for name in error.names)}, or as one of the models in --policy"
        ) from None
    except ValueError as error:
        raise Final(f"cannot read the coordinator's run ({error}): install its version of zowarmup") from None


def described(answer: wire.GetRunResponse) -> bytes:
    """SHA-256 of the settings, the layout, the program and the other artifacts of a run: of each its length as 4 bytes,
    little-endian, and then itself."""
    found = hashlib.sha256()
    parts = [answer.spec_json.encode(), answer.layout_json.encode(), answer.program_sha256]
    for part in (*parts, *(part.sha256 for part in sorted(answer.artifacts, key=lambda part: part.name))):
        found.update(len(part).to_bytes(4, "little") + part)
    return found.digest()


def next_chunk(size: int, seconds: float) -> int:
    """How long the next chunk of an upload is to be, after one of `size` bytes that took so long to be sent."""
    if seconds < QUICK_S:
        return min(LARGEST_CHUNK_BYTES, 2 * size)
    return max(SMALLEST_CHUNK_BYTES, size // 2) if seconds > SLOW_S else size
