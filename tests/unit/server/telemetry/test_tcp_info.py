"""Bytes of sockets, by the kernel's count: against what was sent, and of connections that close between two readings."""

import asyncio
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from zowarmup.common.messages.values import Phase, Tier
from zowarmup.server.projections.traffic import Traffic
from zowarmup.server.telemetry import tcp_info
from zowarmup.server.telemetry.tcp_info import UNHEARD_S, TcpInfoUnavailable, WireBytes, carried

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="no other kernel has sock_diag")


class Line:
    """A server's socket, and one after another its connections."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.phase = Phase.WARM_UP
        self.traffic = Traffic(lambda: self.phase)
        self.now = 100.0
        self.wire = WireBytes(self.port, self.traffic, lambda: self.phase, lambda: self.now)

    def connect(self) -> tuple[socket.socket, socket.socket, str]:
        """Both ends, and what the client is called."""
        client = socket.create_connection(("127.0.0.1", self.port))
        served, (host, port) = self.listener.accept()
        return client, served, f"ipv4:{host}:{port}"

    def send(self, client: socket.socket, served: socket.socket, peer: str, up: int, down: int) -> None:
        """Send so many bytes each way, and wait until the kernel has counted them."""
        before = carried(self.port)[peer]
        client.sendall(b"x" * up)
        served.sendall(b"y" * down)
        assert len(served.recv(up, socket.MSG_WAITALL)) == up
        assert len(client.recv(down, socket.MSG_WAITALL)) == down
        end = time.monotonic() + 10
        while carried(self.port)[peer] != (before[0] + up, before[1] + down):
            assert time.monotonic() < end, "the last acknowledgement"


@pytest.fixture
def line() -> Iterator[Line]:
    one = Line()
    yield one
    one.listener.close()


def test_bytes_are_counted_once_to_the_tier_and_the_phase_that_they_came_in(line: Line) -> None:
    client, served, peer = line.connect()
    with client, served:
        line.send(client, served, peer, 1000, 70)
        assert not any(line.wire.read().values()), "nobody has called"
        line.traffic.call(peer)
        line.traffic.call(peer, Tier.LOW, "pi")
        assert dict(line.wire.read()) == {
            ("up", Tier.LOW, Phase.WARM_UP): 1000,
            ("down", Tier.LOW, Phase.WARM_UP): 70,
        }
        line.send(client, served, peer, 5, 7)
        line.phase = Phase.ZEROTH_ORDER
        line.wire.read()
        line.send(client, served, peer, 30, 40)
        assert (
            line.wire.read()
            == line.wire.read()
            == {
                ("up", Tier.LOW, Phase.WARM_UP): 1005,
                ("down", Tier.LOW, Phase.WARM_UP): 77,
                ("up", Tier.LOW, Phase.ZEROTH_ORDER): 30,
                ("down", Tier.LOW, Phase.ZEROTH_ORDER): 40,
            }
        )


def test_a_connection_that_closes_between_two_readings_is_counted_to_its_end(line: Line) -> None:
    async def short() -> None:
        line.wire.listen(asyncio.get_running_loop())
        client, served, peer = line.connect()
        line.traffic.call(peer, Tier.HIGH, "jetson")
        line.send(client, served, peer, 200_000, 70)
        client.close()
        served.close()
        async with asyncio.timeout(30):
            while peer in line.traffic.peers:
                await asyncio.sleep(0.01)

    asyncio.run(short())
    counts = line.wire.read()
    assert counts["up", Tier.HIGH, Phase.WARM_UP] == pytest.approx(200_000, abs=2)  # TCP counts an end as a byte
    assert counts["down", Tier.HIGH, Phase.WARM_UP] == pytest.approx(70, abs=2)


def test_what_was_sent_just_before_a_reset_is_counted_though_nobody_acknowledged_it(line: Line) -> None:
    async def short() -> None:
        line.wire.listen(asyncio.get_running_loop())
        client, served, peer = line.connect()
        line.traffic.call(peer, Tier.LOW, "pi")
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        served.sendall(b"y" * 7000)
        client.recv(7000, socket.MSG_WAITALL)
        client.close()
        served.close()
        async with asyncio.timeout(30):
            while peer in line.traffic.peers:
                await asyncio.sleep(0.01)

    asyncio.run(short())
    assert line.wire.read()["down", Tier.LOW, Phase.WARM_UP] == 7000


def test_readings_in_a_row_after_a_connection_has_closed_lose_nothing_of_it(line: Line) -> None:
    async def short() -> None:
        line.wire.listen(asyncio.get_running_loop())
        client, served, peer = line.connect()
        line.traffic.call(peer, Tier.LOW, "pi")
        line.send(client, served, peer, 3000, 70)
        client.close()
        served.close()
        end = time.monotonic() + 30
        while peer in carried(line.port):
            assert time.monotonic() < end, "the end of the connection"
        for _ in range(5):  # before the loop has had time to hear of it
            line.wire.read()
        async with asyncio.timeout(30):
            while peer in line.traffic.peers:
                await asyncio.sleep(0.01)

    asyncio.run(short())
    assert line.wire.read()["up", Tier.LOW, Phase.WARM_UP] == pytest.approx(3000, abs=2)


def test_one_that_closed_unheard_is_forgotten_after_a_while(line: Line) -> None:
    line.traffic.call("ipv4:127.0.0.1:1", Tier.LOW, "pi")
    line.wire.read()
    line.traffic.call("ipv4:127.0.0.1:2", Tier.LOW, "pi")
    line.now += UNHEARD_S - 1
    line.wire.read()
    assert len(line.traffic.peers) == 2
    line.now += 1
    line.wire.read()
    assert list(line.traffic.peers) == ["ipv4:127.0.0.1:2"]


def test_where_netlink_is_forbidden_there_are_no_counts(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_info, "_NETLINK", 9999)
    line.traffic.call("ipv4:127.0.0.1:1", Tier.LOW, "pi")
    loop = asyncio.new_event_loop()
    line.wire.listen(loop)
    loop.close()
    with pytest.raises(TcpInfoUnavailable):
        line.wire.read()


@pytest.mark.parametrize("listening", ["127.0.0.1", "::"])
def test_the_kernel_tells_what_sockets_carried(listening: str) -> None:
    """Against what was sent, and against `ss` where it is installed."""
    family = socket.AF_INET6 if ":" in listening else socket.AF_INET
    with socket.socket(family) as server:
        server.bind((listening, 0))
        server.listen()
        port = server.getsockname()[1]
        callers = ["127.0.0.1"] + (["::1"] if ":" in listening else [])
        expected, ends = {}, []
        for number, host in enumerate(callers, 1):
            client = socket.create_connection((host, port))
            served, _ = server.accept()
            ends += [client, served]
            client.sendall(b"x" * 1000 * number)
            served.sendall(b"y" * 77 * number)
            assert client.recv(77 * number, socket.MSG_WAITALL) and served.recv(1000 * number, socket.MSG_WAITALL)
            name = f"ipv6:%5B{host}%5D" if ":" in host else f"ipv4:{host}"
            expected[f"{name}:{client.getsockname()[1]}"] = (1000 * number, 77 * number)
        end = time.monotonic() + 5
        while carried(port) != expected and time.monotonic() < end:
            time.sleep(0.01)  # for the last acknowledgement
        assert carried(port) == expected
        if ss := shutil.which("ss"):
            shown = subprocess.run([ss, "-tinH", "sport", "=", str(port)], capture_output=True, text=True, check=True)
            assert shown.stdout.count("bytes_received:1000 ") == 1
        for end_of in ends:
            end_of.close()
