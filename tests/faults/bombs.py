"""Files that are small and announce, or unpack to, far more than a device has: how they are made, and what reading one takes.

`python -m tests.faults.bombs READER HONEST HOSTILE` is the child in which the memory is measured: it reads the honest file
first, so that what is imported and allocated in any case does not count.
"""

import io
import json
import resource
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

PIECE = 1 << 20
LIMIT_BYTES = 3 << 30
"""Of a child's address space, so that a reader without a bound ends by itself."""


def deflated(size: int, begin: bytes = b"", fill: bytes = b"\0") -> tuple[bytes, int]:
    """A raw deflate stream of `begin` and then `size` times `fill`, and the CRC-32 of what it unpacks to."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = packer.compress(begin) + packer.flush(zlib.Z_FULL_FLUSH)
    piece = fill * PIECE
    packed = packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)
    rest = packer.compress(fill * (size % PIECE)) + packer.flush(zlib.Z_FINISH)
    crc = zlib.crc32(begin)
    for _ in range(size // PIECE):
        crc = zlib.crc32(piece, crc)
    return head + packed * (size // PIECE) + rest, zlib.crc32(fill * (size % PIECE), crc)


def gzipped(size: int, begin: bytes = b"", fill: bytes = b"\0") -> bytes:
    """The same as a gzip file."""
    packed, crc = deflated(size, begin, fill)
    return (
        b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + packed + struct.pack("<II", crc, (len(begin) + size * len(fill)) & 0xFFFFFFFF)
    )


@dataclass(frozen=True)
class Member:
    """Of a zip archive, as its directory describes it: `size` is what it claims to unpack to."""

    name: str
    packed: bytes
    crc: int
    size: int
    method: int = 8

    @classmethod
    def stored(cls, name: str, content: bytes) -> "Member":
        return cls(name, content, zlib.crc32(content), len(content), 0)

    @classmethod
    def zeros(cls, name: str, size: int, begin: bytes = b"", fill: bytes = b"\0") -> "Member":
        packed, crc = deflated(size, begin, fill)
        return cls(name, packed, crc, len(begin) + size * len(fill))


def zipped(members: Iterable[Member]) -> bytes:
    """A zip archive; the sizes that do not fit are in the fields of zip64."""
    out, directory, count = io.BytesIO(), io.BytesIO(), 0
    for member in members:
        name, at, large = member.name.encode(), out.tell(), member.size >= 0xFFFFFFFF
        size = 0xFFFFFFFF if large else member.size
        extra = struct.pack("<HHQ", 1, 8, member.size) if large else b""
        common = struct.pack(
            "<HHHHHIIIHH", 45, 0, member.method, 0, 33, member.crc, len(member.packed), size, len(name), len(extra)
        )
        out.write(b"PK\3\4" + common + name + extra + member.packed)
        directory.write(
            b"PK\1\2" + struct.pack("<H", 45) + common + struct.pack("<HHHII", 0, 0, 0, 0, at) + name + extra
        )
        count += 1
    start, size = out.tell(), directory.tell()
    out.write(directory.getvalue() + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, *[count & 0xFFFF] * 2, size, start, 0))
    return out.getvalue()


def array_header(shape: tuple[int, ...], kind: str, version: int = 1, padding: int = 0) -> bytes:
    """The header of an array in NumPy's format. `padding`: how many more spaces it claims to have, which are not here."""
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    form = "<H" if version == 1 else "<I"
    return (
        b"\x93NUMPY" + bytes([version, 0]) + struct.pack(form, len(text) + 1 + padding) + text + b"\n" * (not padding)
    )


def png(width: int, height: int, content: bytes | None = None) -> bytes:
    """A grey image whose every pixel is black, or whose compressed content is another."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    if content is None:
        packed, _ = deflated(height * (width + 1))
        rows = height * (width + 1)
        content = b"\x78\x9c" + packed + struct.pack(">I", rows % 65521 << 16 | 1)  # the Adler-32 of zeros
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", content) + chunk(b"IEND", b"")


@dataclass(frozen=True)
class Reading:
    """What reading the hostile file took beyond the honest one, and how it was refused (empty: it was taken)."""

    more_mb: float
    kind: str
    sentence: str


def reading(reader: str, honest: str, hostile: str, limit_s: float = 120) -> Reading:
    """In a fresh child."""
    command = [sys.executable, "-m", "tests.faults.bombs", reader, honest, hostile]
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    assert done.returncode == 0, done.stderr
    return Reading(*json.loads(done.stdout.splitlines()[-1]))


def main() -> int:
    from tests.faults.readers import READERS

    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    name, honest, hostile = sys.argv[1:]
    read: Callable[[str], object] = READERS[name]
    read(honest)
    before, kind, sentence = _peak_bytes(), "", ""
    try:
        read(hostile)
    except Exception as error:  # noqa: BLE001  ( whatever a reader without a bound comes to)
        kind, sentence = type(error).__name__, str(error)[:2000]
    print(json.dumps([(_peak_bytes() - before) / 1e6, kind, sentence]))
    return 0


def _peak_bytes() -> int:
    """Of this process since it began: not the rusage, which counts what its parent had when it was forked."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    sys.exit(main())
