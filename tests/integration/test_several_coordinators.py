"""Real gRPC servers on several addresses of the loopback, as coordinators of one run: by a name that has several, by certificates
of their own under one authority, and for the operator."""

import asyncio
import random
import socket
from collections.abc import Iterator
from concurrent import futures
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest

from tests.integration.test_cli_session import Coordinator
from zowarmup.cli import certificates
from zowarmup.cli.operator import invite
from zowarmup.cli.options import Reach
from zowarmup.cli.session.session import Session
from zowarmup.client.errors import Final
from zowarmup.client.net.coordinators import Coordinators, several
from zowarmup.client.net.retrying import with_retries
from zowarmup.client.net.stream import FINAL, faults
from zowarmup.client.net.tls import PLAIN, Trust, trust
from zowarmup.common.messages.values import Tier
from zowarmup.common.settings.run import PROTOCOL
from zowarmup.common.system.command import CommandError, NoAnswer, Usage
from zowarmup.v1 import coordinator_pb2 as wire
from zowarmup.v1 import coordinator_pb2_grpc as services

NAME = "coordinators.test"
IPS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")


class Named(Coordinator):
    """Says which one it is."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.calls = name, 0

    def GetRun(self, request: wire.GetRunRequest, context: grpc.ServicerContext) -> wire.GetRunResponse:
        self.calls += 1
        answer = super().GetRun(request, context)
        answer.name = self.name
        return answer

    def Invite(self, request: object, context: grpc.ServicerContext) -> wire.InviteResponse:
        return wire.InviteResponse(token="ab" * 32, invitation="one", expires_at_s=1e9)


def free_port() -> int:
    """On all of IPS."""
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        return int(probe.getsockname()[1])


@contextmanager
def served(named: Named, address: str, certificate: Path | None = None) -> Iterator[grpc.Server]:
    server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    services.add_CoordinatorServiceServicer_to_server(named, server)
    services.add_OperatorServiceServicer_to_server(named, server)
    if certificate is None:
        server.add_insecure_port(address)
    else:
        pair = [certificate.with_suffix(suffix).read_bytes() for suffix in (".key", ".crt")]
        server.add_secure_port(address, grpc.ssl_server_credentials([(pair[0], pair[1])]))
    server.start()
    try:
        yield server
    finally:
        server.stop(None).wait()


async def asked(coordinators: Coordinators, give_up_s: float = 60.0) -> str:
    """Which one answers."""

    async def once() -> str:
        async with coordinators.connection() as connection:
            with faults(FINAL):
                answer = await connection._stub.GetRun(wire.GetRunRequest(protocol=PROTOCOL), timeout=20)
        return str(answer.name)

    return await with_retries(coordinators, once, give_up_s)


def test_a_name_with_several_addresses_is_several_coordinators_under_one_certificate(tmp_path: Path) -> None:
    """The certificate is for the name, whichever address is dialled; where one is no more, another is taken."""
    certificates.init(tmp_path, [NAME])
    trusted, port = trust(f"{NAME}:1", (tmp_path / "ca.crt").read_bytes()), free_port()
    found = [f"{ip}:{port}" for ip in IPS]

    async def scenario() -> None:
        with ExitStack() as stack:
            servers = {
                dialled: stack.enter_context(served(Named(dialled), dialled, tmp_path / "server.crt"))
                for dialled in found
            }
            begun = set()
            for seed in range(12):
                coordinators = Coordinators(f"{NAME}:{port}", trusted, random.Random(seed), lambda *_: found)
                await coordinators.find()
                begun.add(await asked(coordinators))
                assert str(coordinators.place) == f"{coordinators.place.dialled} ({NAME}:{port})"
            assert begun == set(found), "any of them"
            while servers:
                assert await asked(coordinators) == coordinators.place.dialled
                servers.pop(coordinators.place.dialled).stop(None).wait()
                if servers:
                    assert await asked(coordinators) in servers
            with pytest.raises(Final, match=rf"no coordinator answered at .*{found[0]} \({NAME}:{port}\), "):
                await asked(coordinators, 0.5)

    asyncio.run(scenario())


def test_each_has_a_certificate_of_its_own_under_the_authority_that_a_device_trusts(tmp_path: Path) -> None:
    """As `zowarmup certs init` and `certs server --name` make them."""
    certificates.init(tmp_path, [IPS[0]])
    for ip in IPS[1:]:
        certificates.server(tmp_path, [ip], called=ip.replace(".", "-"))
    files = [tmp_path / "server.crt", *(tmp_path / f"{ip.replace('.', '-')}.crt" for ip in IPS[1:])]
    port = free_port()
    places = [f"{ip}:{port}" for ip in IPS]
    trusted = trust(",".join(places), (tmp_path / "ca.crt").read_bytes())

    async def scenario() -> None:
        with ExitStack() as stack:
            servers = {
                place: stack.enter_context(served(Named(place), place, file))
                for place, file in zip(places, files, strict=True)
            }
            coordinators = Coordinators(",".join(places), trusted, random.Random(0))
            await coordinators.find()
            for _ in IPS:
                name = await asked(coordinators)
                servers.pop(name).stop(None).wait()
            assert servers == {}

    asyncio.run(scenario())


def test_one_that_is_not_trusted_is_left_for_one_that_is_and_named_where_none_is(tmp_path: Path) -> None:
    certificates.init(tmp_path / "ours", [IPS[1]])
    certificates.init(tmp_path / "foreign", [IPS[0]])
    port = free_port()
    stranger, ours = f"{IPS[0]}:{port}", f"{IPS[1]}:{port}"
    trusted = trust(ours, (tmp_path / "ours" / "ca.crt").read_bytes())

    async def scenario() -> None:
        with (
            served(Named("stranger"), stranger, tmp_path / "foreign" / "server.crt"),
            served(Named("ours"), ours, tmp_path / "ours" / "server.crt") as server,
        ):
            for seed in range(4):
                assert await asked(Coordinators(f"{stranger},{ours}", trusted, random.Random(seed))) == "ours"
            server.stop(None).wait()
            with pytest.raises(Final, match=f"cannot join {stranger}: its certificate is not one"):
                await asked(Coordinators(stranger, trusted, random.Random(0)))

    asyncio.run(scenario())


def test_a_name_of_one_address_is_left_to_grpc_and_loopback_is_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(*ips: str) -> None:
        kinds = [(socket.AF_INET6 if ":" in ip else socket.AF_INET, ip) for ip in ips]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(kind, 1, 6, "", (ip, 80)) for kind, ip in kinds])

    answers("10.0.0.1", "fd00::1")
    assert several("host", 80) == [], "of both kinds"
    answers("fd00::1", "10.0.0.1", "10.0.0.2", "10.0.0.2")
    assert several("host", 80) == ["10.0.0.1:80", "10.0.0.2:80"]
    answers("10.0.0.1", "fd00::1", "fd00::2")
    assert several("host", 80) == ["[fd00::1]:80", "[fd00::2]:80"]

    def nobody(*_: object) -> list[str]:
        raise AssertionError("nothing is to be looked up")

    async def scenario() -> None:
        servers = "localhost:1,127.0.0.1:1,[::1]:1,10.0.0.1:1"
        coordinators = Coordinators(servers, PLAIN, random.Random(0), nobody)
        await coordinators.find()
        assert str(coordinators) == servers.replace(",", ", ")

    asyncio.run(scenario())


def test_a_name_that_is_not_known_for_a_while_keeps_what_was_known_of_it() -> None:
    answers = iter((["127.0.0.1:1", "127.0.0.2:1"], OSError("no name service"), [], ["127.0.0.2:1", "127.0.0.3:1"]))

    def lookup(*_: object) -> list[str]:
        if isinstance(answer := next(answers), OSError):
            raise answer
        return answer

    async def scenario() -> None:
        coordinators = Coordinators(f"{NAME}:1", PLAIN, random.Random(0), lookup)
        await coordinators.find()
        both = {place.dialled for place in coordinators.places}
        assert both == {"127.0.0.1:1", "127.0.0.2:1"}
        await coordinators.broke(coordinators.place)
        assert {place.dialled for place in coordinators.places} == both
        await coordinators.broke(coordinators.place)
        assert [place.dialled for place in coordinators.places] == [""], "it has one address now"
        await coordinators.broke(coordinators.place)
        assert {place.dialled for place in coordinators.places} == {"127.0.0.2:1", "127.0.0.3:1"}

    asyncio.run(scenario())


def test_what_goes_beside_a_stream_waits_until_the_stream_is_somewhere() -> None:
    async def scenario() -> None:
        one = Coordinators("127.0.0.1:1", PLAIN, random.Random(0))
        await one.broke(one.place)
        await asyncio.wait_for(one.settled(), 60)
        two = Coordinators("127.0.0.1:1,127.0.0.1:2", PLAIN, random.Random(0))
        await two.broke(two.place)
        waiting = asyncio.create_task(two.settled())
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done()
        two.works()
        await asyncio.wait_for(waiting, 60)

    asyncio.run(scenario())


def test_the_operator_is_answered_by_the_first_that_answers() -> None:
    first, second = Named("first"), Named("second")
    port = free_port()
    places = [f"{ip}:{port}" for ip in IPS]
    with Session(",".join(places), 5.0) as session:
        with pytest.raises(NoAnswer) as nobody:
            session.status()
        assert all(f"no coordinator answers at {place}" in str(nobody.value) for place in places)
        with served(second, places[2]):
            assert session.run().name == "second"
            session.invite(Tier.LOW, 60.0, 1)
            with served(first, places[1]):
                assert session.run().name == "second", "it stays with the one that answers"
                asked_before = first.calls
        with served(first, places[1]):
            with pytest.raises(NoAnswer):
                session.status()  # a call that broke is not made again by itself
            assert session.status().name == "digits"
            assert session.run().name == "first"
        assert asked_before == 0


def test_an_invitation_names_all(capsys: pytest.CaptureFixture[str]) -> None:
    address = f"127.0.0.1:{free_port()}"
    with served(Named("one"), address), Session(f"127.0.0.1:1, {address}", 5.0) as session:
        invite(Reach(session, b"", PLAIN, False), Tier.LOW)
    line, said = capsys.readouterr()
    assert f" zowarmup-client --server 127.0.0.1:1,{address} --tier low" in line and "--insecure" not in line
    assert "It works on this machine only" in said


def test_with_one_address_the_operator_asks_nothing_else() -> None:
    named = Named("alone")
    address = f"127.0.0.1:{free_port()}"
    with served(named, address), Session(address, 5.0) as session:
        session.status()
        session.versions()
    assert named.calls == 0


def test_a_refusal_is_no_reason_to_ask_another() -> None:
    first, second = Named("first"), Named("second")
    first.refusal = (grpc.StatusCode.PERMISSION_DENIED, "not you")
    port = free_port()
    with (
        served(first, f"{IPS[0]}:{port}"),
        served(second, f"{IPS[1]}:{port}"),
        Session(f"{IPS[0]}:{port},{IPS[1]}:{port}", 5.0) as session,
        pytest.raises(CommandError, match="not you"),
    ):
        session.status()
    assert second.calls == 0


@pytest.mark.parametrize("servers", ["127.0.0.1:1,", ",", "127.0.0.1:1,host", "a:1,a:1"])
def test_each_of_several_must_be_an_address_and_another_one(servers: str) -> None:
    with pytest.raises(Usage, match="--server"):
        Session(servers)


def test_plain_text_is_for_the_loopback_alone() -> None:
    assert trust("127.0.0.1:1,localhost:2") == Trust()
    assert trust("127.0.0.1:1,10.0.0.1:2").secure
