"""Directions: pinned bytes, seeks, and independence of streams."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zowarmup.common.exact.directions import KEY_LIMIT, REMEMBERED, lanes, walk

GOLDEN = Path(__file__).parents[3] / "golden"
REFERENCE = runpy.run_path(str(GOLDEN / "reference.py"))
KEYS = st.integers(0, KEY_LIMIT - 1)


def test_first_bytes_of_seed_7() -> None:
    assert lanes(7, 0, 0, 8).tolist() == [164, 251, 233, 41, 184, 52, 64, 223]


def test_golden_vectors() -> None:
    for case in json.loads((GOLDEN / "vectors.json").read_text())["lanes"]:
        expected = bytes.fromhex(case["bytes"])
        found = lanes(int(case["seed"]), int(case["group"]), case["start"], len(expected))
        assert found.tobytes() == expected, case


def test_golden_vectors_are_what_the_reference_makes() -> None:
    assert json.loads((GOLDEN / "vectors.json").read_text()) == REFERENCE["vectors"]()


@given(KEYS, KEYS, st.integers(0, 2**50), st.integers(0, 100))
def test_lanes_follow_the_definition(seed: int, group: int, start: int, count: int) -> None:
    found = lanes(seed, group, start, count)
    assert found.dtype == np.uint8
    assert found.tobytes() == REFERENCE["lanes"](seed, group, start, count)


@given(KEYS, KEYS, st.integers(0, 500), st.integers(0, 500))
def test_a_seek_equals_the_slice_of_the_prefix(seed: int, group: int, start: int, count: int) -> None:
    prefix = lanes(seed, group, 0, start + count)
    assert np.array_equal(lanes(seed, group, start, count), prefix[start:])


@given(st.integers(0, 300), st.integers(0, 300), st.integers(1, 20))
def test_a_walk_is_its_range_in_pieces(start: int, count: int, words: int) -> None:
    place = start
    for at, piece in walk(5, 3, start, start + count, 8 * words):
        assert at == place
        assert 0 < piece.size <= 8 * words
        assert np.array_equal(piece, lanes(5, 3, at, piece.size))
        place += piece.size
    assert place == start + count


def test_streams_are_pairs_not_sums() -> None:
    streams = {lanes(seed, group, 0, 32).tobytes() for seed in range(20) for group in range(20)}
    assert len(streams) == 400


def test_signs_are_balanced_and_directions_uncorrelated() -> None:
    size = 1 << 16
    bits = np.unpackbits(lanes(1, 0, 0, size)[:, None], axis=1, bitorder="little")
    products = (2.0 * bits - 1).T @ (2.0 * bits - 1) / size
    # Entries off the diagonal are means of independent signs: standard deviation 1/256.
    assert np.abs(products - np.eye(8)).max() < 6 / 256
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 3 / 256


@pytest.mark.parametrize("arguments", [(-1, 0, 0, 1), (KEY_LIMIT, 0, 0, 1), (0, -1, 0, 1), (0, KEY_LIMIT, 0, 1)])
def test_keys_outside_64_bits_are_refused(arguments: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="2\\^64"):
        lanes(*arguments)


def test_places_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="start"):
        lanes(0, 0, -1, 1)
    with pytest.raises(ValueError, match="count"):
        lanes(0, 0, 0, -1)
    with pytest.raises(ValueError, match="length"):
        next(walk(0, 0, 0, 10, 12))


@pytest.mark.parametrize("stop", [1, REMEMBERED, REMEMBERED + 1])
def test_a_short_stream_that_is_remembered_is_the_same_bytes(stop: int) -> None:
    for group in (*range(10), 0):
        pieces = [piece for _, piece in walk(3, group, 0, stop, REMEMBERED)]
        assert np.concatenate(pieces).tobytes() == lanes(3, group, 0, stop).tobytes()
        if stop <= REMEMBERED:
            with pytest.raises(ValueError, match="read-only"):
                pieces[0][0] = 1
