"""What is answered while the coordinator prepares, at its open port: by a real server, to a client and to the operator."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import pytest

from zowarmup.cli.session.session import Session
from zowarmup.client import errors
from zowarmup.client.net.connection import Connection
from zowarmup.client.net.coordinators import Coordinators
from zowarmup.client.net.retrying import with_retries
from zowarmup.client.net.tls import PLAIN
from zowarmup.common.messages.values import Tier
from zowarmup.common.system.command import NoAnswer
from zowarmup.server.listening import LAST_S
from zowarmup.server.rpc.server import HELD_S, SENTENCE, Health, PreparingInterceptor, Services
from zowarmup.v1 import coordinator_pb2 as wire
from zowarmup.v1 import coordinator_pb2_grpc as services


class Ready(services.CoordinatorServiceServicer):
    """Answers, once it is there, with what nobody can mistake for a run."""

    async def GetRun(self, request: wire.GetRunRequest, context: object) -> wire.GetRunResponse:
        return wire.GetRunResponse(protocol=12345)


@dataclass
class PreparingServer:
    address: str
    gate: PreparingInterceptor
    health: Health
    services: Services

    async def open(self) -> None:
        """As the coordinator does: services are added to the server that runs."""
        self.services.add(Ready(), services.OperatorServiceServicer())
        self.gate.ready.set()
        await self.health.declare(serving=True)


@contextlib.asynccontextmanager
async def preparing_server(held_s: float = HELD_S) -> AsyncIterator[PreparingServer]:
    gate = PreparingInterceptor(held_s)
    server = grpc.aio.server(interceptors=(gate,))
    port = server.add_insecure_port("127.0.0.1:0")
    health, added = Health(server), Services(server, True)
    await health.declare(serving=False)
    await server.start()
    try:
        yield PreparingServer(f"127.0.0.1:{port}", gate, health, added)
    finally:
        await server.stop(None)


def test_everyone_hears_the_sentence_before_their_patience_is_over() -> None:
    async def scenario() -> None:
        async with preparing_server(0.01) as made:
            with Session(made.address) as session:
                for ask in (session.run, session.status, session.versions, lambda: session.invite(Tier.LOW, 9.0, 1)):
                    with pytest.raises(NoAnswer, match=SENTENCE):
                        await asyncio.to_thread(ask)
                assert await asyncio.to_thread(session.health) == "NOT_SERVING"
                async with Connection(made.address, PLAIN) as connection:
                    with pytest.raises(errors.StillPreparing, match=SENTENCE):
                        await connection.get_run()
                await made.open()
                assert await asyncio.to_thread(session.health) == "SERVING"

    asyncio.run(scenario())


def test_a_call_that_waits_is_answered_as_soon_as_the_run_is_ready() -> None:
    async def scenario() -> None:
        async with preparing_server(60.0) as made, grpc.aio.insecure_channel(made.address) as channel:
            call = services.CoordinatorServiceStub(channel).GetRun(wire.GetRunRequest())
            await channel.channel_ready()
            await made.open()
            assert (await call).protocol == 12345

    asyncio.run(scenario())


def test_services_are_added_to_a_running_server_without_a_word_of_grpcs(caplog: pytest.LogCaptureFixture) -> None:
    """gRPC's own registration of methods after the start does nothing but log so, three times at each start."""

    async def scenario() -> None:
        async with preparing_server() as made, grpc.aio.insecure_channel(made.address) as channel:
            await made.open()
            stub = services.CoordinatorServiceStub(channel)
            assert (await stub.GetRun(wire.GetRunRequest())).protocol == 12345
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await channel.unary_unary("/zowarmup.v1.CoordinatorService/Nonsense", bytes, bytes)(b"")
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED

    asyncio.run(scenario())
    assert not caplog.records


def test_a_device_comes_back_soon_however_often_it_was_told_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr("zowarmup.client.net.reconnecting_stream.asyncio.sleep", sleep)
    answers = [errors.StillPreparing(SENTENCE)] * 50 + [errors.Broken("gone")] * 50

    async def ask() -> str:
        if answers:
            raise answers.pop(0)
        return "answered"

    assert asyncio.run(with_retries(Coordinators("127.0.0.1:1", PLAIN, random.Random(0)), ask)) == "answered"
    assert max(waited[:50]) <= 0.6 < max(waited[50:])


def test_calls_that_are_held_when_it_ends_are_refused_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    """Where they still run as the process ends, grpc prints a traceback for each."""

    async def scenario() -> list[grpc.StatusCode]:
        gate, answers = PreparingInterceptor(), []
        server = grpc.aio.server(interceptors=(gate,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            ask = services.CoordinatorServiceStub(channel).GetRun
            calls = [asyncio.ensure_future(code_of(ask(wire.GetRunRequest()))) for _ in range(20)]
            while gate.held < len(calls):
                await asyncio.sleep(0)
            gate.end()
            answers = await asyncio.gather(*calls, code_of(ask(wire.GetRunRequest())))
            last = code_of(ask(wire.GetRunRequest()))
            await server.stop(LAST_S)
            with contextlib.suppress(asyncio.CancelledError):
                await last
        return answers

    async def code_of(call: "grpc.aio.UnaryUnaryCall[wire.GetRunRequest, wire.GetRunResponse]") -> grpc.StatusCode:
        with contextlib.suppress(grpc.aio.AioRpcError):
            await call
        return await call.code()

    assert asyncio.run(scenario()) == [grpc.StatusCode.UNAVAILABLE] * 21
    assert "Traceback" not in capfd.readouterr().err
