"""What /metrics says that sockets carried, against what they did carry.

Every byte between a real client and a real coordinator passes through a proxy that counts: the kernel hands it just the
bytes that TCP carried, handshakes and all. In plain text and inside TLS.
"""

import asyncio
import re
import signal
import time
import urllib.request
from collections.abc import AsyncIterator, Callable

import pytest
import xxhash

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.e2e.conftest import Fleet, wait_until
from tests.faults.proxy import Link
from zowarmup.cli import certificates
from zowarmup.cli.demo import free_port
from zowarmup.client.messages import Hello, Message
from zowarmup.client.replica import Position
from zowarmup.client.session import Connection
from zowarmup.client.transfer import Transfers
from zowarmup.client.trust import trust
from zowarmup.common.run import Evaluation, Model, RunFile, Server
from zowarmup.common.work import Delta, Tier, Work

WIDE = """
from torch import nn

def model(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2700), nn.ReLU(), nn.Linear(2700, 4070), nn.ReLU(), nn.Linear(4070, classes))
"""
PING = bytes((0, 0, 8, 6, 0, 0, 0, 0, 0))
"""The header of HTTP/2's frame of that name, where it is no answer (RFC 9113, 6.7)."""
Scraped = dict[tuple[str, str], float]


def lead(fleet: Fleet, run: RunFile, secure: bool, life: str = "server") -> tuple[str, bytes]:
    """Start a coordinator with metrics: their URL, and the authority that signed its certificate."""
    certs, authority, server = fleet.folder / "certs", b"", Server(enrolment="open", metrics_plaintext=True)
    if secure:
        certificates.init(certs, ["127.0.0.1"])
        authority = (certs / "ca.crt").read_bytes()
        server = Server(
            enrolment="open",
            metrics_plaintext=True,
            tls_certificate=str(certs / "server.crt"),
            tls_key=str(certs / "server.key"),
        )
    metrics = f"127.0.0.1:{free_port()}"
    settings = RunFile(
        name=run.name,
        model=run.model,
        warmup=run.warmup,
        zeroth_order=run.zeroth_order,
        evaluation=run.evaluation,
        server=server,
    )
    fleet.lead(settings, life, "--metrics-address", metrics)

    def listening() -> bool:
        assert life not in {ended.name for ended in fleet.processes.ended()}, fleet.logged(life)
        return "metrics at" in fleet.logged(life)

    wait_until(listening, 120, "the coordinator")
    return f"http://{metrics}/metrics", authority


def wire_bytes(url: str) -> Scraped:
    """Bytes by (direction, kind), over all tiers and phases, of the wire and of the payload ("payload" in front)."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    found: Scraped = {}
    for name, labels, value in re.findall(r"^zowarmup_(wire|payload)_bytes_total\{(.*)\} (\S+)$", text, re.MULTILINE):
        of = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        key = (("payload " if name == "payload" else "") + of["direction"], of["kind"])
        found[key] = found.get(key, 0.0) + float(value)
    return found


def device(address: str) -> dict[str, float]:
    """What the device says itself; of the payload, what went up."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = re.findall(
        r'^zowarmup_device_(\w+)\{run="wire",tier="low"(?:,direction="up")?\} (\d+)$', text, re.MULTILINE
    )
    return {name: float(value) for name, value in found}


