"""The NumPy kernel's integer sums in compiled code, in less than half of the time on one core.

The generator Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) and the look-ups of its
bytes, compiled by Numba, the optional extra `jit`. Importing this file loads Numba and its compiler, some 100 MB and
half a second; compiling takes two seconds more, once where there is a place to keep the result. `steps` imports it
where that pays, in processes that can spare the memory.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core.errors import NumbaError
from numba.extending import intrinsic
from numpy.typing import NDArray

from zowarmup.common.exact.directions import lanes

# Multipliers and key increments of Philox4x64, and its number of rounds.
_M0, _M1 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
_W0, _W1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)
_ROUNDS = 10
_BYTE = np.uint64(0xFF)
_COUNTER = 32  # bytes of one counter step
_WORDS = 256  # drawn before they are looked up: drawing alone, the processor overlaps one counter step with the next


def add_up(sums: NDArray[Any], seed: int, group: int, start: int, table: NDArray[Any]) -> None:
    """Add up one table entry for each byte of a stream: sums[i] += table[b], for the bytes b from `start` on.

    Two threads may do this at once.

    Args:
        sums: Int32 or int64 (n,), one for each byte; changed in place.
        seed: Of the stream, 0 to 2^64 - 1.
        group: Of the stream, 0 to 2^64 - 1.
        start: Place of the first byte in the stream, at least 0.
        table: (256,), of the same type as `sums`.
    """
    _add_up(sums, np.uint64(seed), np.uint64(group), start // _COUNTER, start % _COUNTER, table)


@intrinsic  # type: ignore[untyped-decorator]
def _product(_context: Any, _a: Any, _b: Any) -> tuple[Any, Any]:
    """The upper and the lower 64 bits of a product of two uint64: one instruction, which Python has no word for."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide, word = ir.IntType(128), ir.IntType(64)
        product = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
        upper = builder.lshr(product, ir.Constant(wide, 64))
        halves = [builder.trunc(upper, word), builder.trunc(product, word)]
        return context.make_tuple(builder, signature.return_type, halves)

    return numba.types.UniTuple(numba.uint64, 2)(numba.uint64, numba.uint64), generate


def _compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Kept on disk from one process to the next where there is a folder that can be written."""
    try:
        compiled: Callable[..., Any] = numba.njit(cache=True, nogil=True, **options)(function)
    except RuntimeError:
        compiled = numba.njit(nogil=True, **options)(function)
    return compiled


def _philox(counter: Any, key0: Any, key1: Any) -> Any:
    a, b, c, d = counter, np.uint64(0), np.uint64(0), np.uint64(0)
    for _ in range(_ROUNDS):
        high0, low0 = _product(_M0, a)
        high1, low1 = _product(_M1, c)
        a, b, c, d = high1 ^ b ^ key0, low1, high0 ^ d ^ key1, low0
        key0 += _W0
        key1 += _W1
    return a, b, c, d


def _look_up(sums: Any, seed: Any, group: Any, counter: int, skipped: int, table: Any) -> None:
    words = np.empty(_WORDS, np.uint64)
    place = -skipped
    while place < sums.size:
        for index in range(0, _WORDS, 4):
            counter += 1  # the generator counts before it draws
            words[index], words[index + 1], words[index + 2], words[index + 3] = _draw(np.uint64(counter), seed, group)
        if place >= 0 and place + 8 * _WORDS <= sums.size:
            piece = sums[place : place + 8 * _WORDS]
            for index in range(_WORDS):
                word = words[index]
                for byte in range(8):
                    piece[8 * index + byte] += table[word >> np.uint64(8 * byte) & _BYTE]
        else:
            for index in range(_WORDS):
                for byte in range(8):
                    at = place + 8 * index + byte
                    if 0 <= at < sums.size:
                        sums[at] += table[words[index] >> np.uint64(8 * byte) & _BYTE]
        place += 8 * _WORDS


_draw = _compiled(_philox, inline="always")
_add_up = _compiled(_look_up)


def _prove() -> None:
    """Raises ImportError where what was compiled here does not give the bytes that NumPy gives."""
    table = np.arange(256, dtype=np.int32)
    found = np.zeros(3 * _COUNTER, dtype=np.int32)
    try:
        add_up(found, 7, 1, 5, table)
    except NumbaError as error:
        raise ImportError(f"Numba cannot compile this: {error}") from error
    if not np.array_equal(found, lanes(7, 1, 5, found.size)):
        raise ImportError("compiled here, Philox has other words than NumPy's")


_prove()
