"""Callers without a credential, at a real server: how much they may call, hold open and say, and that members are not
counted among them."""

import asyncio
import contextlib
import logging
import socket
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from tests.faults.flood import METHODS
from tests.fuzz.hostile import SECRETS, coordinator
from zowarmup.cli import certificates
from zowarmup.common.messages.values import Tier
from zowarmup.common.settings.addresses import network
from zowarmup.common.settings.run import PROTOCOL
from zowarmup.server.core import commands as cmd
from zowarmup.server.core.errors import Rejected
from zowarmup.server.rpc import limits, strangers
from zowarmup.server.rpc.auth import hash_secret
from zowarmup.server.rpc.limits import MessageSizeInterceptor
from zowarmup.server.rpc.server import Health
from zowarmup.server.rpc.strangers import Callers, Strangers, source_of
from zowarmup.v1 import coordinator_pb2 as wire
from zowarmup.v1 import coordinator_pb2_grpc as services

PI = (("zowarmup-client", "low-1"), ("zowarmup-credential", SECRETS["low-1"]))


@pytest.mark.parametrize(
    ("peer", "source"),
    [
        ("ipv4:10.0.0.7:40000", "10.0.0.7"),
        ("ipv6:%5Bfd00:1:2:3:4:5:6:7%5D:40000", "fd00:1:2:3::/64"),
        ("ipv6:[fd00:1:2:3::9]:40000", "fd00:1:2:3::/64"),
        ("ipv6:%5B::ffff:10.0.0.7%5D:40000", "10.0.0.7"),
        ("ipv6:%5Bfe80::1%25eth0%5D:40000", "fe80::/64"),
        ("unix:", ""),
    ],
)
def test_callers_are_counted_by_their_network(peer: str, source: str) -> None:
    assert source_of(peer) == source
    assert network("no address") == "no address"


def test_a_network_uses_up_what_is_its_own_and_comes_back() -> None:
    now = [0.0]
    some = Strangers(2.0, 5.0, lambda: now[0])
    for port in range(5):
        some.spend(f"ipv4:10.0.0.7:{port}")
    with pytest.raises(Rejected, match=r"10\.0\.0\.7 calls more than 2 times a second"):
        some.spend("ipv4:10.0.0.7:99")
    some.spend("ipv4:10.0.0.8:1")
    now[0] = 0.5
    some.spend("ipv4:10.0.0.7:1")


def test_many_networks_together_are_bounded_and_so_is_what_is_remembered() -> None:
    some = Strangers(1.0, 10.0, lambda: 0.0, networks=50)
    for number in range(int(strangers.EVERYONE) * 10):
        some.spend(f"ipv4:10.0.{number // 250}.{number % 250}:1")
    for number in range(100):
        with pytest.raises(Rejected, match="all together"):
            some.spend(f"ipv4:10.1.0.{number}:1")
    assert len(some._buckets) == 50


@contextlib.asynccontextmanager
async def doorway(
    some: Strangers, lasting_s: float = 600.0, arrival_s: float = 10.0
) -> AsyncIterator[tuple[grpc.aio.Channel, Counter[str], Health]]:
    """Health and reflection, as the coordinator has them."""
    refusals = Counter[str]()
    callers = Callers(some, refusals, lasting_s)
    server = grpc.aio.server(interceptors=(callers, MessageSizeInterceptor(refusals, some.arriving, arrival_s)))
    port = server.add_insecure_port("127.0.0.1:0")
    health = Health(server)
    reflection.enable_server_reflection(["grpc.health.v1.Health"], server)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel, asyncio.timeout(20):
            yield channel, refusals, health
    finally:
        await server.stop(None)


