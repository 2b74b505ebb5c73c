"""What the coordinator's services put up with: real gRPC calls on loopback against a coordinator in this process."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import xxhash

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.tasks import scored
from zowarmup.common.exact.layout import Block, Layout, Tensor
from zowarmup.common.exact.steps import Step
from zowarmup.common.messages.values import Scalars, Tier
from zowarmup.common.settings.data_card import DataCard
from zowarmup.common.settings.run import PROTOCOL, Evaluation, Guard, Model, RunFile
from zowarmup.server.coordinator import Coordinator
from zowarmup.server.core import commands as cmd
from zowarmup.server.core import events as ev
from zowarmup.server.core.contributions import upload_name
from zowarmup.server.core.decide import decide
from zowarmup.server.core.errors import Rejected
from zowarmup.server.projections.history import History
from zowarmup.server.projections.traffic import Traffic
from zowarmup.server.rpc import bulk
from zowarmup.server.rpc.auth import Admission, hash_secret
from zowarmup.server.rpc.limits import (
    CALL_LIMITS,
    LONGEST_BYTES,
    SMALL_BYTES,
    CallLimits,
    MessageSizeInterceptor,
    RateLimiter,
    TokenBucket,
)
from zowarmup.server.rpc.participate import CoordinatorService
from zowarmup.server.rpc.strangers import OPEN_AT_ONCE, OPEN_PER_S, Strangers
from zowarmup.server.rpc.streams import StreamRegistry
from zowarmup.server.store.archive import UPLOADS
from zowarmup.server.store.blob_files import BlobFiles
from zowarmup.server.store.ledger import Ledger
from zowarmup.server.store.uploads import UploadStore
from zowarmup.v1 import coordinator_pb2 as wire
from zowarmup.v1 import coordinator_pb2_grpc as services

SIZE = 1000
LAYOUT = Layout((Tensor("w", (SIZE,), 0),), SIZE, SIZE, (Block("all", 0, SIZE),))
CREDENTIAL = "5" * 64


@dataclass
class Desk:
    """A coordinator that serves on `address`, and calls to it."""

    coordinator: Coordinator
    refusals: Counter[str]
    blobs_dir: Path
    address: str
    stream_registry: StreamRegistry
    channels: list[grpc.aio.Channel] = field(default_factory=list)

    @property
    def stub(self) -> Any:
        channel = grpc.aio.insecure_channel(self.address, options=(("grpc.use_local_subchannel_pool", 1),))
        self.channels.append(channel)
        return services.CoordinatorServiceStub(channel)

    async def enrol(self, name: str, tier: Tier = Tier.LOW) -> tuple[tuple[str, str], ...]:
        """The metadata of a new member."""
        await self.coordinator.handle(cmd.Enrol(name, tier, 1, hash_secret(CREDENTIAL + name)))
        return ("zowarmup-client", name), ("zowarmup-credential", CREDENTIAL + name)

    async def join(self, name: str, tier: Tier = Tier.LOW) -> Any:
        call = self.stub.Participate(metadata=await self.enrol(name, tier))
        hello = wire.Hello(run_id="run", protocol=PROTOCOL, examples=1, digest=bytes(16))
        await call.write(wire.ParticipateRequest(hello=hello))
        return call


Script = Callable[[Desk], Awaitable[None]]


def served(
    tmp_path: Path,
    script: Script,
    warmup: int = 0,
    quota: int = 1 << 30,
    rate: float = 5.0,
    call_limits: CallLimits = CALL_LIMITS,
) -> None:
    """Run a script against a coordinator whose rounds have one participant."""
    run = RunFile(
        name="x",
        draws="seed",
        model=Model(name="mlp"),
        warmup=warmup_settings(rounds=warmup, clients_per_round=2),
        zeroth_order=zeroth_order_settings(rounds=1000, clients_per_round=1, probes=1),
        evaluation=Evaluation(data="digits:test"),
        guard=Guard(factor=0),  # nobody evaluates anything here
    )

    async def serve() -> None:
        ledger, blobs, history = Ledger(tmp_path / "ledger"), BlobFiles(tmp_path / "blobs"), History()
        created = decide(
            None,
            cmd.CreateRun(
                "run",
                run,
                ev.ProgramRecord("b" * 64, 1, LAYOUT.to_json(), DataCard(shape=(1,), classes=2), 1, 1, *scored(2)),
                ev.Snapshot(0, "c" * 64, 20, "d" * 32),
            ),
            0.0,
        )
        history.record(0.0, created.events)
        state = created.state
        coordinator, refusals, rate_limiter = Coordinator(ledger, state), Counter[str](), RateLimiter(rate)
        uploads = UploadStore(BlobFiles(tmp_path / UPLOADS), quota, state)
        stream_registry = StreamRegistry(history, rate_limiter)
        coordinator.observe(lambda now, events, after: history.record(now, events))
        coordinator.observe(stream_registry)
        coordinator.observe(uploads)
        server = grpc.aio.server(
            interceptors=(MessageSizeInterceptor(refusals),),
            options=(("grpc.max_receive_message_length", LONGEST_BYTES),),
        )
        admission = Admission(coordinator, "", refusals=refusals)
        service = CoordinatorService(
            coordinator,
            blobs,
            stream_registry,
            Traffic(lambda: coordinator.state.phase),
            admission,
            uploads,
            rate_limiter,
            Strangers(OPEN_PER_S, OPEN_AT_ONCE),
            call_limits,
        )
        services.add_CoordinatorServiceServicer_to_server(service, server)
        port = server.add_insecure_port("127.0.0.1:0")
        running = asyncio.create_task(coordinator.run())
        await server.start()
        await coordinator.handle(cmd.Tick())
        desk = Desk(coordinator, refusals, tmp_path / "blobs", f"127.0.0.1:{port}", stream_registry)
        try:
            async with asyncio.timeout(20):
                await script(desk)
        finally:
            for channel in desk.channels:
                await channel.close(None)
            await server.stop(0)
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            ledger.close()

    asyncio.run(serve())


async def ending(call: Any) -> tuple[grpc.StatusCode, str]:
    """Read a stream to its end: its status and the reason that the coordinator gave."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        while await call.read() is not grpc.aio.EOF:  # type: ignore[attr-defined]
            pass
    return await call.code(), str(dict(await call.trailing_metadata()).get("zowarmup-reason", ""))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_a_bucket_gives_what_has_come_back() -> None:
    bucket = TokenBucket(rate=2.0, burst=3.0, left=3.0, at=10.0)
    assert [bucket.take(10.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(10.5), bucket.take(10.5)] == [True, False]
    assert not bucket.take(9.0), "a clock that goes back gives nothing"
    bucket.give(1)
    assert bucket.take(9.0)
    assert [bucket.take(1e6) for _ in range(4)] == [True, True, True, False], "never more than the burst"


@pytest.mark.parametrize("messages", [1, 4])
def test_work_is_worth_the_messages_that_it_takes(messages: int) -> None:
    rate_limiter = RateLimiter(rate=1.0, clock=lambda: 5.0)
    for number in range(1000):
        rate_limiter.grant("pi", "round", number, messages)
        for _ in range(messages):
            rate_limiter.spend("pi")
    for _ in range(20 - messages):  # of the burst, which the first of it was on top of
        rate_limiter.spend("pi")
    with pytest.raises(Rejected) as refused:
        rate_limiter.spend("pi")
    assert refused.value.reason == "too_many"
    rate_limiter.spend("another")


def test_what_is_asked_for_again_is_worth_nothing() -> None:
    rate_limiter = RateLimiter(rate=1.0, clock=lambda: 5.0)

    def said() -> int:
        """How many messages are left."""
        count = 0
        with contextlib.suppress(Rejected):
            while True:
                rate_limiter.spend("pi")
                count += 1
        return count

    assert said() == 20
    for _ in range(3):
        rate_limiter.grant("pi", "round", 7, 4)
        rate_limiter.grant("pi", "snapshot", 0, 1)
    rate_limiter.grant("another", "round", 8, 4)
    assert said() == 5
    rate_limiter.grant("pi", "round", 6, 4)
    assert said() == 0
    rate_limiter.grant("pi", "round", 8, 4)
    assert said() == 4


def test_one_that_reconnects_again_and_again_is_slowed_down(tmp_path: Path) -> None:
    """Each of its streams is told to fetch a snapshot, for its digest is wrong, and to work."""

    async def script(desk: Desk) -> None:
        metadata, stub = await desk.enrol("a"), desk.stub
        hello = wire.Hello(run_id="run", protocol=PROTOCOL, examples=1, digest=bytes(16))
        streams = 0
        while True:
            call = stub.Participate(metadata=metadata)
            await call.write(wire.ParticipateRequest(hello=hello))
            try:
                told = [(await call.read()).WhichOneof("message") for _ in range(3)]
            except grpc.aio.AioRpcError:
                break
            assert told == ["welcome", "fetch", "work"]
            call.cancel()
            streams += 1
            assert streams < 60
            await until(lambda: not desk.coordinator.state.presence["a"].connected)
        assert streams >= 20
        assert await ending(call) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "too_many")

    served(tmp_path, script, rate=1.0)


