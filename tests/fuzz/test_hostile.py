"""Hostile calls: a short form of what `make fuzz` ends with. And one client that knows how its deltas are digested."""

import asyncio
import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import xxhash

from tests.faults.small import EXAMPLES, LAYOUT, Client, run_file
from tests.fuzz.hostile import HONEST, PROGRESS, SECRETS, assault, coordinator, secret, tick
from zowarmup.common.messages.values import Tier
from zowarmup.common.settings.run import PROTOCOL
from zowarmup.server.core.contributions import upload_name
from zowarmup.v1 import coordinator_pb2 as wire
from zowarmup.v1 import coordinator_pb2_grpc as services

CALLS = 1500


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2])
def test_hostile_calls_change_nothing_and_leave_nothing_behind(seed: int) -> None:
    found = asyncio.run(assault(CALLS, seed))
    assert found.unchanged and found.serving
    assert found.contributed <= set(HONEST), "nothing hostile counts"
    assert found.versions > CALLS // PROGRESS, "the honest members do not wait for the others"
    assert sum(found.answers.values()) == CALLS
    assert not set(found.answers) & {"UNKNOWN", "DEADLINE_EXCEEDED"}, found.answers
    assert found.grown_mb < 64
    assert {"unauthenticated", "invalid", "malformed", "too_long", "not_assigned"} <= set(found.reasons), found.reasons


@pytest.mark.parametrize("kind", ["abstains", "is refused", "vanishes", "floods with Hello", "is silent"])
def test_a_member_of_three_that_is_at_its_worst_in_every_round_does_not_stop_the_run(tmp_path: Path, kind: str) -> None:
    """The other two can carry the run, and do; a round needs all that it draws. Five abandoned in a row would pause it."""
    fleet = {"high-1": Tier.HIGH, "honest-1": Tier.HIGH, "honest-2": Tier.HIGH}
    settings = run_file(fleet)
    rules = replace(settings.warmup, rounds=1000, clients_per_round=3, minimum_clients=2, deadline_s=2.0)

    async def at_its_worst(stub: Any, run_id: str) -> None:
        who = (("zowarmup-client", "high-1"), ("zowarmup-credential", secret("high-1")))
        while True:
            stream = stub.Participate(metadata=who)
            hello = wire.Hello(run_id=run_id, protocol=PROTOCOL, examples=EXAMPLES, version=7, digest=bytes(16))
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await stream.write(wire.ParticipateRequest(hello=hello))
                while isinstance(message := await stream.read(), wire.ParticipateResponse):
                    if kind == "floods with Hello" or (kind == "vanishes" and message.HasField("work")):
                        break
                    if kind == "abstains" and message.HasField("work"):
                        said = wire.Abstention(round=message.work.round, reason="I would rather not")
                        await stream.write(wire.ParticipateRequest(abstention=said))
                    if kind == "is refused" and message.HasField("work"):
                        ready = wire.DeltaReady(round=message.work.round, digest=bytes(16), examples=EXAMPLES, loss=0.5)
                        await stream.write(wire.ParticipateRequest(delta_ready=ready))
            stream.cancel()
            await asyncio.sleep(0.01)

    async def versions() -> int:
        async with (
            coordinator(tmp_path, replace(settings, warmup=rules), fleet=fleet) as (life, address, _),
            grpc.aio.insecure_channel(address) as channel,
        ):
            lead, honest = life.coordinator, [Client(name, Tier.HIGH) for name in fleet if name != "high-1"]
            hostile = at_its_worst(services.CoordinatorServiceStub(channel), lead.state.run_id)
            beside = [asyncio.create_task(job) for job in (life.round_jobs.run(), tick(lead), hostile)]
            while lead.state.version < 40:
                assert not lead.state.paused, lead.state.paused
                assert not any(task.done() for task in beside)
                await asyncio.gather(*(client.contribute(life) for client in honest))
                await asyncio.sleep(0.02)
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            return lead.state.version

    assert asyncio.run(asyncio.wait_for(versions(), 120)) >= 40


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
            held = life.uploads.store.has(upload_name("high-1", 1, header.digest.hex()))
            return refused.value.details() or "", refusals, held

    details, reasons, held = asyncio.run(upload())
    assert "not finite or reach" in details
    assert reasons == {"too_large": 1} and not held


