"""What one contribution may do to a round, in exact numbers."""

import math
import random
from typing import Any

import numpy as np
import pytest

from zowarmup.common.grid import Grid
from zowarmup.common.layout import Block, Head, Layout, Tensor
from zowarmup.common.methods.fedavg import FedAvg, length
from zowarmup.common.methods.protocol import Part
from zowarmup.common.methods.robust import bounds, median, scales
from zowarmup.common.methods.zeroth_order import ZOWarmUp
from zowarmup.common.run import WarmUp, ZerothOrder
from zowarmup.common.work import Scalars

LAYOUT = Layout(
    tensors=(Tensor("body", (4, 3), 0), Tensor("head.weight", (2, 3), 12), Tensor("head.bias", (2,), 18)),
    trainable=20,
    size=20,
    blocks=(Block("all", 0, 20), Block("trunk", 0, 12), Block("head", 12, 20)),
    head=Head("head.weight", "head.bias", 3, 2),
)
UNBOUNDED = (-math.inf, math.inf)


def method(**options: Any) -> ZOWarmUp:
    return ZOWarmUp(ZerothOrder(rounds=10, **{"probes": 2, "head_projections": 1, **options}), LAYOUT)


def test_bounds_lie_at_so_many_robust_deviations_from_the_median() -> None:
    low, high = bounds([1.0, 2.0, 3.0, 4.0, 100.0], 10.0)
    assert (low, high) == (3 - 10 * 1.4826, 3 + 10 * 1.4826), "median 3, median absolute deviation 1"
    assert median([4.0, 1.0, 3.0, 2.0]) == 2.5


@pytest.mark.parametrize("values", [[], [1.0, 2.0, 1e9], [5.0, 5.0, 5.0, 1e9], [0.0] * 7])
def test_too_few_or_equal_values_bound_nothing(values: list[float]) -> None:
    assert bounds(values, 10.0) == UNBOUNDED


def test_zero_is_off() -> None:
    assert bounds([1.0, 2.0, 3.0, 4.0, 100.0], 0.0) == UNBOUNDED
    assert scales([1.0, 1.0, 1e9], 0.0) == (1.0, 1.0, 1.0)


def test_lengths_beyond_the_median_are_scaled_to_the_limit() -> None:
    assert scales([1.0, 2.0, 40.0], 10.0) == (1.0, 1.0, 0.5)
    assert scales([1.0, 40.0], 10.0) == (1.0, 1.0), "of two nobody can say which is the outlier"
    assert scales([0.0, 0.0, 40.0], 10.0) == (1.0, 1.0, 1.0)


def test_outlying_scalars_are_clipped_and_counted_probes_and_projections_apart() -> None:
    contributions = [
        Part(7, 10, Scalars(1, (1.0, 2.0), (100.0,))),
        Part(8, 10, Scalars(1, (3.0, 4.0), (200.0,))),
        Part(9, 10, Scalars(1, (1e6, -1e6), (300.0,))),
        Part(10, 10, Scalars(1, (2.5, 2.5), (-1e6,))),
    ]
    bounded, clipped = method().clip(contributions)
    # Probes: median 2.5; deviations 1.5 .5 .5 1.5 - - 0 0, so their median is the mean of .5 and 1.5.
    # Projections: median 150; deviations 50 50 150 1000150, so 100.
    assert clipped == 3
    assert bounded[0] == contributions[0] and bounded[1] == contributions[1]
    assert bounded[2][2].probes == (2.5 + 10 * 1.4826, 2.5 - 10 * 1.4826)
    assert bounded[3][2] == Scalars(1, (2.5, 2.5), (150 - 10 * 1.4826 * 100,))


def test_clipping_twice_is_clipping_once_and_the_order_plays_no_part() -> None:
    chance = random.Random(3)
    contributions = [
        Part(seed, 10, Scalars(1, (chance.gauss(0, 1), chance.gauss(0, 1)), (chance.gauss(0, 9),)))
        for seed in range(20)
    ]
    contributions[4] = Part(4, 10, Scalars(1, (1e6, 1e6), (1e6,)))
    once, clipped = method(clip=2.0).clip(contributions)
    again, none = method(clip=2.0).clip(once)
    assert again == once and none == 0 and clipped >= 3
    shuffled = contributions[:]
    chance.shuffle(shuffled)
    reordered, count = method(clip=2.0).clip(shuffled)
    assert count == clipped
    assert {part.seed: part for part in reordered} == {part.seed: part for part in once}


def test_one_hostile_client_leaves_the_steps_of_the_others_almost_as_they_were() -> None:
    """A million in every scalar would shrink the others' part of a normalised step a million times."""
    honest = [Part(seed, 10, Scalars(1, (1.0, -2.0), (0.5,))) for seed in range(9)]
    for seed in range(0, 9, 2):
        honest[seed] = Part(seed, 10, Scalars(1, (-1.5, 1.0), (-0.5,)))
    hostile = Part(99, 10, Scalars(1, (1e6, 1e6), (1e6,)))
    grid = Grid(16)
    alone = method().combine(grid, 0, honest)
    with_it = method().combine(grid, 0, [*honest, hostile])
    unclipped = method(clip=0.0).combine(grid, 0, [*honest, hostile])
    assert all(ratio > 0.1 for ratio in _ratios(with_it, alone))
    assert all(ratio < 1e-4 for ratio in _ratios(unclipped, alone))
    most = sum(sum(map(abs, step.ticks)) for step in with_it[:-2])
    assert sum(sum(map(abs, step.ticks)) for step in with_it[-2:]) < 3 * most


def _ratios(steps: Any, reference: Any) -> list[float]:
    return [
        abs(tick) / abs(expected)
        for step, honest in zip(steps, reference, strict=False)
        for tick, expected in zip(step.ticks, honest.ticks, strict=True)
    ]


def test_an_outlying_delta_counts_as_ten_times_the_median() -> None:
    fedavg = FedAvg(WarmUp(rounds=1), LAYOUT)
    weights = np.zeros(20, np.float32)
    usual = np.zeros(20, np.float32)
    usual[0] = 3.0
    other = np.zeros(20, np.float32)
    other[1] = -3.0
    wild = np.zeros(20, np.float32)
    wild[2] = 3e6
    deltas = [(10, usual), (10, other), (20, wild)]
    lengths = [length(delta) for _, delta in deltas]
    assert lengths == [3.0, 3.0, 3e6]
    assert fedavg.scales(lengths, [20] * 3) == (1.0, 1.0, 1e-5)
    moved = fedavg.combine(weights, deltas)
    assert moved[:3].tolist() == [0.75, -0.75, 15.0]
    assert np.array_equal(fedavg.combine(weights, deltas, fedavg.scales(lengths, [20] * 3)), moved)
    off = FedAvg(WarmUp(rounds=1, clip=0.0), LAYOUT)
    assert off.combine(weights, deltas)[2] == 1.5e6
    assert wild[2] == 3e6, "what was uploaded stays as it was"
