"""A device's own metrics for Prometheus, over plain HTTP, where `--metrics-address` asks for them.

Loaded only then, and made of the standard library alone, so that it costs a low-tier device nothing else. It answers
GET /metrics from the client's own event loop, which is free while the device computes, and says no more than the
coordinator knows already.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

from zowarmup.client.errors import Final
from zowarmup.common.settings.addresses import host_and_port
from zowarmup.common.system.memory import peak_resident

log = logging.getLogger(__name__)

REQUEST_S = 5.0
LONGEST_BYTES = 8192
AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Figures:
    """Of this process, since it started. Bytes are payload."""

    up_bytes: int
    down_bytes: int
    version: int
    contributions: int
    connected: bool


def exposition(labels: Mapping[str, str], figures: Figures) -> str:
    """The figures as Prometheus reads them, each with the labels."""
    payload = [({"direction": "up"}, figures.up_bytes), ({"direction": "down"}, figures.down_bytes)]
    families: list[tuple[str, str, str, list[tuple[dict[str, str], int]]]] = [
        ("payload_bytes_total", "counter", "Serialised messages to and from the coordinator.", payload),
        ("contributions_total", "counter", "Contributions sent.", [({}, figures.contributions)]),
        ("model_version", "gauge", "The replica's version.", [({}, figures.version)]),
        ("connected", "gauge", "Whether the stream to the coordinator is open.", [({}, int(figures.connected))]),
        ("peak_memory_bytes", "gauge", "The most resident memory so far.", [({}, peak_resident())]),
    ]
    lines = []
    for name, kind, text, samples in families:
        lines += [f"# HELP zowarmup_device_{name} {text}", f"# TYPE zowarmup_device_{name} {kind}"]
        for more, value in samples:
            told = ",".join(f'{label}="{_escaped(word)}"' for label, word in {**labels, **more}.items())
            lines.append(f"zowarmup_device_{name}{{{told}}} {value}")
    return "\n".join(lines) + "\n"


@contextlib.asynccontextmanager
async def shown(address: str, labels: Mapping[str, str], figures: Callable[[], Figures]) -> AsyncIterator[str]:
    """The figures at HOST:PORT, within the context; their URL. Raises Final where the port is taken."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            try:
                async with asyncio.timeout(REQUEST_S), slots:
                    request = await reader.readuntil(b"\r\n\r\n")
                    found = request.startswith((b"GET /metrics ", b"GET /metrics?"))
                    body = exposition(labels, figures()).encode() if found else b"metrics are at /metrics\n"
                    writer.write(_head("200 OK" if found else "404 Not Found", len(body)) + body)
                    await writer.drain()
            finally:
                writer.close()

    host, port = host_and_port(address, listening=True)
    try:
        server = await asyncio.start_server(serve, host, port, limit=LONGEST_BYTES)
    except OSError as error:
        raise Final(f"cannot show metrics on {address} ({error.strerror or error}): change --metrics-address") from None
    async with server:
        url = f"http://{address.rpartition(':')[0]}:{server.sockets[0].getsockname()[1]}/metrics"
        log.info("metrics at %s", url)
        yield url


def _head(status: str, length: int) -> bytes:
    kind = "text/plain; version=0.0.4; charset=utf-8"
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n".encode()
    )


def _escaped(word: str) -> str:
    return word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