XXH3_SECRET = bytes.fromhex("b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f")


def two_of_one_digest(seed: int) -> tuple[bytes, bytes]:
    """An enormous delta and an ordinary one. In a stripe of 64 bytes the low half of the first word meets eight bytes of
    XXH3's default secret: where it cancels them, of the high halves only the sum over the stripes counts."""
    ordinary = np.random.default_rng(seed).normal(0, 0.01, LAYOUT.size).astype("<f4")
    enormous = ordinary.copy()
    for words, high in ((ordinary.view("<u4"), (0x12E00000, 0x80000000)), (enormous.view("<u4"), (0x49700000,) * 2)):
        for stripe in range(2):
            words[16 * stripe] = int.from_bytes(XXH3_SECRET[8 * stripe : 8 * stripe + 4], "little")
            words[16 * stripe + 1] = high[stripe]
    return enormous.tobytes(), ordinary.tobytes()


@pytest.mark.parametrize("sent", ["ordinary", "enormous", "enormous ordinary", "ordinary enormous", "other ways round"])
def test_an_outlier_is_an_outlier_however_it_is_uploaded(tmp_path: Path, sent: str) -> None:
    """Five clients, real calls; what the last one uploads before it contributes is enormous, ordinary, or both in turn."""
    fleet = {f"high-{number}": Tier.HIGH for number in range(1, 6)}
    enormous, ordinary = two_of_one_digest(5)
    assert xxhash.xxh3_128_digest(enormous) == xxhash.xxh3_128_digest(ordinary) and enormous != ordinary
    third = two_of_one_digest(6)[1]
    uploads = {
        "ordinary": [ordinary],
        "enormous": [enormous],
        "enormous ordinary": [enormous, ordinary],  # the first one stays
        "ordinary enormous": [ordinary, enormous],
        "other ways round": [ordinary, third, enormous],  # the third takes the first one's place
    }[sent]
    outlier = sent not in ("ordinary", "ordinary enormous")

    async def upload(stub: Any, name: str, data: bytes) -> None:
        header = wire.DeltaHeader(round=1, digest=xxhash.xxh3_128_digest(data), size_bytes=len(data))
        messages = [wire.UploadDeltaRequest(header=header), wire.UploadDeltaRequest(chunk=data)]
        await stub.UploadDelta(iter(messages), metadata=who(name))

    def who(name: str) -> tuple[tuple[str, str], ...]:
        return (("zowarmup-client", name), ("zowarmup-credential", secret(name)))

    async def round_of_five() -> tuple[int, float]:
        async with (
            coordinator(tmp_path, run_file(fleet), fleet=fleet) as (life, address, _),
            grpc.aio.insecure_channel(address) as channel,
        ):
            lead, before = life.coordinator, life.replica.weights.copy()
            combining = asyncio.create_task(life.round_jobs.run())
            stub: Any = services.CoordinatorServiceStub(channel)
            streams = []
            for number, name in enumerate(fleet, 1):
                given = uploads if name == "high-5" else [two_of_one_digest(number)[1]]
                for data in given:
                    await upload(stub, name, data)
                streams.append(stream := stub.Participate(metadata=who(name)))
                hello = wire.Hello(run_id=lead.state.run_id, protocol=PROTOCOL, examples=EXAMPLES)
                await stream.write(wire.ParticipateRequest(hello=hello))
                named = xxhash.xxh3_128_digest(given[-1])
                ready = wire.DeltaReady(round=1, digest=named, examples=EXAMPLES, loss=0.5)
                await stream.write(wire.ParticipateRequest(delta_ready=ready))
                while (message := await stream.read()).WhichOneof("message") not in ("accepted", "refused"):
                    pass
                assert message.HasField("accepted"), message
            await life.until(lambda state: state.version == 1)
            for task in (*streams, combining):
                task.cancel()
            return lead.state.clipped_deltas, float(np.abs(life.replica.weights - before).max())

    clipped, moved = asyncio.run(asyncio.wait_for(round_of_five(), 30))
    assert clipped == outlier
    assert moved < 1
