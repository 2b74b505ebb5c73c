"""Whose delta is whose, and what of it stays on disk: real files, and calls that cross each other."""

import asyncio
import contextlib
import hashlib
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import xxhash

from tests.faults.small import EXAMPLES, LAYOUT, PAIR, run_file
from tests.fuzz.hostile import SECRETS, coordinator
from tests.tasks import scored
from zowarmup.common.messages.values import Delta, Phase, Tier
from zowarmup.common.settings.data_card import DataCard
from zowarmup.common.settings.run import PROTOCOL
from zowarmup.server.core import commands as cmd
from zowarmup.server.core import events as ev
from zowarmup.server.core.contributions import upload_name
from zowarmup.server.core.decide import decide
from zowarmup.server.core.errors import Rejected
from zowarmup.server.core.evolve import fold
from zowarmup.server.core.state import State
from zowarmup.server.rpc.upload_writer import IncomingUpload, UploadWriter
from zowarmup.server.rpc.uploads import Uploads
from zowarmup.server.store import files
from zowarmup.server.store.blobs import Blobs, DiskRefused
from zowarmup.v1 import coordinator_pb2 as wire
from zowarmup.v1 import coordinator_pb2_grpc as services

SIZE = 1 << 18
QUOTA = 1 << 30


def vector(seed: int, size: int = SIZE) -> bytes:
    return np.random.default_rng(seed).standard_normal(size).astype("<f4").tobytes()


