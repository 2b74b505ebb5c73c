"""Bytes on the wire, as Linux's kernel counts them for each TCP socket (sock_diag over netlink, which needs no privilege).

TCP's own counts: the bytes received in order and the bytes sent, without the headers of TCP and IP and without what was sent
again. (Not the bytes acknowledged: of a connection that its peer resets, the last ones never are.) One request answers for every open connection of a listening port; of each that closes the
kernel sends a last message by itself. Elsewhere, and where netlink is forbidden, there are no such counts.
"""

import asyncio
import contextlib
import logging
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv6Address

from zowarmup.common.messages.values import Phase, Tier
from zowarmup.server.core import events as ev
from zowarmup.server.core.state import State
from zowarmup.server.projections.traffic import Traffic

log = logging.getLogger(__name__)

TIMEOUT_S = 5.0
BUFFER_BYTES = 1 << 22
AT_ONCE = 1000
UNHEARD_S = 60.0
"""A connection that is no more is forgotten so much later where nothing was heard of its end: a busy kernel, or loop, is late."""
_NETLINK, _SOCK_DIAG, _BY_FAMILY, _DUMP = 16, 4, 20, 0x301
_DESTROYED = 1 << 0 | 1 << 2  # the groups that hear of closed TCP sockets, over IPv4 and IPv6
_ERROR, _DONE = 2, 3
_INFO = 2  # the attribute that holds struct tcp_info
_ALIVE = 0xFFF & ~(1 << 10 | 1 << 7)  # every state but listening and closed
_HEADER, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=HH")
_REQUEST = struct.Struct("=BBBxI2s2s16s16sI8s")
_ANSWER = struct.Struct("=BBBB2s2s16s16sI8sIIIII")
_RECEIVED, _SENT = struct.Struct("=128xQ"), struct.Struct("=200xQQ")
"""tcpi_bytes_received; tcpi_bytes_sent and tcpi_bytes_retrans (Linux 4.19), in struct tcp_info."""


class TcpInfoUnavailable(Exception):
    """The system does not say."""


class WireBytes:
    """The bytes that the sockets of a port have carried since the coordinator started, by (direction, tier, phase).

    Counted are connections that `traffic` knows of. It is told of each that closes, once `listen` has been called; of the
    open ones it asks at each `read`, which may come from any thread. What has come since the last reading is counted to
    the phase of then, so a phase's end is a reading (`__call__`, an observer of the coordinator).
    """

    def __init__(
        self, port: int, traffic: Traffic, phase: Callable[[], Phase], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._port, self._traffic, self._phase, self._clock = port, traffic, phase, clock
        self._since = self._noticed = phase()
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[int, int]] = {}
        self._absent: dict[str, float] = {}
        self._counts: Counter[tuple[str, Tier | None, Phase]] = Counter()

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hear of connections that close, on that loop."""
        try:
            closed = socket.socket(_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _SOCK_DIAG)
            closed.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            closed.bind((0, _DESTROYED))
        except (OSError, AttributeError) as error:
            log.info("what connections carry just before they close is not counted: %s", error)
            return
        loop.add_reader(closed, self._hear, closed)

    def _hear(self, closed: socket.socket) -> None:
        try:
            for _ in range(AT_ONCE):  # others have their turn, too
                data = closed.recv(1 << 16)
                port, peer, counts = _answer(data, _HEADER.size, len(data)) or (0, "", (0, 0))
                if port == self._port:
                    with self._lock:
                        self._add(peer, counts)
                        self._forget(peer)
        except BlockingIOError:
            return
        except OSError as error:
            log.info("some connections have closed unheard (%s): a part of their bytes is not counted", error)

    def read(self) -> Counter[tuple[str, Tier | None, Phase]]:
        """The counts as of now. Raises TcpInfoUnavailable."""
        asked, now = tuple(self._traffic.peers.copy()), carried(self._port)
        at = self._clock()
        with self._lock:
            for peer, counts in now.items():
                self._add(peer, counts)
            # Not at once: the last message of a socket comes after it has gone.
            self._absent = {peer: self._absent.get(peer, at) for peer in asked if peer not in now}
            for peer in [peer for peer, since in self._absent.items() if at - since >= UNHEARD_S]:
                self._forget(peer)
            self._since = self._phase()
            return self._counts.copy()

    def _add(self, peer: str, counts: tuple[int, int]) -> None:
        if peer in self._traffic.peers:
            tier, before = self._traffic.peers[peer], self._seen.get(peer, (0, 0))
            self._seen[peer] = counts
            for direction, count, known in zip(("up", "down"), counts, before, strict=True):
                self._counts[direction, tier, self._since] += max(0, count - known)

    def _forget(self, peer: str) -> None:
        self._seen.pop(peer, None)
        self._absent.pop(peer, None)
        self._traffic.forget(peer)

    def __call__(self, now: float, events: Sequence[ev.Event], state: State) -> None:
        if state.phase is not self._noticed:
            self._noticed = state.phase
            asyncio.get_running_loop().run_in_executor(None, self._end_phase)

    def _end_phase(self) -> None:
        with contextlib.suppress(TcpInfoUnavailable):  # a scrape says so
            self.read()


def carried(port: int) -> dict[str, tuple[int, int]]:
    """(bytes received, bytes sent) so far by each connection of a port of this machine, by the peer's address as gRPC
    writes it. Raises TcpInfoUnavailable."""
    found: dict[str, tuple[int, int]] = {}
    try:
        with socket.socket(_NETLINK, socket.SOCK_RAW, _SOCK_DIAG) as kernel:
            kernel.settimeout(TIMEOUT_S)
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
                found |= {peer: counts for _, peer, counts in _answers(kernel)}
    except (OSError, AttributeError, struct.error) as error:
        raise TcpInfoUnavailable(str(error)) from error
    return found


def _answers(kernel: socket.socket) -> Iterator[tuple[int, str, tuple[int, int]]]:
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


def _answer(data: bytes, at: int, end: int) -> tuple[int, str, tuple[int, int]] | None:
    """A socket's own port, its peer, and its bytes (received, sent)."""
    family, _, _, _, own, port, _, peer, *_ = _ANSWER.unpack_from(data, at)
    at += _ANSWER.size
    while at + _ATTRIBUTE.size <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if kind == _INFO:
            info = memoryview(data)[at + _ATTRIBUTE.size : at + length]
            if len(info) < _SENT.size:
                raise OSError("this kernel does not count the bytes that a socket has sent; Linux 4.19 and later do")
            (received,), (sent, again) = _RECEIVED.unpack_from(info), _SENT.unpack_from(info)
            counts = received, sent - again
            return int.from_bytes(own, "big"), _peer(family, peer, int.from_bytes(port, "big")), counts
        at += max(length, _ATTRIBUTE.size) + 3 & ~3
    return None


def _peer(family: int, address: bytes, port: int) -> str:
    if family == socket.AF_INET:
        return f"ipv4:{socket.inet_ntop(socket.AF_INET, address[:4])}:{port}"
    if (mapped := IPv6Address(address).ipv4_mapped) is not None:
        return f"ipv4:{mapped}:{port}"
    return f"ipv6:%5B{socket.inet_ntop(socket.AF_INET6, address)}%5D:{port}"
