"""Bytes, counted: by messages, by what the kernel says of sockets, and from one version to the next."""

import shutil
import socket
import subprocess
import time

import pytest

from zowarmup.common.messages.values import Phase, Tier
from zowarmup.server.core.events import TrafficCount
from zowarmup.server.projections.framing import Wire
from zowarmup.server.projections.traffic import OCCURRING, Traffic, TrafficLog
from zowarmup.server.telemetry.tcp_info import carried

PEER = "ipv4:10.0.0.7:40000"


def traffic(saved: tuple[TrafficCount, ...] = ()) -> Traffic:
    return Traffic(lambda: Phase.ZEROTH_ORDER, saved, Wire())


def wire_bytes(counted: Traffic) -> dict[tuple[str, str, str], int]:
    return {(c.direction, c.tier, c.kind): c.wire_bytes for c in counted.counts()}


def test_messages_are_counted_under_their_kind_and_the_rest_as_connection() -> None:
    counted = traffic()
    line = counted.call(PEER, Tier.LOW, "pi")
    line.up("contribution", 264)
    line.down("commit", 230)
    (contribution,) = [c for c in counted.counts() if c.kind == "contribution"]
    assert contribution == TrafficCount("up", "low", "zeroth-order", "contribution", 264, 1, 264 + 14)
    wire = Wire()
    up, down = (a + b for a, b in zip(wire.connection, wire.call(2, first=True), strict=True))
    assert wire_bytes(counted)["up", "low", "connection"] == up + wire.windows
    assert wire_bytes(counted)["down", "low", "connection"] == down + wire.windows
    assert all((c.direction, c.tier, c.phase, c.kind) in OCCURRING for c in counted.counts())


def test_a_connection_is_set_up_once() -> None:
    counted = traffic()
    counted.call(PEER, Tier.LOW, "pi")
    first = wire_bytes(counted)["up", "low", "connection"]
    counted.call(PEER, Tier.LOW, "pi")
    assert wire_bytes(counted)["up", "low", "connection"] - first == Wire().call(2, first=False)[0] < first / 2


def test_what_a_socket_carried_beyond_is_added_and_never_taken_away() -> None:
    counted = traffic()
    line = counted.call(PEER, Tier.HIGH, "jetson")
    line.up("contribution", 100)
    before = sum(c.wire_bytes for c in counted.counts() if c.direction == "up")
    counted.correct(counted.peers(), {PEER: (before + 340, 0)})
    assert sum(c.wire_bytes for c in counted.counts() if c.direction == "up") == before + 340
    line.up("contribution", 100)
    told = counted.counts()
    counted.correct(counted.peers(), {PEER: (before + 350, 0)})  # the message is counted, and still on its way
    assert counted.counts() == told


def test_an_upload_that_has_arrived_and_is_not_yet_read_counts_once() -> None:
    counted = traffic()
    line = counted.call(PEER, Tier.HIGH, "jetson")
    before = sum(c.wire_bytes for c in counted.counts() if c.direction == "up")
    counted.correct(counted.peers(), {PEER: (before + 6_000_000, 0)})
    line.up("delta", 6_000_000)
    told = counted.counts()
    assert told == traffic_of_one_upload()
    late = before + 7_000_000  # a part of a message whose rest never came
    for _ in range(2):
        counted.correct(counted.peers(), {PEER: (late, 0)})
    assert sum(c.wire_bytes for c in counted.counts() if c.direction == "up") == late


def traffic_of_one_upload() -> object:
    counted = traffic()
    counted.call(PEER, Tier.HIGH, "jetson").up("delta", 6_000_000)
    return counted.counts()


def test_peers_whose_sockets_are_gone_are_forgotten_but_not_those_that_have_just_come() -> None:
    counted = traffic()
    counted.call(PEER)
    asked = counted.peers()
    counted.call("ipv6:%5B::1%5D:1")
    counted.correct(asked, {})
    assert counted.peers() == ("ipv6:%5B::1%5D:1",)


def test_counts_go_on_from_those_saved_and_only_what_changed_is_saved_again() -> None:
    first = traffic()
    first.call(PEER, Tier.LOW, "pi").up("contribution", 10)
    first.call(PEER, Tier.HIGH, "jetson").down("commit", 10)
    saved = first.counts()
    assert first.since(saved) == ()
    again = traffic(saved)
    assert again.counts() == saved
    again.call(PEER, Tier.LOW, "pi").up("contribution", 5)
    changed = again.since(saved)
    assert {(c.direction, c.tier, c.kind) for c in changed} == {
        ("up", "low", "contribution"),
        ("up", "low", "connection"),
        ("down", "low", "connection"),
    }


def test_the_log_knows_all_counts_of_every_version() -> None:
    log, counted, tables = TrafficLog(), traffic(), {}
    for version in range(1, 30):
        line = counted.call(PEER, Tier.LOW if version % 3 else Tier.HIGH, "pi")
        line.up("contribution", version)
        if version % 5 == 0:
            line.down("snapshot", 1000)
        # As older ledgers have it, every seventh time: all of them.
        log.record(version, counted.counts() if version % 7 == 0 else counted.since(log.latest))
        tables[version] = counted.counts()
        assert log.latest == counted.counts()
    assert {version: log.at(version) for version in tables} == tables
    assert log.at(0) == ()
    assert log.at(1000) == log.latest


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
