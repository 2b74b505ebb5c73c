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
from zowarmup.client.net.connection import Connection
from zowarmup.client.net.messages import Hello, Message
from zowarmup.client.net.tls import trust
from zowarmup.client.net.transfer import Transfers
from zowarmup.client.store.replica import Position
from zowarmup.common.messages.values import Delta, Tier, Work
from zowarmup.common.settings.run import Evaluation, Model, RunFile, Server
from zowarmup.lab.processes import free_port

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
    """Bytes by (metric, direction), over all tiers and phases, of the wire and of the payload."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    found: Scraped = {}
    for name, labels, value in re.findall(r"^zowarmup_(wire|payload)_bytes_total\{(.*)\} (\S+)$", text, re.MULTILINE):
        of = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        found[name, of["direction"]] = found.get((name, of["direction"]), 0.0) + float(value)
    return found


def await_equal(url: str, link: Link) -> Scraped:
    """What is counted once it is what passed through the link, but for a few bytes: TCP counts an end as one, and what the
    other side has not acknowledged is not yet counted."""

    def equal() -> bool:
        counted = wire_bytes(url)
        return (
            abs(counted["wire", "up"] - link.bytes_up) < 1000 and abs(counted["wire", "down"] - link.bytes_down) < 1000
        )

    wait_until(equal, 30, "the kernel's count")
    return wire_bytes(url)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_two_hundred_contributions(fleet: Callable[[], Fleet], secure: bool) -> None:
    it = fleet()
    run = RunFile(
        name="wire",
        model=Model(name="mlp"),
        warmup=warmup_settings(rounds=0),
        zeroth_order=zeroth_order_settings(
            rounds=200, clients_per_round=1, train="all", probes=16, head_projections=16, whitening=0
        ),
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
        it.processes.start("pi", "zowarmup.client.main", options)
        assert it.code("pi", 100) == 0
        counted = await_equal(url, link)
    # A ping says nothing new. One each 10 s watches over a silent link, and bulk connections learn by one what a link holds.
    if not secure:
        assert up.count(PING) <= link.connections + (time.monotonic() - began) / 10
    assert counted["payload", "up"] > 200 * 4 * 32
    assert counted["wire", "up"] > counted["payload", "up"]


def test_an_upload_of_45_mb(fleet: Callable[[], Fleet], monkeypatch: pytest.MonkeyPatch) -> None:
    """In plain text, and inside TLS by a second life of the same coordinator, whose counters begin at zero."""
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
    for life, secure in (("server", False), ("again", True)):
        url, authority = lead(it, run, secure, life)
        assert not any(wire_bytes(url).values())
        with Link(it.address) as link:
            sent = asyncio.run(upload(link.address, authority))
            assert sent > 44_000_000
            counted = await_equal(url, link)
            assert sent < counted["payload", "up"] < counted["wire", "up"] < 1.02 * sent
        it.signal(life, signal.SIGTERM)
        it.code(life, 60)


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
        content = bytes(4 * offer.layout.uploaded)
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