def test_a_message_that_is_too_long_is_refused_unparsed(tmp_path: Path) -> None:
    async def script(desk: Desk) -> None:
        call = await desk.join("a")
        before = desk.coordinator.state.clients
        await call.write(wire.ParticipateRequest(scalars=wire.Scalars(round=1, probes=[1.0] * (SMALL_BYTES // 4))))
        assert await ending(call) == (grpc.StatusCode.INVALID_ARGUMENT, "too_long")
        metadata = await desk.enrol("b")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await desk.stub.GetUpload(wire.GetUploadRequest(digest=bytes(SMALL_BYTES)), metadata=metadata)
        assert "at most 65536 are allowed here" in str(refused.value.details())
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await desk.stub.GetUpload(wire.GetUploadRequest(digest=bytes(LONGEST_BYTES)), metadata=metadata)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert desk.refusals == {"too_long": 2}
        assert desk.coordinator.state.clients["a"] == before["a"]

    served(tmp_path, script)


def test_one_that_says_too_much_is_cut_off_and_the_others_are_not(tmp_path: Path) -> None:
    async def script(desk: Desk) -> None:
        calm, loud = await desk.join("calm"), await desk.join("loud")
        report = wire.ParticipateRequest(report=wire.Report(version=1, digest=bytes(16)))
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            for _ in range(60):
                await loud.write(report)
        # One that writes at the very moment hears only that the stream has ended: grpc.aio's client has it so.
        assert await ending(loud) in ((grpc.StatusCode.RESOURCE_EXHAUSTED, "too_many"), (grpc.StatusCode.INTERNAL, ""))
        await until(lambda: not desk.coordinator.state.presence["loud"].connected)
        await calm.write(report)
        await until(lambda: desk.coordinator.state.presence["calm"].version == 1)
        assert desk.refusals == {"too_many": 1}

    served(tmp_path, script)


def test_a_coordinator_that_stops_says_so_to_whoever_is_there_and_whoever_comes(tmp_path: Path) -> None:
    """So they go to another. What is told on the stream before is heard."""

    async def script(desk: Desk) -> None:
        there = await desk.join("a")
        assert (await there.read()).WhichOneof("message") == "welcome"
        desk.stream_registry.close_all()
        assert await ending(there) == (grpc.StatusCode.UNAVAILABLE, "stopping")
        assert await ending(await desk.join("b")) == (grpc.StatusCode.UNAVAILABLE, "stopping")
        await until(lambda: not any(one.connected for one in desk.coordinator.state.presence.values()))
        assert not desk.refusals, "nobody's fault"

    served(tmp_path, script)


def test_one_that_says_nothing_is_not_waited_for(tmp_path: Path) -> None:
    async def script(desk: Desk) -> None:
        call = desk.stub.Participate(metadata=await desk.enrol("a"))
        assert await ending(call) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "too_slow")

    served(tmp_path, script, call_limits=CallLimits(hello_s=0.2))


def test_a_reader_that_stalls_holds_back_no_one_and_is_cut_off(tmp_path: Path) -> None:
    async def script(desk: Desk) -> None:
        a = await desk.join("a")
        stalled = [await desk.join(f"stalled-{n}") for n in range(5)]
        reader = await desk.join("reader")
        await until(lambda: len([p for p in desk.coordinator.state.presence.values() if p.connected]) == 7)
        # As the rounds draw only one, let it be `a`: the others are there to be sent commits.
        for version in range(1, 11):
            await until(lambda: desk.coordinator.state.current is not None)
            current = desk.coordinator.state.current
            assert current is not None
            (drawn,) = current.seeds
            contribution = Scalars(current.number, (1.0,), ())
            await desk.coordinator.handle(cmd.Contribute(drawn, contribution))
            step = Step(version, LAYOUT.blocks[0], (1 << 13,) * 200_000)
            await desk.coordinator.handle(
                cmd.CommitRound(ev.Committed(version, current.number, f"{version:032x}", (step,), None, ()))
            )
        versions: list[int] = []
        async with asyncio.timeout(5):
            while 10 not in versions:
                message = await reader.read()
                if message.HasField("commit"):
                    versions.append(message.commit.version)
        assert versions == list(range(1, 11))
        await until(lambda: desk.refusals.get("too_slow", 0) >= 5)
        presence = desk.coordinator.state.presence
        await until(lambda: not any(desk.coordinator.state.presence[f"stalled-{n}"].connected for n in range(5)))
        assert presence["reader"].connected
        for call in stalled:
            code, _ = await ending(call)
            assert code is not grpc.StatusCode.OK
        a.cancel()

    served(tmp_path, script, call_limits=CallLimits(stream_s=1.0))


def delta(seed: int) -> bytes:
    return np.full(SIZE, seed, "<f4").tobytes()


async def pieces(data: bytes, sent: bytes, offset: int = 0) -> AsyncIterator[wire.UploadDeltaRequest]:
    """A header for `data`, then the bytes `sent`."""
    header = wire.DeltaHeader(round=1, digest=xxhash.xxh3_128_digest(data), size_bytes=len(data), offset_bytes=offset)
    yield wire.UploadDeltaRequest(header=header)
    yield wire.UploadDeltaRequest(chunk=sent)


def test_uploads_have_a_quota_and_their_files_go_with_the_round(tmp_path: Path) -> None:
    async def script(desk: Desk) -> None:
        for name in ("a", "b"):
            await desk.join(name, Tier.HIGH)
        await until(lambda: desk.coordinator.state.current is not None)
        a, b = [(("zowarmup-client", name), ("zowarmup-credential", CREDENTIAL + name)) for name in ("a", "b")]
        stub = desk.stub
        assert (await stub.UploadDelta(pieces(delta(1), delta(1)[:400]), metadata=a)).stored_bytes == 400
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.UploadDelta(pieces(delta(2), delta(2)), metadata=b)
        trailing: Any = refused.value.trailing_metadata()
        assert dict(trailing)["zowarmup-reason"] == "uploads_full"
        assert "server.uploads_mb" in str(refused.value.details())
        # Another delta of the same client takes the place of its first.
        assert (await stub.UploadDelta(pieces(delta(3), delta(3)), metadata=a)).stored_bytes == 4 * SIZE
        uploads = BlobFiles(desk.blobs_dir / "uploads")
        assert uploads.parts() == set()
        name = upload_name("a", 1, xxhash.xxh3_128_hexdigest(delta(3)))
        assert uploads.names() == {name}
        await desk.coordinator.handle(cmd.Revoke("a", "test"))
        await desk.coordinator.handle(cmd.Revoke("b", "test"))
        assert uploads.names() == set(), "the round is over"

    served(tmp_path, script, warmup=1, quota=6 * SIZE)


def test_a_client_has_one_upload_at_a_time_the_newest(tmp_path: Path) -> None:
    async def script(desk: Desk) -> None:
        for name in ("a", "b"):
            await desk.join(name, Tier.HIGH)
        await until(lambda: desk.coordinator.state.current is not None)
        a = (("zowarmup-client", "a"), ("zowarmup-credential", CREDENTIAL + "a"))
        data, arrived = delta(1), asyncio.Event()

        async def stuck() -> AsyncIterator[wire.UploadDeltaRequest]:
            async for piece in pieces(data, data[:400]):
                yield piece
            arrived.set()
            await asyncio.Event().wait()

        first = desk.stub.UploadDelta(stuck(), metadata=a)
        await arrived.wait()
        parts = desk.blobs_dir / "uploads" / "parts"
        await until(lambda: any(path.stat().st_size == 400 for path in parts.iterdir()))
        second = await desk.stub.UploadDelta(pieces(data, data[400:], offset=400), metadata=a)
        assert second.stored_bytes == 4 * SIZE
        assert await first.code() is grpc.StatusCode.ABORTED

    served(tmp_path, script, warmup=1)


def test_a_link_is_measured_for_members_within_bounds(tmp_path: Path) -> None:
    async def script(desk: Desk) -> None:
        member = await desk.enrol("a")

        async def measured(wanted: int, *fillers: int, who: Any = member) -> list[tuple[int, int]]:
            async def messages() -> AsyncIterator[wire.MeasureLinkRequest]:
                yield wire.MeasureLinkRequest(wanted_bytes=wanted)
                for size in fillers:
                    yield wire.MeasureLinkRequest(filler=bytes(size))

            answers = desk.stub.MeasureLink(messages(), metadata=who)
            return [(answer.received_bytes, len(answer.filler)) async for answer in answers]

        assert await measured(0, 5, 6) == [(11, 0)]
        assert await measured(70_000) == [(0, 0), (0, 1 << 16), (0, 70_000 - (1 << 16))]
        for wanted, fillers, who, reason in (
            (CALL_LIMITS.measured_bytes + 1, (), member, "invalid"),
            (1, [60_000] * (CALL_LIMITS.measured_bytes // 60_000 + 1), member, "invalid"),
            (1, [0] * bulk.MEASURED_MESSAGES, member, "invalid"),
            (1, (SMALL_BYTES + 1,), member, "too_long"),
            (1, (), (), "unauthenticated"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await measured(wanted, *fillers, who=who)
            trailing: Any = refused.value.trailing_metadata()
            assert dict(trailing)["zowarmup-reason"] == reason

    served(tmp_path, script, rate=100.0)


def lay_blobs(desk: Desk) -> None:
    """The program and the first snapshot of the run, of more bytes than wait in any buffer."""
    for name in ("b" * 64, "c" * 64):
        with (desk.blobs_dir / name).open("wb") as file:
            file.truncate(64 << 20)


def test_the_newest_downloads_of_a_client_supersede_its_older_ones(tmp_path: Path) -> None:
    async def script(desk: Desk) -> None:
        lay_blobs(desk)
        a, b = await desk.enrol("a"), await desk.enrol("b")
        calls = [desk.stub.FetchSnapshot(wire.FetchSnapshotRequest(), metadata=b)]
        await calls[0].read()
        for _ in range(2):
            calls.append(desk.stub.FetchSnapshot(wire.FetchSnapshotRequest(), metadata=a))
            await calls[-1].read()
            calls.append(desk.stub.FetchArtifact(wire.FetchArtifactRequest(), metadata=a))
            await calls[-1].read()
        link = desk.stub.MeasureLink(metadata=a)
        await link.write(wire.MeasureLinkRequest(wanted_bytes=1))
        # No status waits behind what a stalled reader has been sent: the stream may be reset.
        ended = {grpc.StatusCode.ABORTED, grpc.StatusCode.CANCELLED}
        assert [(await ending(call))[0] in ended for call in calls[1:4]] == [True] * 3
        assert desk.refusals == {}
        for call in (calls[0], calls[4]):
            size = 0
            while (message := await call.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
                size += len(message.chunk)
            assert size > 63 << 20 and await call.code() is grpc.StatusCode.OK
        await link.done_writing()
        assert await ending(link) == (grpc.StatusCode.OK, "")

    served(tmp_path, script, rate=100.0)


@pytest.mark.parametrize("kind", ["snapshot", "program", "link", "upload"])
def test_a_transfer_ends_with_the_revocation(tmp_path: Path, kind: str) -> None:
    """That of the client which is revoked, and nobody else's."""

    async def begun(desk: Desk, who: tuple[tuple[str, str], ...]) -> Any:
        if kind == "snapshot":
            call = desk.stub.FetchSnapshot(wire.FetchSnapshotRequest(), metadata=who)
        elif kind == "program":
            call = desk.stub.FetchArtifact(wire.FetchArtifactRequest(), metadata=who)
        elif kind == "link":
            call = desk.stub.MeasureLink(metadata=who)
            await call.write(wire.MeasureLinkRequest(wanted_bytes=1))
            return call
        else:
            call = desk.stub.UploadDelta(metadata=who)
            header = wire.DeltaHeader(round=1, digest=bytes(16), size_bytes=4 * SIZE)
            await call.write(wire.UploadDeltaRequest(header=header))
            await call.write(wire.UploadDeltaRequest(chunk=bytes(4)))
            return call
        await call.read()
        return call

    async def script(desk: Desk) -> None:
        lay_blobs(desk)
        tier = Tier.HIGH if kind == "upload" else Tier.LOW
        streams = [await desk.join(name, tier) for name in ("thief", "other")]
        for stream in streams:
            await stream.read()
        who = {n: (("zowarmup-client", n), ("zowarmup-credential", CREDENTIAL + n)) for n in ("thief", "other")}
        call, other = await begun(desk, who["thief"]), await begun(desk, who["other"])
        if kind == "upload":
            await until(lambda: len(list((desk.blobs_dir / "uploads" / "parts").iterdir())) >= 2)
        await desk.coordinator.handle(cmd.Revoke("thief", "stolen"))
        # A status does not wait behind what a reader has not taken: the call may be reset instead.
        reset = kind in ("snapshot", "program")
        if kind == "upload":
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            said: Any = caught.value.trailing_metadata()
            code, reason = caught.value.code(), dict(said)["zowarmup-reason"]
        else:
            code, reason = await ending(call)
        refused = (grpc.StatusCode.PERMISSION_DENIED, "revoked")
        assert (code, reason) == refused or (reset and code is grpc.StatusCode.CANCELLED), (code, reason)
        assert desk.refusals["revoked"] >= 1
        assert not other.done()

    served(tmp_path, script, warmup=1 if kind == "upload" else 0, rate=100.0)


@pytest.mark.parametrize("kind", ["snapshot", "program", "link"])
def test_a_download_that_nobody_reads_is_ended(tmp_path: Path, kind: str) -> None:
    async def script(desk: Desk) -> None:
        lay_blobs(desk)
        a, stub = await desk.enrol("a"), desk.stub
        if kind == "snapshot":
            call = stub.FetchSnapshot(wire.FetchSnapshotRequest(), metadata=a)
        elif kind == "program":
            call = stub.FetchArtifact(wire.FetchArtifactRequest(), metadata=a)
        else:
            call = stub.MeasureLink(metadata=a)
            await call.write(wire.MeasureLinkRequest(wanted_bytes=64 << 20))
            await call.done_writing()
        await call.read()
        await until(lambda: desk.refusals == {"too_slow": 1})
        assert (await ending(call))[0] in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED)

    served(tmp_path, script, call_limits=CallLimits(download_s=0.5, measured_bytes=64 << 20))


def test_a_download_that_is_slow_is_not_ended(tmp_path: Path) -> None:
    async def script(desk: Desk) -> None:
        lay_blobs(desk)
        call = desk.stub.FetchArtifact(wire.FetchArtifactRequest(), metadata=await desk.enrol("a"))
        began = time.monotonic()
        while await call.read() is not grpc.aio.EOF:  # type: ignore[attr-defined]
            await asyncio.sleep(0.02)
        assert await call.code() is grpc.StatusCode.OK
        assert time.monotonic() > began + 2

    served(tmp_path, script, call_limits=CallLimits(download_s=1.0))


def test_a_measurement_that_never_ends_is_ended(tmp_path: Path) -> None:
    async def script(desk: Desk) -> None:
        call = desk.stub.MeasureLink(metadata=await desk.enrol("a"))
        await call.write(wire.MeasureLinkRequest(wanted_bytes=1))
        assert await ending(call) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "too_slow")

    served(tmp_path, script, call_limits=CallLimits(measured_s=0.2))
