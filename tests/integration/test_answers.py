"""What a client of somebody else's making is answered where it is wrong in what a stream can live with."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.faults.small import EXAMPLES
from tests.fuzz.hostile import SECRETS, coordinator
from zowarmup.common.settings.run import PROTOCOL
from zowarmup.v1 import coordinator_pb2 as wire
from zowarmup.v1 import coordinator_pb2_grpc as services

NAME = "high-1"
WHO = (("zowarmup-client", NAME), ("zowarmup-credential", SECRETS[NAME]))


async def told(folder: Path, *said: wire.ParticipateRequest) -> tuple[list[wire.Refused], Any]:
    """The refusals on one stream of a participant of round 1, after which it still takes a contribution to no round; and
    the coordinator's state then."""
    async with coordinator(folder) as (life, address, _), grpc.aio.insecure_channel(address) as channel:
        stream = services.CoordinatorServiceStub(channel).Participate(metadata=WHO)
        hello = wire.Hello(run_id=life.coordinator.state.run_id, protocol=PROTOCOL, examples=EXAMPLES)
        last = wire.ParticipateRequest(scalars=wire.Scalars(round=9999))
        refused: list[wire.Refused] = []
        for message in (wire.ParticipateRequest(hello=hello), *said, last):
            await stream.write(message)
        while not refused or refused[-1].round != 9999:
            answer = await stream.read()
            assert isinstance(answer, wire.ParticipateResponse), "the stream goes on"
            if answer.HasField("refused"):
                refused.append(answer.refused)
        state = life.coordinator.state
        stream.cancel()
        return refused, state


@pytest.mark.parametrize(
    ("reason", "kept"),
    [
        ("", "it does not say why"),
        ("out of memory\n  at line 7", "out of memory   at line 7"),
        ("\x1b[2J", "[2J"),
        ("x" * 900, "x" * 200),
    ],
)
def test_an_abstention_counts_whatever_its_reason_holds(tmp_path: Path, reason: str, kept: str) -> None:
    abstention = wire.Abstention(round=1, reason=reason)
    refused, state = asyncio.run(told(tmp_path, wire.ParticipateRequest(abstention=abstention)))
    assert [answer.round for answer in refused] == [9999]
    assert state.previous.abstained == {NAME: kept}


def test_a_device_without_a_replica_may_report_its_memory(tmp_path: Path) -> None:
    report = wire.Report(version=3, peak_memory_bytes=1 << 28)
    refused, state = asyncio.run(told(tmp_path, wire.ParticipateRequest(report=report)))
    assert [answer.round for answer in refused] == [9999]
    told_last = state.presence[NAME]
    assert (told_last.version, told_last.digest, told_last.peak_memory_bytes) == (0, "", 1 << 28)


def test_of_a_round_that_never_was_nobody_says_that_it_is_over(tmp_path: Path) -> None:
    said = [wire.ParticipateRequest(abstention=wire.Abstention(reason="which?"))]
    said += [wire.ParticipateRequest(scalars=wire.Scalars(round=number)) for number in (0, 2)]
    refused, _ = asyncio.run(told(tmp_path, *said))
    assert [(answer.round, answer.reason) for answer in refused] == [
        (0, "malformed"),
        (0, "not_assigned"),
        (2, "not_assigned"),
        (9999, "not_assigned"),
    ]
    assert refused[-1].detail == "there has been no round 9999; the last one is 1"


def test_nor_of_an_upload_for_one(tmp_path: Path) -> None:
    async def ask() -> None:
        async with coordinator(tmp_path) as (_, address, _), grpc.aio.insecure_channel(address) as channel:
            stub: Any = services.CoordinatorServiceStub(channel)
            header = wire.DeltaHeader(round=7, digest=bytes(16), size_bytes=4)
            for call in (
                stub.GetUpload(wire.GetUploadRequest(round=7, digest=bytes(16)), metadata=WHO),
                stub.UploadDelta(iter([wire.UploadDeltaRequest(header=header)]), metadata=WHO),
            ):
                with pytest.raises(grpc.aio.AioRpcError, match="there has been no round 7; the last one is 1"):
                    await call

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("protocol", "remedy"), [(PROTOCOL - 1, "upgrade the client"), (PROTOCOL + 1, "upgrade the coordinator")]
)
def test_a_client_of_another_protocol_is_refused(tmp_path: Path, protocol: int, remedy: str) -> None:
    sentence = f"the client speaks protocol {protocol} and the coordinator protocol {PROTOCOL}: {remedy}"

    async def ask() -> None:
        async with coordinator(tmp_path) as (life, address, _), grpc.aio.insecure_channel(address) as channel:
            stub: Any = services.CoordinatorServiceStub(channel)
            asked, stream = stub.GetRun(wire.GetRunRequest(protocol=protocol)), stub.Participate(metadata=WHO)
            hello = wire.Hello(run_id=life.coordinator.state.run_id, protocol=protocol, examples=EXAMPLES)
            await stream.write(wire.ParticipateRequest(hello=hello))
            for call in (asked, stream):
                assert (await call.code(), await call.details()) == (grpc.StatusCode.FAILED_PRECONDITION, sentence)

    asyncio.run(ask())
