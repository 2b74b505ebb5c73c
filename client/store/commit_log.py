"""The commit log on a device's disk: the steps that its replica took since its snapshot, one record each.

A record is its length and CRC-32 (two little-endian 32-bit words) and then the bytes. Records are not synced: what a
power cut tears off is found by length or checksum, cut away, and asked of the coordinator again, which is cheaper for
an SD card than a sync a round.
"""

import contextlib
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from zowarmup.common.system.files import require_regular

_HEAD = struct.Struct("<II")
LONGEST_BYTES = 1 << 26
"""Of a record, as of a message."""


class CommitLog:
    """An append-only file of records. Opening reads what is whole and cuts off the rest."""

    def __init__(self, file: Path) -> None:
        """Raises OSError where the file cannot be read or written."""
        if file.exists():
            require_regular(file)
        self._out = open(file, "a+b")  # noqa: SIM115 (open as long as the replica is)
        self._out.seek(0)
        self.records, self.bytes = _whole(self._out)
        self._out.truncate(self.bytes)

    def append(self, records: Sequence[bytes]) -> None:
        """Raises OSError where the disk refuses."""
        data = b"".join(_HEAD.pack(len(record), zlib.crc32(record)) + record for record in records)
        self._out.write(data)
        self._out.flush()
        self.bytes += len(data)

    def close(self) -> None:
        """What the disk still refuses is lost, as after a power cut."""
        with contextlib.suppress(OSError):
            self._out.close()


def _whole(file: IO[bytes]) -> tuple[list[bytes], int]:
    """The whole records at the start of a file, and where they end. What follows is not read, however much it is."""
    records, end = [], 0
    while len(head := file.read(_HEAD.size)) == _HEAD.size:
        length, checksum = _HEAD.unpack(head)
        if length > LONGEST_BYTES:
            break
        record = file.read(length)
        # A file system may leave zeros where data was lost: length 0 with checksum 0 must not pass for a record.
        if length == 0 or len(record) < length or zlib.crc32(record) != checksum:
            break
        records.append(record)
        end += _HEAD.size + length
    return records, end
