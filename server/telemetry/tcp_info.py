"""Byte counts of the system's TCP sockets by peer, from Linux's socket diagnostics.

One request of the kernel (sock_diag over netlink, which needs no privilege) answers with TCP's own counts for every
connection of one listening port: the bytes received in order and those that the peer has acknowledged, without the
headers of TCP and IP and without what was sent twice. Elsewhere, and where netlink is forbidden, there is no answer, and
the counts stay as `framing` reckons them.
"""

import asyncio
import logging
import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import IPv6Address

from zowarmup.server.projections.traffic import Traffic
from zowarmup.server.store.housekeeping import passes

log = logging.getLogger(__name__)

EVERY_S, SHARE = 5.0, 50.0
_NETLINK, _SOCK_DIAG, _BY_FAMILY, _DUMP = 16, 4, 20, 0x301
_ERROR, _DONE = 2, 3
_INFO = 2  # the attribute that holds struct tcp_info
_ALIVE = 0xFFF & ~(1 << 10 | 1 << 7)  # every state but listening and closed
_HEADER, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=HH")
_REQUEST = struct.Struct("=BBBxI2s2s16s16sI8s")
_ANSWER = struct.Struct("=BBBB2s2s16s16sI8sIIIII")
_ACKED_AT = 120  # tcpi_bytes_acked in struct tcp_info, and after it tcpi_bytes_received
_COUNTS = struct.Struct("=QQ")


class TcpInfoUnavailable(Exception):
    """The system does not say."""


def carried(port: int) -> dict[str, tuple[int, int]]:
    """(bytes received, bytes sent) so far by each connection of a port of this machine, by the peer's address as gRPC
    writes it. Raises TcpInfoUnavailable."""
    found: dict[str, tuple[int, int]] = {}
    try:
        with socket.socket(_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as kernel:
            kernel.settimeout(EVERY_S)
            for family in (socket.AF_INET, socket.AF_INET6):
                request = _REQUEST.pack(
                    family,
                    socket.IPPROTO_TCP,
                    1 << (_INFO - 1),
                    _ALIVE,
                    port.to_bytes(2, "big"),
                    b"",
                    b"",
                    b"",
                    0,
                    b"\xff" * 8,
                )
                kernel.send(_HEADER.pack(_HEADER.size + len(request), _BY_FAMILY, _DUMP, 0, 0) + request)
                found.update(_answers(kernel))
    except (OSError, AttributeError, struct.error) as error:
        raise TcpInfoUnavailable(str(error)) from error
    return found


def _answers(kernel: socket.socket) -> Iterator[tuple[str, tuple[int, int]]]:
    while True:
        data, at = kernel.recv(1 << 18), 0
        while at + _HEADER.size <= len(data):
            length, kind, *_ = _HEADER.unpack_from(data, at)
            if kind == _DONE:
                return
            if kind == _ERROR:
                raise OSError("sock_diag is refused")
            if (one := _answer(data, at + _HEADER.size, at + length)) is not None:
                yield one
            at += length + 3 & ~3


def _answer(data: bytes, at: int, end: int) -> tuple[str, tuple[int, int]] | None:
    family, _, _, _, _, port, _, peer, *_ = _ANSWER.unpack_from(data, at)
    at += _ANSWER.size
    while at + _ATTRIBUTE.size <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if kind == _INFO and length >= _ATTRIBUTE.size + _ACKED_AT + _COUNTS.size:
            acked, received = _COUNTS.unpack_from(data, at + _ATTRIBUTE.size + _ACKED_AT)
            return _peer(family, peer, int.from_bytes(port, "big")), (received, acked)
        at += max(length, _ATTRIBUTE.size) + 3 & ~3
    return None


def _peer(family: int, address: bytes, port: int) -> str:
    if family == socket.AF_INET:
        return f"ipv4:{socket.inet_ntop(socket.AF_INET, address[:4])}:{port}"
    if (mapped := IPv6Address(address).ipv4_mapped) is not None:
        return f"ipv4:{mapped}:{port}"
    return f"ipv6:%5B{socket.inet_ntop(socket.AF_INET6, address)}%5D:{port}"


async def reconcile(traffic: Traffic, port: int) -> None:
    """Put the counts right every `EVERY_S` seconds, or seldom enough to take a `SHARE`-th of the time, until cancelled or
    until the system turns out not to tell."""
    while True:
        asked, began = traffic.peers(), time.monotonic()
        try:
            traffic.correct(asked, await asyncio.to_thread(carried, port))
        except TcpInfoUnavailable as error:
            if isinstance(error.__cause__, Exception) and passes(error.__cause__):
                await asyncio.sleep(EVERY_S)
                continue
            log.info("wire bytes are reckoned, without pings: the system does not tell what sockets carry (%s)", error)
            return
        await asyncio.sleep(max(EVERY_S, SHARE * (time.monotonic() - began)))
