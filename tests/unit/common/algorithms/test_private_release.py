"""The mechanism: clipping and rounding in float64, the bound on what one example does, the noise."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from zowarmup.common.algorithms.private_release import STEPS, Mechanism

ANY = st.floats(width=64, allow_nan=True, allow_infinity=True)
USUAL = st.floats(-10, 10)
SIZES = st.tuples(st.integers(1, 12), st.integers(1, 20))


def nothing(count: int) -> NDArray[np.float64]:
    return np.zeros(count)


def mechanism(clip: float = 1.0, multiplier: float = 2.0) -> Mechanism:
    return Mechanism(clip, multiplier, nothing)


@given(hnp.arrays(np.float64, SIZES, elements=ANY), st.data(), st.floats(0.01, 100), st.floats(0.1, 50))
def test_another_example_in_the_place_of_one_moves_the_sum_by_twice_the_clip_at_most(
    contributions: NDArray[np.float64], data: st.DataObject, clip: float, multiplier: float
) -> None:
    """Whatever the examples are, also where they are not finite, or larger than their squares can be: what is rounded to the grid moves no
    further than the noise is made for."""
    other = contributions.copy()
    place = data.draw(st.integers(0, len(other) - 1))
    other[place] = data.draw(hnp.arrays(np.float64, other.shape[1], elements=ANY))
    made = mechanism(clip, multiplier)
    count = other.shape[1]
    first, second = made.summed(contributions), made.summed(other)
    assert np.isfinite(first).all()
    assert (first == np.rint(first)).all()
    assert np.linalg.norm(first - second) * made.step(count) <= 2 * clip * math.sqrt(count)


def test_the_bound_is_met() -> None:
    """By two examples that are far off in opposite directions: no more noise is added than it takes."""
    made, there = mechanism(), np.full((1, 16), 1e300)
    moved = np.linalg.norm(made.summed(there) - made.summed(-there)) * made.step(16)
    assert 7.99 < moved <= 8


@given(hnp.arrays(np.float64, SIZES, elements=USUAL), st.floats(0.1, 20))
def test_the_mean_is_that_of_clipped_examples(contributions: NDArray[np.float64], clip: float) -> None:
    """Against the definition, in float64, to the grid."""
    made = mechanism(clip, 0.5)
    count = contributions.shape[1]
    step = made.step(count)
    most = clip * math.sqrt(count) - step * math.sqrt(count) / 2
    wanted = np.zeros(count)
    for row in contributions:
        length = math.sqrt(math.fsum(value * value for value in row))
        wanted += row * min(1.0, most / length if length else 1.0)
    found = made.release(contributions)
    slack = (step / 2 + 1e-8 * clip * math.sqrt(count) * len(contributions)) / len(contributions)
    assert np.abs(found - wanted / len(contributions)).max() <= slack * (1 + 1e-9)


def test_what_is_not_finite_counts_as_nothing() -> None:
    some = np.array([[1.0, 2.0], [np.nan, 3.0], [np.inf, 0.0], [0.5, -0.5]])
    kept = some.copy()
    kept[1:3] = 0.0
    assert (mechanism(9.0).summed(some) == mechanism(9.0).summed(kept)).all()


def test_the_noise_is_as_long_as_it_is_said_to_be() -> None:
    """The standard deviation of the noise on the sum is `multiplier` times 2 C, C the norm that an example is clipped to."""
    generator = np.random.default_rng(5)
    noisy = Mechanism(0.5, 3.0, generator.standard_normal)
    found = np.array([noisy.release(np.zeros((10, 4))) for _ in range(20_000)]) * 10
    assert found.std() == pytest.approx(3.0 * 2 * 0.5 * 2, rel=0.01)
    assert abs(found.mean()) < 0.05
    assert np.abs(np.corrcoef(found.T) - np.eye(4)).max() < 0.04


def test_what_leaves_is_on_the_grid() -> None:
    noisy = Mechanism(1.0, 2.0, np.random.default_rng(1).standard_normal)
    found = noisy.release(np.random.default_rng(2).normal(size=(7, 9))) * 7 / noisy.step(9)
    assert np.abs(found - np.rint(found)).max() < 1e-6
    assert np.abs(found).max() > STEPS / 100