def digest(data: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(data)


def file_of(client: str, data: bytes) -> str:
    return upload_name(client, digest(data))


@pytest.fixture
def state() -> State:
    program = ev.ProgramRecord("b" * 64, 1, LAYOUT.to_json(), DataCard(shape=(20,), classes=4), 1, 1, *scored(4))
    return decide(
        None, cmd.CreateRun("run", run_file(PAIR), program, ev.Snapshot(0, "c" * 64, 20, "d" * 32)), 0.0
    ).state


async def upload(uploads: Uploads, client: str, data: bytes) -> str:
    async with uploads.only(client):
        name = uploads.hold(client, digest(data), len(data))
        async with uploads.incoming(name, digest(data), len(data), 0) as incoming:
            await incoming.add(data)
            await incoming.finish()
    return name


def on(tmp_path: Path, state: State, script: Callable[[Blobs, Uploads], Awaitable[None]]) -> None:
    async def run() -> None:
        blobs = Blobs(tmp_path / "blobs")
        async with asyncio.timeout(20):
            await script(blobs, Uploads(blobs, QUOTA, state))

    asyncio.run(run())


def test_a_client_names_what_it_has_uploaded_and_nothing_else(tmp_path: Path, state: State) -> None:
    async def script(blobs: Blobs, uploads: Uploads) -> None:
        data = vector(1)
        await upload(uploads, "a", data)
        uploads.hold("b", digest(data), len(data))  # as GetUpload does
        with (
            pytest.raises(Rejected, match="b has not uploaded the delta it names"),
            uploads.naming("b", digest(data)),
        ):
            pass
        await upload(uploads, "b", data)
        with uploads.naming("b", digest(data)):
            uploads.hold("a", digest(b"another"), len(data))
        assert not blobs.has_upload(file_of("a", data))
        assert blobs.has_upload(file_of("b", data)), "each has its own"
        assert uploads.lengths.keys() == {file_of("b", data)}

    on(tmp_path, state, script)


def test_an_upload_may_be_named_only_once_it_is_on_the_disk(
    tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file has its name before the folder is synced, and loses it again where that fails."""

    async def script(blobs: Blobs, uploads: Uploads) -> None:
        data, seen = vector(1), []

        def sync_folder(folder: Path) -> None:
            assert blobs.has_upload(file_of("a", data))
            try:
                with uploads.naming("a", digest(data)):
                    seen.append("named")
            except Rejected as rejected:
                seen.append(rejected.reason)

        with monkeypatch.context() as slow:
            slow.setattr(files, "sync_folder", sync_folder)
            await upload(uploads, "a", data)
        assert seen == ["malformed"]
        with uploads.naming("a", digest(data)):
            pass

    on(tmp_path, state, script)


@pytest.mark.parametrize("length", [0, 15, 17, 32])
def test_a_digest_has_sixteen_bytes(tmp_path: Path, length: int) -> None:
    """It makes the name of a file."""
    who = (("zowarmup-client", "high-1"), ("zowarmup-credential", SECRETS["high-1"]))

    async def run() -> None:
        async with (
            coordinator(tmp_path) as (life, address, _),
            grpc.aio.insecure_channel(address) as channel,
        ):
            stub: Any = services.CoordinatorServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError, match="digest must be 16 bytes"):
                await stub.GetUpload(wire.GetUploadRequest(round=1, digest=bytes(length)), metadata=who)
            header = wire.DeltaHeader(round=1, digest=bytes(length), size_bytes=4 * LAYOUT.size)
            with pytest.raises(grpc.aio.AioRpcError, match="a digest of 16"):
                await stub.UploadDelta(iter([wire.UploadDeltaRequest(header=header)]), metadata=who)
            assert not life.uploads._held

    asyncio.run(asyncio.wait_for(run(), 30))


def test_what_a_contribution_names_stays_from_the_moment_it_is_looked_at(tmp_path: Path, state: State) -> None:
    async def script(blobs: Blobs, uploads: Uploads) -> None:
        data = vector(1)
        name = await upload(uploads, "a", data)
        with uploads.naming("a", digest(data)):
            uploads.hold("a", digest(b"another"), len(data))
            uploads(0.0, [ev.Committed(1, 1, "d" * 32, (), None, ())], state)
            assert blobs.has_upload(name), "on its way into the state"
        assert not uploads._being_named, "nothing is remembered of what has arrived"
        given = Delta(1, digest(data), EXAMPLES, 0.5)
        uploads(0.0, [ev.Contributed("a", given, 1.0)], state)
        uploads.hold("a", digest(b"a third"), len(data))
        assert blobs.has_upload(name), "in the state"
        uploads(0.0, [ev.RoundAbandoned(1, "test")], state)
        assert not blobs.has_upload(name)
        assert uploads.lengths == {}

    on(tmp_path, state, script)


def test_after_a_restart_what_the_ledger_names_stays(tmp_path: Path, state: State) -> None:
    async def script(blobs: Blobs, _: Uploads) -> None:
        data = vector(1)
        name = file_of("a", data)
        blobs.spool(name, 0, data)
        blobs.finish(name, digest(data))
        opened = ev.RoundOpened(1, Phase.WARM_UP, 0, ("a",), (1,), (EXAMPLES,), 9e9, "", 1, 0.0)
        enrolled = decide(state, cmd.Enrol("a", Tier.HIGH, EXAMPLES, "5" * 64), 0.0).state
        later = fold(enrolled, (opened, ev.Contributed("a", Delta(1, digest(data), EXAMPLES, 0.5), 1.0)))
        assert later is not None
        again = Uploads(blobs, QUOTA, later)
        for other in (digest(data), digest(b"another")):
            again.hold("a", other, len(data))
        assert blobs.has_upload(name)

    on(tmp_path, state, script)


def test_after_a_restart_a_client_may_name_what_it_had_uploaded(tmp_path: Path, state: State) -> None:
    """Its stream may be back before it knows that the coordinator was gone."""

    async def script(blobs: Blobs, uploads: Uploads) -> None:
        data = vector(1)
        await upload(uploads, "a", data)
        again = Uploads(blobs, QUOTA, state)
        with pytest.raises(Rejected), again.naming("b", digest(data)):
            pass
        with again.naming("a", digest(data)):
            pass
        again(0.0, [ev.RoundAbandoned(1, "test")], state)
        with pytest.raises(Rejected), again.naming("a", digest(data)):
            pass

    on(tmp_path, state, script)


def test_a_superseded_call_has_written_its_last_before_the_next_begins(tmp_path: Path, state: State) -> None:
    """The first call's thread is late; what it brings is not what the second hashes."""
    wrong, right = vector(7)[: 1 << 19], vector(4)
    late, begun = threading.Event(), threading.Event()

    class Slow(Blobs):
        def spool(self, name: str, offset: int, *chunks: bytes | memoryview) -> None:
            if bytes(chunks[0][:4]) == wrong[:4]:
                begun.set()
                late.wait(10)
            super().spool(name, offset, *chunks)

    async def run() -> None:
        blobs = Slow(tmp_path)
        uploads = Uploads(blobs, QUOTA, state)

        async def first() -> None:
            async with uploads.only("a"):
                name = uploads.hold("a", digest(right), len(right))
                async with uploads.incoming(name, digest(right), len(right), 0) as incoming:
                    await incoming.add(wrong)
                    await incoming.settle()

        async def second() -> int:
            async with uploads.only("a"):
                name = uploads.hold("a", digest(right), len(right))
                have = blobs.spooled(name, len(right))
                async with uploads.incoming(name, digest(right), len(right), have) as incoming:
                    await incoming.add(right[have:])
                    await incoming.finish()
            return have

        older = asyncio.create_task(first())
        await asyncio.to_thread(begun.wait, 10)
        waiting = asyncio.create_task(second())
        for _ in range(3):
            await asyncio.sleep(0.05)
            assert not waiting.done()
        newer = asyncio.create_task(second())  # which supersedes the one that waits, and waits as that did
        await asyncio.sleep(0.05)
        late.set()
        for superseded in (older, waiting):
            with pytest.raises(Rejected, match="superseded"):
                await superseded
        with pytest.raises(Rejected, match="the upload's digest is"):
            await newer  # it went on from the wrong bytes, and says so
        assert not blobs.has_upload(file_of("a", right))
        assert await second() == 0
        assert blobs.upload(file_of("a", right)).read_bytes() == right

    asyncio.run(asyncio.wait_for(run(), 20))


def test_two_calls_that_finish_the_same_upload_finish_it_once(tmp_path: Path, state: State) -> None:
    data = vector(3)

    async def script(blobs: Blobs, uploads: Uploads) -> None:
        old = vector(9)
        blobs.spool("old", 0, old)
        blobs.finish("old", digest(old))
        blobs.drop_upload("old")
        blobs.empty_reusable(1, len(data))  # a spare to lie over, with a mark
        async with uploads.only("a"):
            name = uploads.hold("a", digest(data), len(data))
            async with uploads.incoming(name, digest(data), len(data), 0) as incoming:
                await incoming.add(data)

        async def ask() -> None:
            async with uploads.only("a"):
                if not blobs.has_upload(name):
                    have = blobs.spooled(name, len(data))
                    async with uploads.incoming(name, digest(data), len(data), have) as incoming:
                        await incoming.finish()

        asked = await asyncio.gather(ask(), ask(), ask(), return_exceptions=True)
        assert [type(answer) for answer in asked] == [Rejected, Rejected, type(None)]
        assert blobs.upload(name).read_bytes() == data

    on(tmp_path, state, script)


@pytest.mark.parametrize("before_the_last", [True, False])
def test_what_is_dropped_underneath_an_upload_leaves_no_hole(tmp_path: Path, before_the_last: bool) -> None:
    data = vector(2)

    async def interrupted(blobs: Blobs) -> None:
        async with IncomingUpload(UploadWriter(blobs), "a.part", digest(data), len(data), 0) as incoming:
            await incoming.add(data[: SIZE * 2])
            await incoming.settle()
            if not before_the_last:
                await incoming.add(data[SIZE * 2 :])
                await incoming.settle()
            blobs.drop_uploads(set())
            if before_the_last:
                await incoming.add(data[SIZE * 2 :])
            await incoming.finish()

    async def run() -> None:
        blobs = Blobs(tmp_path)
        with pytest.raises(Rejected, match="dropped") as refused:
            await interrupted(blobs)
        assert refused.value.reason == ("offset" if before_the_last else "damaged")
        assert not blobs.has_upload("a.part")
        assert blobs.spooled("a.part", len(data)) == 0

    asyncio.run(asyncio.wait_for(run(), 20))


def test_a_sync_that_was_refused_is_not_made_good_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system could not write it may call clean."""
    blobs, data = Blobs(tmp_path), vector(5)
    blobs.spool("a", 0, data)

    def refuse(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", refuse)
        with pytest.raises(DiskRefused):
            blobs.finish("a", digest(data))
    assert blobs.spooled("a", len(data)) == 0 and not blobs.has_upload("a")


def test_a_name_that_is_not_on_disk_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> None:
        raise OSError(5, "Input/output error")

    blobs, data = Blobs(tmp_path), vector(6)
    with monkeypatch.context() as broken:
        broken.setattr(files, "sync_folder", refuse)
        with pytest.raises(DiskRefused):
            blobs.put(data)
    sha256 = hashlib.sha256(data).hexdigest()
    assert not blobs.has(sha256)
    assert blobs.put(data) == sha256 and blobs.has(sha256)


def test_a_contribution_that_is_accepted_has_its_delta_whatever_is_uploaded_next(tmp_path: Path) -> None:
    """Real calls: DeltaReady, and at once the header of another delta."""
    base = run_file(PAIR)
    settings = replace(base, warmup=replace(base.warmup, clients_per_round=1))
    who = (("zowarmup-client", "high-1"), ("zowarmup-credential", SECRETS["high-1"]))
    first, other = vector(1, LAYOUT.size), vector(2, LAYOUT.size)

    async def whole() -> AsyncIterator[wire.UploadDeltaRequest]:
        yield wire.UploadDeltaRequest(header=header(first))
        yield wire.UploadDeltaRequest(chunk=first)

    def header(data: bytes) -> wire.DeltaHeader:
        return wire.DeltaHeader(round=1, digest=bytes.fromhex(digest(data)), size_bytes=len(data))

    async def run() -> None:
        async with (
            coordinator(tmp_path, settings) as (life, address, _),
            grpc.aio.insecure_channel(address) as channel,
        ):
            stub: Any = services.CoordinatorServiceStub(channel)
            await stub.UploadDelta(whole(), metadata=who)
            stream = stub.Participate(metadata=who)
            hello = wire.Hello(run_id=life.coordinator.state.run_id, protocol=PROTOCOL, examples=EXAMPLES)
            await stream.write(wire.ParticipateRequest(hello=hello))
            while (await stream.read()).WhichOneof("message") != "work":
                pass
            next_one = stub.UploadDelta(metadata=who)
            ready = wire.DeltaReady(round=1, digest=bytes.fromhex(digest(first)), examples=EXAMPLES, loss=0.5)
            await stream.write(wire.ParticipateRequest(delta_ready=ready))
            await next_one.write(wire.UploadDeltaRequest(header=header(other)))
            assert (await stream.read()).WhichOneof("message") == "accepted"
            assert life.blobs.has_upload(file_of("high-1", first))
            with contextlib.suppress(grpc.aio.AioRpcError):
                await next_one.done_writing()
                await next_one
            assert life.blobs.has_upload(file_of("high-1", first))
            stream.cancel()

    asyncio.run(asyncio.wait_for(run(), 30))


def test_small_pieces_of_a_delta_count_as_messages(tmp_path: Path) -> None:
    base = run_file(PAIR)
    who = (("zowarmup-client", "high-1"), ("zowarmup-credential", SECRETS["high-1"]))
    data, said = vector(1, LAYOUT.size), 0

    async def crumbs() -> AsyncIterator[wire.UploadDeltaRequest]:
        nonlocal said
        yield wire.UploadDeltaRequest(
            header=wire.DeltaHeader(round=1, digest=bytes.fromhex(digest(data)), size_bytes=len(data))
        )
        while True:
            said += 1
            yield wire.UploadDeltaRequest(chunk=b"")

    async def run() -> None:
        async with (
            coordinator(tmp_path, base, rate=10.0) as (_, address, refusals),
            grpc.aio.insecure_channel(address) as channel,
        ):
            stub: Any = services.CoordinatorServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.UploadDelta(crumbs(), metadata=who)
            assert dict(refusals.counts()) == {"too_many": 1}

    asyncio.run(asyncio.wait_for(run(), 30))
