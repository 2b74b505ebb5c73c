"""Seeded random streams, the same bits on every machine: Rademacher sign vectors (directions), and permutations.

A stream is a key (seed, group) of the counter-based generator Philox4x64-10. Its byte p carries the signs of directions
8*group .. 8*group + 7 at parameter p: bit k set means +1, clear means -1. The generator's words are laid out
little-endian whatever the machine, and any place in a stream is reached at once, so a vector is never stored: it is
read off wherever it is needed. Keys are pairs, never sums, so no two streams share their bytes.

A permutation of n is the stable order of n raw 64-bit words: integers only, so no libm and no version of a sampling
routine can change it. Its streams are numbered from 2^63, where no group of directions is ever asked for, so a work
item's one seed serves its directions, its slices and its shuffles.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.random import Philox
from numpy.typing import NDArray

KEY_LIMIT = 1 << 64
DIRECTIONS_PER_GROUP = 8
REMEMBERED = 1 << 15
"""Streams of at most this many bytes are remembered for a moment: making a generator takes longer than reading one."""
_WORD = 8  # bytes of one word
_COUNTER_STEP = 4  # words of one counter step


def lanes(seed: int, group: int, start: int, count: int) -> NDArray[np.uint8]:
    """Read a range of bytes of a stream.

    Bit k of byte p is the sign of direction 8*group + k at parameter p, 1 for +1 and 0 for -1.

    Args:
        seed: Of the stream, 0 to 2^64 - 1.
        group: Of the stream, 0 to 2^64 - 1.
        start: Place of the first byte, at least 0.
        count: Number of bytes, at least 0.

    Returns:
        The bytes start .. start + count - 1: uint8 (count,).

    Raises:
        ValueError: An argument is out of its range.
    """
    if count < 0:
        raise ValueError(f"count = {count}: must be at least 0")
    _check_place(seed, group, start)
    try:
        generator, state = _IDLE.pop()
    except IndexError:
        generator = Philox(key=0)
        state = generator.state
    word = start // _WORD
    state["state"]["key"][:] = seed, group
    state["state"]["counter"][:] = word // _COUNTER_STEP, 0, 0, 0
    generator.state = state
    if word % _COUNTER_STEP:
        generator.random_raw(word % _COUNTER_STEP, output=False)
    found = _read(generator, start, start + count)
    _IDLE.append((generator, state))
    return found


def walk(seed: int, group: int, start: int, stop: int, length: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Read a range of bytes of a stream in order, piece by piece.

    One generator moves on from piece to piece, which is cheaper than a call of `lanes` for each.

    Args:
        seed: Of the stream, 0 to 2^64 - 1.
        group: Of the stream, 0 to 2^64 - 1.
        start: Place of the first byte, at least 0.
        stop: Place after the last byte.
        length: Pieces end at its multiples; itself a positive multiple of 8.

    Yields:
        The place of a piece and its bytes, uint8, only for reading.

    Raises:
        ValueError: An argument is out of its range.
    """
    if length < _WORD or length % _WORD:
        raise ValueError(f"length = {length}: must be a positive multiple of {_WORD}")
    if start < stop <= (start // length + 1) * length <= REMEMBERED:
        yield start, _remembered(seed, group, start, stop)
        return
    generator = _seek(seed, group, start)
    while start < stop:
        # A multiple of 8 is a word's edge, so the next piece begins with the generator's next word.
        end = min(stop, (start // length + 1) * length)
        yield start, _read(generator, start, end)
        start = end


@lru_cache(maxsize=8)
def _remembered(seed: int, group: int, start: int, stop: int) -> NDArray[np.uint8]:
    """A short stream: a small model is moved along the eight directions of a group one after the other, there and back."""
    found = lanes(seed, group, start, stop - start)
    found.flags.writeable = False
    return found


_IDLE: list[tuple[Philox, Any]] = []
"""Generators that nobody reads from, with their states: to move one takes a sixth of the time that making one takes."""


def _check_place(seed: int, group: int, start: int) -> None:
    if not (0 <= seed < KEY_LIMIT and 0 <= group < KEY_LIMIT):
        raise ValueError(f"stream ({seed}, {group}): seed and group must be 0 to 2^64 - 1")
    if start < 0:
        raise ValueError(f"start = {start}: must be at least 0")


def _seek(seed: int, group: int, start: int) -> Philox:
    """A generator whose next word holds byte `start` of the stream."""
    _check_place(seed, group, start)
    word = start // _WORD
    generator = Philox(key=np.array([seed, group], dtype=np.uint64), counter=word // _COUNTER_STEP)
    generator.random_raw(word % _COUNTER_STEP, output=False)
    return generator


def _read(generator: Philox, start: int, stop: int) -> NDArray[np.uint8]:
    """Bytes start .. stop - 1, from a generator that stands at the word of `start`."""
    first = start // _WORD
    words = generator.random_raw(-(-stop // _WORD) - first)
    # astype copies on a big-endian machine only.
    return words.astype("<u8", copy=False).view(np.uint8)[start - first * _WORD : stop - first * _WORD]


_FIRST_STREAM = 1 << 63


def words(seed: int, stream: int, count: int) -> NDArray[np.uint64]:
    """Read the first raw words of a stream that holds no directions.

    Args:
        seed: 0 to 2^64 - 1.
        stream: Number of the stream, 0 to 2^63 - 1; its key is (seed, 2^63 + stream).
        count: Number of words.

    Returns:
        Uint64 (count,).

    Raises:
        ValueError: `seed` or `stream` is out of its range.
    """
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed {seed} does not fit 64 bits")
    if not 0 <= stream < _FIRST_STREAM:
        raise ValueError(f"stream {stream} must be 0 to 2^63 - 1")
    key = np.array([seed, _FIRST_STREAM + stream], dtype=np.uint64)
    return np.random.Philox(key=key).random_raw(count)


def permutation(seed: int, stream: int, count: int) -> NDArray[np.int64]:
    """Draw a permutation: the stable order of the first words of a stream.

    Args:
        seed: 0 to 2^64 - 1.
        stream: As for `words`.
        count: How many numbers are permuted.

    Returns:
        0 .. count - 1 in another order, int64 (count,).

    Raises:
        ValueError: `seed` or `stream` is out of its range.
    """
    return np.argsort(words(seed, stream, count), kind="stable").astype(np.int64, copy=False)
