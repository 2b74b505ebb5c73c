"""Scalars in a byte or half of one: what the codes stand for, that bytes and numbers lead to each other, what is refused."""

import math
import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zowarmup.common.messages.small_floats import (
    MOST_VALUES,
    Precision,
    exponent,
    levels,
    pack,
    packed_bytes,
    unpack,
)
from zowarmup.common.messages.values import Scalars

FEW_BITS = [Precision.BYTE, Precision.NIBBLE]
precisions = st.sampled_from(FEW_BITS)


def test_levels_are_even_at_first_and_then_so_many_to_an_octave() -> None:
    assert levels(Precision.NIBBLE) == (0, 1, 2, 3, 4, 6, 8, 12)
    found = levels(Precision.BYTE)
    assert found[:25] == (*range(17), 18, 20, 22, 24, 26, 28, 30, 32)
    assert (len(found), found[-1]) == (128, 15 << 14)
    for smaller, larger in pairwise(found[8:]):
        assert 16 / 15 <= larger / smaller <= 9 / 8


@pytest.mark.parametrize("precision", FEW_BITS)
def test_every_byte_stands_for_a_number_of_float32_or_is_refused(precision: Precision) -> None:
    for first in range(256):
        for code in range(256):
            try:
                found = unpack(bytes([first, code]), precision)
            except ValueError:
                continue
            assert struct.unpack("<2f", struct.pack("<2f", *found, *[0.0] * (2 - len(found))))[: len(found)] == found
            assert unpack(pack(found, precision), precision) == found
    assert unpack(bytes([238, 1]), Precision.BYTE) == (2.0**110,)
    with pytest.raises(ValueError, match="exponent 111 a byte is beyond float32"):
        unpack(bytes([239, 1]), Precision.BYTE)
    assert unpack(bytes([0, 0x81]), Precision.NIBBLE) == (2.0**-128,)


@given(precisions, st.binary(min_size=2, max_size=12))
def test_what_bytes_stand_for_comes_back_from_other_bytes_too(precision: Precision, data: bytes) -> None:
    try:
        found = unpack(data, precision)
    except ValueError:
        return
    again = pack(found, precision)
    assert len(again) == len(data) == packed_bytes(len(found), precision)
    assert unpack(again, precision) == found
    assert all(math.copysign(1, value) == 1 for value in found if not value)


@given(precisions, st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=9))
def test_the_exponent_is_the_least_that_reaches_the_largest(precision: Precision, values: list[float]) -> None:
    found, top, largest = exponent(values, precision), levels(precision)[-1], max(map(abs, values))
    assert found >= -128 and top * 2.0**found >= largest
    assert found == -128 or top * 2.0 ** (found - 1) < largest


def test_bytes_are_the_exponent_and_the_codes() -> None:
    assert pack((-0.6875, 0.8125), Precision.BYTE).hex() == "6efb7d"
    assert pack((-0.75, 0.5, 0.75), Precision.NIBBLE).hex() == "7c6f87"
    assert unpack(bytes.fromhex("7d5d"), Precision.NIBBLE) == unpack(bytes.fromhex("7c7f"), Precision.NIBBLE)


def test_what_cannot_be_packed_is_refused() -> None:
    assert pack((), Precision.BYTE) == b"" and unpack(b"", Precision.NIBBLE) == ()
    with pytest.raises(ValueError, match=r"5\.0 is not a number that a nibble holds beside the others"):
        pack((12.0, 5.0), Precision.NIBBLE)
    with pytest.raises(ValueError, match="not a number that a byte holds"):
        pack((1.0, 2.0**-18), Precision.BYTE)
    with pytest.raises(ValueError, match="beyond float32"):
        pack((2.0**128,), Precision.BYTE)
    with pytest.raises(ValueError, match=r"0\.1 is not a number"):
        Scalars(1, (0.1,), (), precision=Precision.BYTE)
    with pytest.raises(ValueError, match=r"0\.3 is not a number"):
        Scalars(1, (0.5,), (0.3, 1.0), precision=Precision.NIBBLE)
    for value in (math.nan, math.inf, -math.inf):
        for precision in Precision:
            with pytest.raises(ValueError, match="a value is not finite"):
                Scalars(1, (value,), (), precision=precision)


@pytest.mark.parametrize(
    ("data", "precision", "why"),
    [
        (b"\x80", Precision.BYTE, "an exponent without codes"),
        (b"\x80", Precision.NIBBLE, "an exponent without codes"),
        (b"\x80\x80", Precision.BYTE, "a byte has a negative zero"),
        (b"\x80\x01\x80\x01", Precision.BYTE, "a byte has a negative zero"),
        (b"\x80\x08", Precision.NIBBLE, "a nibble has a negative zero"),
        (b"\x80\x81\x11", Precision.NIBBLE, "a nibble has a negative zero"),
        (b"\x80\x88", Precision.NIBBLE, "a nibble has a negative zero"),
        (b"\xff\x01", Precision.NIBBLE, "beyond float32"),
        (bytes(MOST_VALUES + 2), Precision.BYTE, "4097 of a kind"),
        (bytes(MOST_VALUES // 2 + 2), Precision.NIBBLE, "4097 of a kind"),
    ],
)
def test_bytes_that_stand_for_nothing_are_refused(data: bytes, precision: Precision, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        unpack(data, precision)


@pytest.mark.parametrize("precision", FEW_BITS)
def test_as_many_as_a_run_may_ask_for_are_taken(precision: Precision) -> None:
    for count in (1, 2, 3, MOST_VALUES - 1, MOST_VALUES):
        data = pack((1.0,) * count, precision)
        assert len(data) == packed_bytes(count, precision)
        assert unpack(data, precision) == (1.0,) * count