def total(scraped: Scraped, direction: str) -> float:
    return sum(value for (way, _), value in scraped.items() if way == direction)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_two_hundred_contributions(fleet: Callable[[], Fleet], secure: bool) -> None:
    it = fleet()
    run = RunFile(
        name="wire",
        model=Model(name="mlp"),
        warmup=warmup_settings(rounds=0),
        zeroth_order=zeroth_order_settings(rounds=200, clients_per_round=1, probes=16, head_projections=16),
        evaluation=Evaluation(data="digits:test", every=1000),
    )
    url, authority = lead(it, run, secure)
    began, up = time.monotonic(), bytearray()

    def read_along(piece: bytes, upwards: bool) -> bytes:
        if upwards:
            up.extend(piece)
        return piece

    with Link(it.address) as link:
        link.passing = read_along
        options = [
            "--server",
            link.address,
            "--data",
            "digits:1/8",
            "--tier",
            "low",
            "--state-dir",
            str(it.folder / "pi"),
        ]
        if secure:
            (it.folder / "ca.pem").write_bytes(authority)
            options += ["--ca", str(it.folder / "ca.pem")]
        own = f"127.0.0.1:{free_port()}"
        it.processes.start("pi", "zowarmup.client.main", [*options, "--metrics-address", own])
        wait_until(lambda: "metrics at" in it.logged("pi"), 60, "the device's own metrics")
        wait_until(lambda: device(own)["contributions_total"] > 20, 60, "contributions")
        figures = device(own)
        assert figures["connected"] == 1
        assert figures["model_version"] >= 20
        assert figures["payload_bytes_total"] > 20 * 4 * 32
        assert it.code("pi", 100) == 0
        counted = wire_bytes(url)
        assert total(counted, "up") == pytest.approx(link.bytes_up, rel=0.1)
        assert total(counted, "down") == pytest.approx(link.bytes_down, rel=0.1)
    # A ping says nothing new. One each 10 s watches over a silent link, and bulk connections learn by one what a link holds.
    if not secure:
        assert up.count(PING) <= link.connections + (time.monotonic() - began) / 10
    contributed = counted["payload up", "contribution"]
    assert contributed > 200 * 4 * 32
    assert contributed < counted["up", "contribution"] < 1.4 * contributed
    assert counted["up", "connection"] > 0


def test_an_upload_of_45_mb(fleet: Callable[[], Fleet], monkeypatch: pytest.MonkeyPatch) -> None:
    """In plain text, and inside TLS by a second life of the same coordinator: its counts go on from the ledger's."""
    it = fleet()
    (it.folder / "wide.py").write_text(WIDE)
    monkeypatch.setitem(it.processes._environment, "PYTHONPATH", str(it.folder))
    run = RunFile(
        name="wire",
        model=Model(name="wide:model"),
        warmup=warmup_settings(rounds=9, clients_per_round=1, epochs=1, batch=4),
        zeroth_order=zeroth_order_settings(rounds=1, micro_batch=8),
        evaluation=Evaluation(data="digits:test", every=1000),
    )
    kept: Scraped = {}
    for life, secure in (("server", False), ("again", True)):
        url, authority = lead(it, run, secure, life)
        before = wire_bytes(url)
        assert all(value <= before[key] for key, value in kept.items())
        with Link(it.address) as link:
            sent = asyncio.run(upload(link.address, authority))
            assert sent > 44_000_000
            counted = {key: value - before[key] for key, value in wire_bytes(url).items()}
            assert counted["payload up", "delta"] == pytest.approx(sent, rel=1e-4)
            assert counted["up", "delta"] == pytest.approx(link.bytes_up, rel=0.02)
            assert total(counted, "up") == pytest.approx(link.bytes_up, rel=0.02)
            # A few window updates: how many depends on how the pieces come in.
            assert total(counted, "down") == pytest.approx(link.bytes_down, abs=0.0005 * sent)
        kept = {("payload up", "delta"): before["payload up", "delta"] + counted["payload up", "delta"]}
        it.signal(life, signal.SIGTERM)


async def upload(address: str, authority: bytes) -> int:
    """Join as a high-tier client and bring one delta, as a client does, but not trained: its bytes."""
    trusted = trust(address, authority)
    async with Connection(address, trusted) as connection:
        offer = await connection.get_run()
        identity = await connection.enrol(offer.run_id, "jetson", Tier.HIGH, 100, "", "ab" * 32)

    def connect() -> Connection:
        return Connection(address, trusted, identity)

    async with connect() as connection, asyncio.timeout(60):
        stream = await connection.participate(Hello(offer.run_id, Position(0, b""), 100), offer.layout)
        messages = aiter(stream)
        work = await assigned(messages)
        content = bytes(4 * offer.layout.size)
        delta = Delta(work.round, xxhash.xxh3_128_hexdigest(content), 100, 0.5)
        await Transfers(connect).upload(delta, memoryview(content))
        await stream.say(delta)
        await assigned(messages)  # the next round: this one is committed
        return len(content)


async def assigned(messages: AsyncIterator[Message]) -> Work:
    async for message in messages:
        if isinstance(message, Work):
            return message
    raise AssertionError("the stream has ended")
