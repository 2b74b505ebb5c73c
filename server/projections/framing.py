"""The wire's overhead beyond payload: the bytes of gRPC, HTTP/2 and TLS, by their own sizes.

Measured frame by frame between grpc-core's own client and server (1.85). A message has a prefix of gRPC's and the header
of a DATA frame; whoever reads it answers with window updates, and its sender piggybacks some of its own. A call begins
and ends with HEADERS, which are long once on a connection and mostly indices after that. A connection begins with a
preface, settings and a first pair of pings. TLS 1.3 adds a record's header, type and tag to each write, and a handshake
at the beginning. What depends on time, pings above all, is not here: where the system tells what a socket carried,
`tcp_info` adds it.
"""

from dataclasses import dataclass

PREFIX, FRAME = 5, 9
WINDOWS = 26  # two WINDOW_UPDATE frames, of the stream and of the connection
CONNECTION_UP, CONNECTION_DOWN = 125, 102
CALL_UP, CALL_DOWN = 250, 126
IDENTITY = 105  # the names and sizes of the two headers that say who calls, and the credential
LATER_CALL_UP, LATER_CALL_DOWN = 135, 37
RECORD, RECORD_BYTES = 22, 16384
HANDSHAKE_UP, HANDSHAKE_DOWN = 1480, 1740  # with the key shares of a hybrid key exchange


@dataclass(frozen=True, slots=True)
class Wire:
    """How much longer things are on the wire. `tls`: whether it is encrypted; `certificate_bytes`: what the coordinator
    shows in the handshake."""

    tls: bool = False
    certificate_bytes: int = 0

    def message(self, payload_bytes: int) -> int:
        """Bytes of a message on an open stream."""
        return self._written(payload_bytes + PREFIX + FRAME)

    @property
    def windows(self) -> int:
        """Bytes that a message from a client costs in window updates, in each direction: they share the record of another
        frame."""
        return WINDOWS

    @property
    def connection(self) -> tuple[int, int]:
        """Bytes (up, down) that setting up a connection costs."""
        if not self.tls:
            return CONNECTION_UP, CONNECTION_DOWN
        records = 4 * RECORD
        return (
            CONNECTION_UP + HANDSHAKE_UP + records,
            CONNECTION_DOWN + HANDSHAKE_DOWN + self.certificate_bytes + records,
        )

    def call(self, name_bytes: int, first: bool) -> tuple[int, int]:
        """Bytes (up, down) of a call's HEADERS; `name_bytes`: the length of the caller's name, 0 for a stranger; `first`:
        whether it is the connection's first call."""
        if not first:
            return self._written(LATER_CALL_UP), self._written(LATER_CALL_DOWN)
        identity = IDENTITY + name_bytes if name_bytes else 0
        return self._written(CALL_UP + identity), self._written(CALL_DOWN)

    def _written(self, plain_bytes: int) -> int:
        return plain_bytes + RECORD * -(-plain_bytes // RECORD_BYTES) if self.tls else plain_bytes
