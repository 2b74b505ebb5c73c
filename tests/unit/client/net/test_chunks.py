"""The chunks of an upload fit its link: what a reset in the midst of one costs is a fraction of a second."""

import itertools

import pytest

from zowarmup.client.net.connection import LARGEST_CHUNK_BYTES, SMALLEST_CHUNK_BYTES, next_chunk


def sizes(bytes_per_s: float) -> list[int]:
    return list(
        itertools.islice(
            itertools.accumulate(
                itertools.repeat(None),
                lambda size, _: next_chunk(size, size / bytes_per_s),
                initial=SMALLEST_CHUNK_BYTES,
            ),
            50,
        )
    )


@pytest.mark.parametrize("bytes_per_s", [1e4, 1e5, 5e5, 1e6, 1e7, 1e9])
def test_chunks_take_a_fraction_of_a_second_or_are_the_smallest(bytes_per_s: float) -> None:
    last = sizes(bytes_per_s)[-1]
    assert last / bytes_per_s <= 0.5 or last == SMALLEST_CHUNK_BYTES
    assert last / bytes_per_s >= 0.1 or last == LARGEST_CHUNK_BYTES


def test_a_link_that_slows_down_is_followed() -> None:
    size = LARGEST_CHUNK_BYTES
    for _ in range(10):
        size = next_chunk(size, 2.0)
    assert size == SMALLEST_CHUNK_BYTES
