"""Norms of vectors that come in parts."""

import numpy as np
import pytest

from zowarmup.common.algorithms.robust_aggregation import clip_factors, none_clipped
from zowarmup.common.algorithms.vectors import LARGEST, ROW, TOLERANCE, ApproximateNorm, norm

CLIP = 10.0


def roughly(vector: np.ndarray, chunk: int) -> float:
    found = ApproximateNorm()
    for start in range(0, vector.size, chunk):
        found.add(vector[start : start + chunk])
    return found.value


@pytest.mark.parametrize("chunk", [1, 1000, ROW, 10 * ROW + 1, 1 << 20])
@pytest.mark.parametrize("scale", [1e-12, 1e-4, 1e12])
def test_it_is_near_the_exact_norm_however_the_vector_comes(chunk: int, scale: float) -> None:
    vector = (np.random.default_rng(0).normal(1, 3, 50_000) * scale).astype(np.float32)[: 50 * chunk]
    assert roughly(vector, chunk) == pytest.approx(norm(vector), rel=TOLERANCE / 4)


def test_roundings_that_all_go_one_way_stay_within_the_tolerance() -> None:
    vector = np.full(1 << 20, 1 + 2.0**-11, np.float32)
    assert roughly(vector, 1 << 20) == pytest.approx(norm(vector), rel=TOLERANCE / 4)


def test_bytes_that_lie_anywhere_are_read() -> None:
    vector = np.arange(10_000, dtype="<f4")
    shifted = np.frombuffer(memoryview(b"x" + vector.tobytes())[1:], "<f4")
    assert not shifted.flags.aligned
    assert roughly(shifted, 10_000) == roughly(vector, 10_000)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_what_it_cannot_measure_is_no_small_number(value: float) -> None:
    vector = np.ones(10_000, np.float32)
    vector[5000] = value
    found = roughly(vector, 10_000)
    assert not found < LARGEST
    assert not none_clipped([1.0, 1.0, found], CLIP)


def test_only_what_is_certain_is_said() -> None:
    assert none_clipped([1.0, 1.0, 9.97], CLIP)
    assert not none_clipped([1.0, 1.0, 9.99], CLIP), "with 0.1 % it may be 10.0001 times the median"
    assert not none_clipped([1.0, 1.0, None], CLIP)
    assert not none_clipped([0.0, 0.0, 0.0], CLIP), "squares may have vanished"
    assert none_clipped([1.0, 1e9], CLIP), "the others set no bound for two"
    assert not none_clipped([1.0, None], CLIP, 5.0), "but the model does"
    assert none_clipped([1.0, 4.98], CLIP, 5.0) and not none_clipped([1.0, 4.999], CLIP, 5.0)
    assert none_clipped([1.0, 1.0, 1e9], 0)


def test_it_never_disagrees_with_the_exact_norms() -> None:
    chance = np.random.default_rng(1)
    said = 0
    for _ in range(2000):
        exact = np.exp(chance.normal(0, 1.1, chance.integers(1, 9)))
        near = exact * (1 + TOLERANCE * chance.uniform(-1, 1, exact.size))
        if none_clipped(near.tolist(), CLIP):
            assert set(clip_factors(exact.tolist(), CLIP)) == {1.0}
            said += 1
    assert 500 < said < 2000
