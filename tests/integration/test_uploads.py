"""Uploads by real calls, that cross each other."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import xxhash

from tests.faults.small import EXAMPLES, LAYOUT, PAIR, run_file
from tests.fuzz.hostile import SECRETS, coordinator
from zowarmup.common.messages.values import Abstention
from zowarmup.common.settings.run import PROTOCOL
from zowarmup.server.core import commands as cmd
from zowarmup.server.core.contributions import upload_name
from zowarmup.v1 import coordinator_pb2 as wire
from zowarmup.v1 import coordinator_pb2_grpc as services

SIZE = 1 << 18
QUOTA = 1 << 30


def vector(seed: int, size: int = SIZE) -> bytes:
    return np.random.default_rng(seed).standard_normal(size).astype("<f4").tobytes()


def digest(data: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(data)


def file_of(client: str, data: bytes) -> str:
    return upload_name(client, 1, digest(data))


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
            assert life.uploads.store.has(file_of("high-1", first))
            with contextlib.suppress(grpc.aio.AioRpcError):
                await next_one.done_writing()
                await next_one
            assert life.uploads.store.has(file_of("high-1", first))
            stream.cancel()

    asyncio.run(asyncio.wait_for(run(), 30))


def test_a_round_that_another_coordinator_has_given_out_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that comes from there must not give its work up because this one is a moment behind."""
    who = (("zowarmup-client", "high-1"), ("zowarmup-credential", SECRETS["high-1"]))
    data = vector(1, LAYOUT.size)
    header = wire.DeltaHeader(round=2, digest=bytes.fromhex(digest(data)), size_bytes=len(data))

    async def run() -> None:
        async with (
            coordinator(tmp_path) as (life, address, _),
            grpc.aio.insecure_channel(address) as channel,
        ):
            lead, stub = life.coordinator, services.CoordinatorServiceStub(channel)
            asked: Any = stub

            async def hear_of_the_next_round() -> None:
                if lead.state.round == 1:
                    await lead.handle(cmd.Abstain("high-1", Abstention(1, "test")))

            monkeypatch.setattr(lead, "caught_up", hear_of_the_next_round)
            assert lead.state.round == 1
            request = wire.GetUploadRequest(round=2, digest=header.digest)
            assert (await asked.GetUpload(request, metadata=who)).offset_bytes == 0
            assert lead.state.round == 2
            messages = [wire.UploadDeltaRequest(header=header), wire.UploadDeltaRequest(chunk=data)]
            assert (await asked.UploadDelta(iter(messages), metadata=who)).stored_bytes == len(data)
            with pytest.raises(grpc.aio.AioRpcError, match="there has been no round 3"):
                await asked.GetUpload(wire.GetUploadRequest(round=3, digest=header.digest), metadata=who)

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
            assert refusals == {"too_many": 1}

    asyncio.run(asyncio.wait_for(run(), 30))
