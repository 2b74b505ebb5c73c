"""The grid: what lies on it, what is brought onto it, and what does not fit."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zowarmup.common.exact.grid import COARSEST, FINEST, LIMIT, Grid, HeadroomExceeded

EXPONENTS = st.integers(COARSEST, FINEST)
FLOATS = st.floats(-(2.0**80), 2.0**80, width=32)


@given(st.lists(FLOATS, min_size=1), st.sampled_from([1.0, 2.0, 3.7, 8.0]))
def test_choose_leaves_the_headroom_and_no_more_than_it_must(values: list[float], headroom: float) -> None:
    weights = np.array(values, dtype=np.float32)
    largest = float(np.abs(weights).max()) * headroom
    grid = Grid.choose(weights, headroom)
    assert largest < grid.limit
    assert grid.exponent == FINEST or largest >= Grid(grid.exponent + 1).limit


def test_choose_has_a_finest_grid() -> None:
    for weights in (np.zeros(3, np.float32), np.array([1e-30], np.float32), np.zeros(0, np.float32)):
        assert Grid.choose(weights) == Grid(FINEST)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e38])
def test_choose_refuses_what_no_grid_holds(value: float) -> None:
    with pytest.raises(HeadroomExceeded):
        Grid.choose(np.array([0.0, value, 1.0], np.float32))


@given(EXPONENTS, st.lists(st.floats(-0.999, 0.999), min_size=1), st.booleans())
def test_quantise_goes_to_the_nearest_place(exponent: int, shares: list[float], double: bool) -> None:
    grid = Grid(exponent)
    values = (np.array(shares) * grid.limit).astype(np.float64 if double else np.float32)
    found = grid.quantise(values)
    assert found.dtype == np.float32
    ticks = [round(float(value) * 2.0**exponent) for value in values]  # Python rounds ties to even
    assert [float(value) * 2.0**exponent for value in found] == ticks
    assert grid.contains(found)
    assert grid.quantise(found).tobytes() == found.tobytes()


def test_quantise_rounds_ties_to_even_and_keeps_the_shape() -> None:
    grid = Grid(1)
    found = grid.quantise(np.array([[0.25, 0.75], [-0.25, -0.75]]))
    assert found.tolist() == [[0.0, 1.0], [0.0, -1.0]]


def test_zero_has_one_form() -> None:
    grid = Grid(10)
    assert not np.signbit(grid.quantise(np.array([-0.0, -1e-9], np.float32))).any()
    assert not grid.contains(np.array([-0.0], np.float32))


@pytest.mark.parametrize("ticks", [LIMIT, -LIMIT, LIMIT - 0.5, 1e30, math.inf, math.nan])
def test_quantise_refuses_what_is_beyond_the_limit(ticks: float) -> None:
    grid = Grid(4)
    values = np.array([0.0, ticks / 16])
    before = values.copy()
    with pytest.raises(HeadroomExceeded):
        grid.quantise(values)
    assert values.tobytes() == before.tobytes()
    with pytest.raises(HeadroomExceeded):
        grid.quantise(values.astype(np.float32))


def test_contains() -> None:
    grid = Grid(4)
    assert grid.contains(np.array([0.0, 1 / 16, -3.0, (LIMIT - 1) / 16], np.float32))
    assert grid.contains(np.zeros(0, np.float32))
    for value in (1 / 32, LIMIT / 16, math.nan, math.inf):
        assert not grid.contains(np.array([0.0, value], np.float32))


def test_whole_ticks() -> None:
    grid = Grid(10)
    assert grid.whole_ticks(1e-9) == 1
    assert grid.whole_ticks(3 / 1024) == 3
    assert grid.whole_ticks(2.5 / 1024) == 2
    assert grid.whole_ticks(grid.limit) == LIMIT
    with pytest.raises(HeadroomExceeded):
        grid.whole_ticks(grid.limit * 1.01)
    for length in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="positive and finite"):
            grid.whole_ticks(length)


def test_exponents_and_headrooms_outside_the_bounds_are_refused() -> None:
    for exponent in (COARSEST - 1, FINEST + 1):
        with pytest.raises(ValueError, match="exponent"):
            Grid(exponent)
    for headroom in (0.5, math.nan, math.inf):
        with pytest.raises(ValueError, match="headroom"):
            Grid.choose(np.ones(1, np.float32), headroom)
