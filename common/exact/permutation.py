"""Seeded permutations, the same on every machine.

A permutation of n is the stable order of n raw 64-bit Philox words: integers only, so no libm and no version of a
sampling routine can change it. Keys are pairs (seed, stream). Streams here are numbered from 2^63, where no group of
directions is ever asked for, so a work item's one seed serves its directions, its slices and its shuffles.
"""

import numpy as np
from numpy.typing import NDArray

_FIRST_STREAM = 1 << 63


def words(seed: int, stream: int, count: int) -> NDArray[np.uint64]:
    """The first `count` raw words of stream (seed, stream): seed 0 to 2^64 - 1, stream 0 to 2^63 - 1."""
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed {seed} does not fit 64 bits")
    if not 0 <= stream < _FIRST_STREAM:
        raise ValueError(f"stream {stream} must be 0 to 2^63 - 1")
    key = np.array([seed, _FIRST_STREAM + stream], dtype=np.uint64)
    return np.random.Philox(key=key).random_raw(count)


def permutation(seed: int, stream: int, count: int) -> NDArray[np.int64]:
    """A permutation of 0 .. count - 1, as int64 (count,)."""
    return np.argsort(words(seed, stream, count), kind="stable").astype(np.int64, copy=False)
