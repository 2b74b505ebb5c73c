"""Ticks rounded stochastically: small steps are kept in the mean, and everyone who rounds finds the same."""

import math
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import aggregating
from tests.algorithms import zeroth_order_algorithm, zeroth_order_settings
from zowarmup.common.algorithms.protocol import ClientScalars
from zowarmup.common.algorithms.step_builder import Move, steps_of
from zowarmup.common.exact.directions import lanes
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import Block, Layout, Tensor
from zowarmup.common.exact.steps import apply_steps
from zowarmup.common.messages.values import Scalars

SIZE, ROUNDS, PROBES, CLIENTS = 512, 1000, 32, 3
BLOCK = Block("all", 0, SIZE)
LAYOUT = Layout((Tensor("w", (SIZE,), 0),), SIZE, SIZE, (BLOCK,))
GRID = Grid(16)


def signs(seed: int, count: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """The first `count` directions of a stream, (count, SIZE)."""
    groups = [lanes(seed, group, 0, SIZE) for group in range(-(-count // 8))]
    return np.array([2.0 * (groups[k // 8] >> np.uint8(k % 8) & 1) - 1 for k in range(count)])


@pytest.mark.parametrize("length", [0.1, 0.2, 0.4, 0.7])
def test_a_thousand_rounds_of_small_steps_follow_float64(length: float) -> None:
    """Directions are new in each round, so what rounding adds is a random walk along them, which the path outgrows."""
    settings = {"rounds": ROUNDS, "probes": PROBES, "head_projections": 0, "slices": "whole", "step": "raw"}
    rate = length * GRID.tick * PROBES * CLIENTS
    zo = zeroth_order_algorithm(zeroth_order_settings(**settings, rate=rate), LAYOUT, 0)  # type: ignore[arg-type]
    weights, reference, travelled = np.zeros(SIZE, np.float32), np.zeros(SIZE), 0.0
    chance = np.random.default_rng(3)
    uphill = chance.normal(size=SIZE)
    for number in range(ROUNDS):
        parts = []
        for _ in range(CLIENTS):
            seed = int(chance.integers(1 << 62))
            derivatives = np.sign(signs(seed, PROBES) @ uphill)
            parts.append(ClientScalars(seed, 10, Scalars(1, tuple(derivatives.tolist()), ())))
            reference -= length * GRID.tick * derivatives @ signs(seed, PROBES)
            travelled += length * GRID.tick * PROBES
        steps = aggregating.steps(zo, GRID, number, parts)
        if length == 0.1:
            assert {abs(tick) for step in steps for tick in step.ticks} <= {0, 1}
        apply_steps(weights, GRID, steps)
    missed = math.sqrt(np.mean((weights - reference) ** 2))
    assert missed < 0.02 * travelled
    assert float(weights @ uphill) == pytest.approx(float(reference @ uphill), rel=0.05), "as far down as in float64"


@pytest.mark.parametrize("length", [0.1, -0.4, 0.033])
def test_a_pool_that_comes_again_and_again_is_followed_all_the_way(length: float) -> None:
    """One direction in every round: 1,000 steps end within 2 % of their length, and not only in the mean."""
    done = sum(ticks(length, turn) for turn in range(ROUNDS))
    assert done == pytest.approx(length * ROUNDS, abs=max(1.5, 0.02 * abs(length) * ROUNDS))


def ticks(length: float, turn: int, seed: int = 7) -> int:
    (step,) = steps_of([Move(seed, BLOCK, 0, length * GRID.tick)], GRID, turn)
    return step.ticks[0]


def test_the_mean_over_streams_is_the_length() -> None:
    for length in (0.1, 0.5, -0.25, 3.9):
        found = [ticks(length, 0, seed) for seed in range(2000)]
        assert set(found) == {math.floor(length), math.floor(length) + 1}
        assert np.mean(found) == pytest.approx(length, abs=4 * 0.5 / math.sqrt(2000))


@given(st.integers(-(2**20), 2**20), st.integers(0, 2**40))
def test_whole_ticks_stay(length: int, turn: int) -> None:
    assert ticks(length, turn) == length


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_what_a_direction_becomes_follows_from_itself_alone(lengths: list[float], order: "Iterable[int]") -> None:
    """Neither from the order of the moves nor from what else is in the round: the coordinator, a restart and a check agree."""
    moves = [Move(seed, BLOCK, k, length * GRID.tick) for seed in (1, 2**64 - 1) for k, length in enumerate(lengths)]
    whole = {(step.seed, k): tick for step in steps_of(moves, GRID, 5) for k, tick in enumerate(step.ticks)}
    shuffled = moves[:]
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    assert {(s.seed, k): t for s in steps_of(shuffled, GRID, 5) for k, t in enumerate(s.ticks)} == whole
    (alone,) = steps_of(moves[: len(lengths)], GRID, 5)
    assert alone.ticks == tuple(whole[1, k] for k in range(len(lengths)))


def test_thresholds_in_exact_numbers() -> None:
    """Half a tick along 24 directions: these became one tick. On every machine, or replicas computed anew differ."""
    moves = [Move(7, BLOCK, k, 0.5 * GRID.tick) for k in range(24)]
    rounded = ["".join(map(str, steps_of(moves, GRID, turn)[0].ticks)) for turn in (0, 1)]
    assert rounded == ["011101011111010000010000", "100110000100110011100111"]
    head = Block("head", 100, SIZE)
    (other,) = steps_of([move._replace(block=head) for move in moves], GRID, 0)
    assert "".join(map(str, other.ticks)) not in rounded
