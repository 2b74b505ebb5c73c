"""Where both tiers train, each uploads a delta of its own length and no other's: real calls to a coordinator here."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import xxhash

from tests.algorithms import changed
from tests.faults.small import EXAMPLES, LAYOUT, PAIR, run_file
from tests.fuzz.hostile import SECRETS, coordinator
from zowarmup.common.exact.submodel import half_width
from zowarmup.common.settings.run import PROTOCOL
from zowarmup.v1 import coordinator_pb2 as wire
from zowarmup.v1 import coordinator_pb2_grpc as services

PART = half_width(LAYOUT).layout.size
HIGH, LOW = ((("zowarmup-client", name), ("zowarmup-credential", SECRETS[name])) for name in ("high-1", "low-1"))


def delta(size: int) -> bytes:
    return np.full(size, 0.5, "<f4").tobytes()


def digest(size: int) -> bytes:
    return xxhash.xxh3_128_digest(delta(size))


async def pieces(size: int) -> AsyncIterator[wire.UploadDeltaRequest]:
    header = wire.DeltaHeader(round=1, digest=digest(size), size_bytes=4 * size)
    yield wire.UploadDeltaRequest(header=header)
    yield wire.UploadDeltaRequest(chunk=delta(size))


def test_a_tier_uploads_and_names_deltas_of_its_own_length(tmp_path: Path) -> None:
    base = run_file(PAIR)
    settings = replace(base, warmup=changed(base.warmup, "heterofl", clients_per_round=2, quorum=0.5))

    async def script() -> None:
        async with (
            coordinator(tmp_path, settings) as (life, address, refusals),
            grpc.aio.insecure_channel(address) as c,
        ):
            stub: Any = services.CoordinatorServiceStub(c)
            for who, name, right, wrong in ((HIGH, "high-1", LAYOUT.size, PART), (LOW, "low-1", PART, LAYOUT.size)):
                with pytest.raises(grpc.aio.AioRpcError, match=f"a delta of {name} has {4 * right} bytes"):
                    await stub.UploadDelta(pieces(wrong), metadata=who)
                assert (await stub.UploadDelta(pieces(right), metadata=who)).stored_bytes == 4 * right
            stream = stub.Participate(metadata=LOW)
            hello = wire.Hello(run_id=life.coordinator.state.run_id, protocol=PROTOCOL, examples=EXAMPLES)
            await stream.write(wire.ParticipateRequest(hello=hello))
            answers: list[Any] = []
            theirs = await stub.GetUpload(wire.GetUploadRequest(round=1, digest=digest(LAYOUT.size)), metadata=LOW)
            assert theirs.offset_bytes == 0, "these bytes are another's"
            for size in (LAYOUT.size, PART):
                if size == PART:  # its own went when it named another
                    await stub.UploadDelta(pieces(PART), metadata=LOW)
                ready = wire.DeltaReady(round=1, digest=digest(size), examples=EXAMPLES, loss=0.5)
                await stream.write(wire.ParticipateRequest(delta_ready=ready))
                async with asyncio.timeout(20):
                    while (message := await stream.read()).WhichOneof("message") not in ("accepted", "refused"):
                        pass
                answers.append(message)
            assert answers[0].refused.reason == "malformed"
            assert answers[0].refused.detail == "low-1 has not uploaded the delta it names: ask GetUpload"
            assert answers[1].HasField("accepted")
            assert refusals["malformed"] == 3
            stream.cancel()

    asyncio.run(script())
