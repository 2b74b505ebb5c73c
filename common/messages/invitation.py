"""An invitation to a run, as one word: its secret and the private authority of its coordinators.

It is for pasting into a shell or a file: `zw1.SECRET.AUTHORITY`, both base64url without padding, the authority certificates as DER,
one behind the other, mostly one, or nothing. Whoever has it can join, so it travels in the environment or a file, never as an argument
that `ps` would show; and no error repeats it.
"""

import base64
import re
from dataclasses import dataclass, field
from typing import Self

JOIN_VARIABLE = "ZOWARMUP_JOIN"

_FORM = re.compile(r"zw1\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)")
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")


@dataclass(frozen=True, slots=True)
class Invitation:
    """`secret`: 64 hex digits, EnrolRequest.token. `authority`: PEM of the certificates that the coordinators' are signed
    with, empty where the device's own authorities know it, or where there is none."""

    secret: str = field(repr=False)
    authority: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{64}", self.secret):
            raise ValueError("an invitation's secret must be 64 lower-case hex digits")

    @property
    def word(self) -> str:
        return f"zw1.{_encode(bytes.fromhex(self.secret))}.{_encode(_der(self.authority))}"

    @classmethod
    def from_word(cls, word: str) -> Self:
        """Raises ValueError, which does not repeat the word, where it is not an invitation."""
        matched = _FORM.fullmatch(word.strip())
        if not matched:
            raise ValueError("it must be zw1.SECRET.AUTHORITY, as `zowarmup invite` prints it")
        try:
            secret, ders = (_decode(part) for part in matched.groups())
            authority = _pem(ders)
        except ValueError:
            raise ValueError("it is damaged: copy all of what `zowarmup invite` printed") from None
        if len(secret) != 32:
            raise ValueError("it is damaged: copy all of what `zowarmup invite` printed")
        return cls(secret.hex(), authority)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _der(pem: bytes) -> bytes:
    """The certificates of a PEM file; nothing of nothing. Raises ValueError where there is none."""
    if not pem:
        return b""
    if not (found := _PEM.findall(pem.decode("ascii", errors="replace"))):
        raise ValueError("the authority's file holds no certificate as PEM")
    return b"".join(map(base64.b64decode, found))


def _pem(ders: bytes) -> bytes:
    """Raises ValueError where these are no certificates as DER."""
    lines = []
    while ders:
        size = _size(ders)
        body, ders = base64.b64encode(ders[:size]).decode(), ders[size:]
        pieces = [body[start : start + 64] for start in range(0, len(body), 64)]
        lines += ["-----BEGIN CERTIFICATE-----", *pieces, "-----END CERTIFICATE-----"]
    return "".join(f"{line}\n" for line in lines).encode()


def _size(der: bytes) -> int:
    """How many bytes the first certificate has, a sequence with its length in front (X.690, 8.1.3). Raises ValueError."""
    if len(der) < 2 or der[0] != 0x30:
        raise ValueError("no certificate")
    further = der[1] & 0x7F if der[1] & 0x80 else 0
    size = 2 + further + (int.from_bytes(der[2 : 2 + further], "big") if further else der[1])
    if len(der) < size:
        raise ValueError("a certificate is cut off")
    return size
