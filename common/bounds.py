"""Bytes from elsewhere, bounded before memory is taken for them.

A file says of itself how much it holds: the size of an array, the pixels of an image, how many bytes follow. Whoever made the
file may have lied, and what was compressed may be small and unpack to anything. So a reader compares what a file announces
with what there is of it, by one rule for all kinds of files, before it makes room.
"""

from typing import IO

from zowarmup.common.units import amount

MOST_RATIO = 100
"""What is compressed may unpack to this many times its size. Deflate reaches 1,030, of bytes that are all alike; data, tables
and photographs seldom reach 20."""
FREE_BYTES = 64 << 20
"""Up to this size anything may unpack: no device runs out of memory for it."""


class TooLarge(ValueError):
    """More is announced than may be, said in a sentence with both sizes and the remedy."""


def require_ratio(what: str, announced: int, held: int, remedy: str, free: int = FREE_BYTES) -> None:
    """Refuse what would unpack to far more than there is of it.

    Args:
        what: the file, or the part of it, as the sentence begins.
        announced: bytes that it says it unpacks to.
        held: bytes that there are of it.
        remedy: what to do, as the sentence ends.
        free: bytes that anything may unpack to.

    Raises:
        TooLarge: it is more than `free` and more than MOST_RATIO times `held`.
    """
    if announced > max(free, MOST_RATIO * held):
        raise TooLarge(
            f"{what}: it has {amount(held)} and unpacks to {amount(announced)}, more than {MOST_RATIO} times as much: {remedy}"
        )


def require_size(what: str, size: int, most: int, remedy: str) -> None:
    """Refuse what is larger than its kind can be. Raises TooLarge."""
    if size > most:
        raise TooLarge(f"{what}: it has {amount(size)} and may have {amount(most)}: {remedy}")


class Bounded:
    """A file of which at most `most_bytes` are read, in all: whoever believes a size that the file says makes no room for it.

    `what` and `remedy` are the beginning and the end of the sentence. Raise `most_bytes` to allow more later.
    """

    def __init__(self, file: IO[bytes], most_bytes: int, what: str, remedy: str) -> None:
        self.most_bytes = most_bytes
        self._file, self._what, self._remedy, self._read = file, what, remedy, 0

    def read(self, size: int) -> bytes:
        """Up to so many bytes. Raises TooLarge where there may not be so many more."""
        require_size(f"{self._what}: a part of it", size, self.most_bytes - self._read, self._remedy)
        return self._counted(self._file.read(size))

    def readline(self) -> bytes:
        """A line, as far as there may be more."""
        return self._counted(self._file.readline(self.most_bytes - self._read))

    def seek(self, offset: int) -> int:
        return self._file.seek(offset)

    def tell(self) -> int:
        return self._file.tell()

    def _counted(self, found: bytes) -> bytes:
        self._read += len(found)
        return found
