"""Where the coordinator keeps its files is nobody else's business: no answer, and no refusal, names one."""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc

from tests.faults.small import PAIR, run_file
from tests.fuzz.hostile import SECRETS, coordinator
from zowarmup.common.settings.run import PROTOCOL, ClientSpec, Evaluation, Model
from zowarmup.server.core import events as ev
from zowarmup.server.store.event_log import EventLog, LedgerError
from zowarmup.v1 import coordinator_pb2 as wire
from zowarmup.v1 import coordinator_pb2_grpc as services

NAME = "high-1"
WHO = (("zowarmup-client", NAME), ("zowarmup-credential", SECRETS[NAME]))
SECRET = "/home/operator/secret"


@dataclass
class Refusing:
    """An event log that refuses, with this sentence, once it is told to."""

    behind: EventLog
    sentence: str
    refuses: bool = False

    def append(self, events: Iterable[ev.Event], at: float, expected: int) -> int:
        if self.refuses:
            raise LedgerError(self.sentence)
        return self.behind.append(events, at, expected)

    def read(self, after: int = 0) -> Iterator[tuple[float, ev.Event]]:
        return self.behind.read(after)

    def close(self) -> None:
        self.behind.close()


def test_what_a_stranger_is_told_of_a_run_names_no_file(tmp_path: Path) -> None:
    settings = replace(
        run_file(PAIR),
        model=Model(name="mlp", weights=f"{SECRET}/weights.safetensors"),
        evaluation=Evaluation(data=f"npz:{SECRET}/held-out.npz"),
    )

    async def ask() -> wire.GetRunResponse:
        async with coordinator(tmp_path, settings) as (_, address, _), grpc.aio.insecure_channel(address) as channel:
            stub: Any = services.CoordinatorServiceStub(channel)
            answer = await stub.GetRun(wire.GetRunRequest(protocol=PROTOCOL))
            assert isinstance(answer, wire.GetRunResponse)
            return answer

    answer = asyncio.run(ask())
    assert ClientSpec.from_json(answer.spec_json).model == Model(name="mlp")
    said = answer.SerializeToString()
    assert b"secret" not in said and str(tmp_path).encode() not in said


def test_why_a_call_fails_names_no_file(tmp_path: Path) -> None:
    refusing: list[Refusing] = []

    def log(behind: EventLog) -> EventLog:
        refusing.append(Refusing(behind, f"{tmp_path}/ledger.sqlite cannot be written: no room"))
        return refusing[0]

    async def ask() -> list[grpc.aio.AioRpcError]:
        found = []
        made = coordinator(tmp_path, log=log)
        async with made as (life, address, _), grpc.aio.insecure_channel(address) as channel:
            stub: Any = services.CoordinatorServiceStub(channel)
            for file in (tmp_path / "server").rglob("*"):
                if len(file.name) == 64:
                    file.unlink()
            try:
                async for _ in stub.FetchArtifact(wire.FetchArtifactRequest(), metadata=WHO):
                    pass
            except grpc.aio.AioRpcError as error:
                found.append(error)

            refusing[0].refuses = True
            request = wire.EnrolRequest(
                run_id=life.coordinator.state.run_id, name="new", tier=wire.TIER_LOW, examples=1
            )
            try:
                await stub.Enrol(request)
            except grpc.aio.AioRpcError as error:
                found.append(error)
        return found

    errors = asyncio.run(ask())
    trailing: list[Any] = [error.trailing_metadata() for error in errors]
    assert [dict(said)["zowarmup-reason"] for said in trailing] == ["not_found", "unavailable"]
    assert all("/" not in (error.details() or "") for error in errors), [error.details() for error in errors]
