"""Scalars in a byte or half of one: floating-point numbers of few bits with one exponent for all, and their exact bytes.

The numbers of a contribution's kind are sign * level(c) * 2^e, with one e for all of them and a code c for each,

    level(c) = c                                             c below 2^m
    level(c) = (2^m + c mod 2^m) * 2^(c div 2^m - 1)         from there on

where a byte has m = 3 (c is 0 to 127) and a nibble, four bits, m = 1 (0 to 7: 0, 1, 2, 3, 4, 6, 8, 12). So levels are evenly
spaced below 2^m and, above, 2^m to an octave: logarithmic, with a zero, and made of whole numbers and powers of two alone.
Every number is exact in float32, so both directions are the same on every machine.

The bytes are e + 128 and then the codes, each with its sign as the highest bit; two nibbles a byte, the lower bits first.
There is no negative zero, but that it fills the last byte where the number of nibbles is odd.
"""

import math
from collections.abc import Iterable, Sequence
from enum import StrEnum

BIAS = 128
MOST_VALUES = 4096
"""Of one kind: as many as a run may ask for."""


class Precision(StrEnum):
    """What each scalar of a contribution travels as."""

    FLOAT32 = "float32"
    BYTE = "byte"
    NIBBLE = "nibble"


_MANTISSA_BITS = {Precision.BYTE: 3, Precision.NIBBLE: 1}
_CODE_BITS = {Precision.BYTE: 7, Precision.NIBBLE: 3}
_FLOAT32_OCTAVES = 128
"""Float32 is finite below 2^128."""


def mantissa_bits(precision: Precision) -> int:
    """m, for a byte or a nibble."""
    return _MANTISSA_BITS[precision]


def levels(precision: Precision) -> tuple[int, ...]:
    """level(c) for every code c of a byte or a nibble, in ascending order."""
    octave = 1 << _MANTISSA_BITS[precision]
    codes = range(1 << _CODE_BITS[precision])
    return tuple(c if c < octave else (octave + c % octave) << (c // octave - 1) for c in codes)


_LEVELS = {precision: levels(precision) for precision in _MANTISSA_BITS}
_CODES = {precision: {level: code for code, level in enumerate(_LEVELS[precision])} for precision in _MANTISSA_BITS}
_SIGNED = {precision: (*found, *(-level for level in found)) for precision, found in _LEVELS.items()}


def exponent(values: Iterable[float], precision: Precision) -> int:
    """The least e, from -128 on, with which no value is above the highest level.

    Args:
        values: Finite.
        precision: A byte or a nibble.
    """
    largest, top = max(map(abs, values), default=0.0), _LEVELS[precision][-1]
    if not largest:
        return -BIAS
    alike = math.frexp(largest)[1] - top.bit_length()  # the highest level is then in the octave of the largest value
    return max(-BIAS, alike + (largest > math.ldexp(top, alike)))


def packed_bytes(count: int, precision: Precision) -> int:
    """How many bytes so many scalars of one kind have, without what the message adds."""
    match precision:
        case Precision.FLOAT32:
            return 4 * count
        case Precision.BYTE:
            return 1 + count if count else 0
        case Precision.NIBBLE:
            return 1 + -(-count // 2) if count else 0


def pack(values: Sequence[float], precision: Precision) -> bytes:
    """The bytes of numbers that a byte or a nibble holds exactly.

    Args:
        values: At most MOST_VALUES, finite.
        precision: A byte or a nibble.

    Returns:
        The exponent and the codes; nothing where there are no values.

    Raises:
        ValueError: There are more values, or one lies between two levels or beyond float32.
    """
    if not values:
        return b""
    _require_few(len(values))
    shared = exponent(values, precision)
    _require_float32(shared, precision)
    sign, codes = 1 << _CODE_BITS[precision], bytearray()
    for value in values:
        code = _CODES[precision].get(math.ldexp(abs(value), -shared))  # type: ignore[call-overload]
        if code is None:
            raise ValueError(f"scalars: {value!r} is not a number that a {precision} holds beside the others")
        codes.append(code | sign if value < 0 else code)
    if precision is Precision.NIBBLE:
        codes += bytes([sign] * (len(codes) % 2))
        codes = bytearray(low | high << 4 for low, high in zip(codes[::2], codes[1::2], strict=True))
    return bytes([shared + BIAS]) + codes


def unpack(data: bytes, precision: Precision) -> tuple[float, ...]:
    """The numbers that bytes stand for.

    Args:
        data: As from `pack`; any exponent will do that leaves the numbers within float32.
        precision: A byte or a nibble.

    Raises:
        ValueError: The bytes are too many, have no codes, a negative zero or numbers beyond float32.
    """
    if not data:
        return ()
    count = (len(data) - 1) * (2 if precision is Precision.NIBBLE else 1)
    _require_few(count - (precision is Precision.NIBBLE))
    if not count:
        raise ValueError("scalars: an exponent without codes")
    shared = data[0] - BIAS
    _require_float32(shared, precision)
    codes = data[1:]
    sign = 1 << _CODE_BITS[precision]
    if precision is Precision.NIBBLE:
        codes = bytes(half for byte in codes for half in (byte & 15, byte >> 4))
        codes = codes[:-1] if codes[-1] == sign else codes
    if sign in codes:
        raise ValueError(f"scalars: a {precision} has a negative zero")
    scale, signed = math.ldexp(1.0, shared), _SIGNED[precision]
    return tuple([scale * signed[code] for code in codes])


def _require_few(count: int) -> None:
    if count > MOST_VALUES:
        raise ValueError(f"scalars: {count} of a kind, no run asks for more than {MOST_VALUES}")


def _require_float32(shared: int, precision: Precision) -> None:
    if shared + _LEVELS[precision][-1].bit_length() > _FLOAT32_OCTAVES:
        raise ValueError(f"scalars: with the exponent {shared} a {precision} is beyond float32")
