"""Hostile calls: a short form of what `make fuzz` ends with."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import xxhash

from tests.faults.small import LAYOUT
from tests.fuzz.hostile import SECRETS, assault, coordinator
from zowarmup.server.blobs import upload_name
from zowarmup.v1 import coordinator_pb2 as wire
from zowarmup.v1 import coordinator_pb2_grpc as services

CALLS = 1500


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2])
def test_hostile_calls_change_nothing_and_leave_nothing_behind(seed: int) -> None:
    found = asyncio.run(assault(CALLS, seed))
    assert found.unchanged and found.serving
    assert sum(found.answers.values()) == CALLS
    assert not set(found.answers) & {"UNKNOWN", "DEADLINE_EXCEEDED"}, found.answers
    assert found.grown_mb < 64
    assert {"unauthenticated", "invalid", "malformed", "too_long", "late"} <= set(found.reasons), found.reasons


@pytest.mark.parametrize("value", [3e38, -1e30, float("nan"), float("inf"), 2.0**20])
def test_a_delta_that_no_model_survives_is_refused_before_it_counts(tmp_path: Path, value: float) -> None:
    """It would have ended the coordinator as it combined the round, and again after each restart."""

    async def upload() -> tuple[str, dict[str, int], bool]:
        async with coordinator(tmp_path) as (life, address, refusals), grpc.aio.insecure_channel(address) as channel:
            content = np.full(LAYOUT.size, value, "<f4").tobytes()
            header = wire.DeltaHeader(
                round=1, digest=xxhash.xxh3_128_digest(content), size_bytes=len(content), offset_bytes=0
            )
            messages = [wire.UploadDeltaRequest(header=header), wire.UploadDeltaRequest(chunk=content)]
            stub: Any = services.CoordinatorServiceStub(channel)
            who = (("zowarmup-client", "high-1"), ("zowarmup-credential", SECRETS["high-1"]))
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.UploadDelta(iter(messages), metadata=who)
            held = life.blobs.has_upload(upload_name("high-1", header.digest.hex()))
            return refused.value.details() or "", dict(refusals.counts()), held

    details, reasons, held = asyncio.run(upload())
    assert "not finite or reach" in details
    assert reasons == {"too_large": 1} and not held