def test_watches_are_few_and_hear_of_a_change() -> None:
    async def scenario() -> None:
        async with doorway(Strangers(1e3, 1e3)) as (channel, refusals, health):
            stub: Any = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest()
            watching = [stub.Watch(request) for _ in range(strangers.LASTING)]
            for call in watching:
                assert (await call.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            more = stub.Watch(health_pb2.HealthCheckRequest(service="unheard of"))
            assert await more.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert refusals == {"too_many": 1}
            watching.pop().cancel()
            await health.declare(serving=True)
            for call in watching:
                assert (await call.read()).status == health_pb2.HealthCheckResponse.SERVING
            assert (await stub.Check(request)).status == health_pb2.HealthCheckResponse.SERVING

    asyncio.run(scenario())


def test_a_watch_ends_some_time() -> None:
    async def scenario() -> None:
        async with doorway(Strangers(1e3, 1e3), lasting_s=0.1) as (channel, _, _):
            stub: Any = health_pb2_grpc.HealthStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                [status async for status in stub.Watch(health_pb2.HealthCheckRequest())]
            trailing: Any = ended.value.trailing_metadata()
            assert dict(trailing)["zowarmup-reason"] == "too_slow"

    asyncio.run(scenario())


def _silent(channel: grpc.aio.Channel, method: str) -> Any:
    """A call on which nothing is ever written."""
    call: Any = channel.stream_stream(method, bytes, bytes)
    return call()


def test_a_call_whose_message_does_not_come_ends_and_many_of_them_are_refused() -> None:
    async def scenario() -> None:
        async with doorway(Strangers(1e3, 1e3, arriving_at_once=3), arrival_s=1.0) as (channel, refusals, _):
            kinds = ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"] * 3
            calls = [_silent(channel, method) for method in kinds]
            codes = await asyncio.gather(*(call.code() for call in calls))
            assert set(codes) == {grpc.StatusCode.RESOURCE_EXHAUSTED}
            assert refusals == {"too_many": 3, "too_slow": 3}

    asyncio.run(scenario())


async def _said(channel: grpc.aio.Channel, method: str, message: bytes, who: Any = None) -> grpc.StatusCode:
    # Not as a stream: gRPC's asyncio client calls INTERNAL a write that comes too late for a refusal.
    call: Any = channel.unary_stream(method, bytes, bytes)(message, metadata=who, timeout=10)
    with contextlib.suppress(grpc.aio.AioRpcError):
        async for _ in call:
            pass
    code: grpc.StatusCode = await call.code()
    return code


@pytest.mark.parametrize("message", [b"\xff" * 50, b"\xff" * 70_000, b"\x0a\xff"])
def test_garbage_for_any_call_is_refused_without_a_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, message: bytes
) -> None:
    async def scenario() -> set[grpc.StatusCode]:
        async with (
            coordinator(tmp_path) as (_, address, _),
            grpc.aio.insecure_channel(address) as channel,
            doorway(Strangers(1e3, 1e3)) as (other, _, _),
        ):
            ours = [method for method in METHODS if method.startswith("/zowarmup")]
            codes = {await _said(channel, method, message, who) for method in ours for who in (None, PI)}
            foreign = {await _said(other, method, message) for method in METHODS if method not in ours}
            return codes | foreign

    with caplog.at_level(logging.INFO):
        codes = asyncio.run(scenario())
    assert codes <= {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
    assert not [record for record in caplog.records if record.exc_info or record.levelno > logging.INFO]
    assert "refused malformed from ipv4:127.0.0.1" in caplog.text or len(message) > limits.SMALL_BYTES


def test_members_and_who_shows_a_good_token_are_not_charged(tmp_path: Path) -> None:
    """The network of a flood is the network of devices, too."""

    async def scenario() -> None:
        async with (
            coordinator(tmp_path, calls=3.0) as (life, address, _),
            grpc.aio.insecure_channel(address) as channel,
        ):
            stub: Any = services.CoordinatorServiceStub(channel)
            codes = [await stub.GetRun(wire.GetRunRequest(protocol=PROTOCOL)).code() for _ in range(5)]
            assert codes == [grpc.StatusCode.OK] * 3 + [grpc.StatusCode.RESOURCE_EXHAUSTED] * 2
            lead, token = life.coordinator, "7" * 64
            enrol: dict[str, Any] = {"run_id": lead.state.run_id, "name": "new", "tier": wire.TIER_LOW, "examples": 5}
            call = stub.Enrol(wire.EnrolRequest(**enrol, token="8" * 64))
            assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            await lead.handle(cmd.Invite(hash_secret(token), Tier.LOW, 60.0, 1, lead.date()))
            assert (await stub.Enrol(wire.EnrolRequest(**enrol, token=token))).client == "new"
            again = stub.Enrol(wire.EnrolRequest(**enrol, token=token))
            assert await again.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, "the token is used up"
            for _ in range(10):
                program = [piece async for piece in stub.FetchArtifact(wire.FetchArtifactRequest(), metadata=PI)]
                assert program
            assert (await stub.GetRun(wire.GetRunRequest(protocol=PROTOCOL), metadata=PI)).run_id

    asyncio.run(scenario())


def test_connections_are_counted_before_their_handshake(tmp_path: Path) -> None:
    certificates.init(tmp_path, ["127.0.0.1"])
    pair = (tmp_path / "server.key").read_bytes(), (tmp_path / "server.crt").read_bytes()
    most = 10

    async def scenario() -> None:
        server = grpc.aio.server(options=(("grpc.max_allowed_incoming_connections", most),))
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
        await server.start()
        with contextlib.ExitStack() as held:
            silent = [
                held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5)) for _ in range(3 * most)
            ]
            ended = 0
            for one in silent:
                one.settimeout(0.2)
                with contextlib.suppress(TimeoutError):
                    try:
                        ended += one.recv(10) == b""
                    except ConnectionResetError:
                        ended += 1
            assert ended == 2 * most
        await server.stop(None)

    asyncio.run(scenario())
