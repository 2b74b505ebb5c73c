"""What one contribution may do to a round, in exact numbers."""

import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import aggregating
from tests.algorithms import warmup_settings, zeroth_order_settings
from zowarmup.common.algorithms.descent import FLAT
from zowarmup.common.algorithms.fedavg import FedAvg
from zowarmup.common.algorithms.protocol import ClientScalars
from zowarmup.common.algorithms.robust_aggregation import clip_factors, clip_scalars, reference_norm
from zowarmup.common.algorithms.vectors import norm
from zowarmup.common.algorithms.zowarmup import ZOWarmUp
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import Block, Head, Layout, Tensor
from zowarmup.common.messages.values import Scalars

LAYOUT = Layout(
    tensors=(Tensor("body", (4, 3), 0), Tensor("head.weight", (2, 3), 12), Tensor("head.bias", (2,), 18)),
    trainable=20,
    size=20,
    blocks=(Block("all", 0, 20), Block("trunk", 0, 12), Block("head", 12, 20)),
    head=Head("head.weight", "head.bias", 3, 2),
)


def algorithm(**options: Any) -> ZOWarmUp:
    return ZOWarmUp(zeroth_order_settings(rounds=10, **{"probes": 2, "head_projections": 1, **options}), LAYOUT)


def test_the_reference_is_the_root_mean_square_of_all_but_the_largest_quarter() -> None:
    assert reference_norm([3.0, 1e9, 4.0]) == pytest.approx(12.5**0.5), "always one"
    assert reference_norm([1.0] * 8 + [1e9] * 2) == 1.0, "two of ten"
    assert reference_norm([1.0] * 7 + [1e9] * 3) > 1e8, "three of ten are beyond it"
    assert reference_norm([1e200, 1e200, 1e300]) == pytest.approx(1e200)
    assert reference_norm([1e-200, 1e-200, 1e-200]) == pytest.approx(1e-200)


@pytest.mark.parametrize("norms", [[], [1.0, 1e9], [0.0, 0.0, 0.0, 2.0, 1e9]])
def test_of_two_nobody_can_say_which_is_the_outlier_nor_does_nothing_set_a_bound(norms: list[float]) -> None:
    assert reference_norm(norms) == math.inf
    assert set(clip_factors(norms, 5.0)) <= {1.0}


@pytest.mark.parametrize("fitting", [0.3, 0.5, 0.6, 0.7])
@given(tiny=st.floats(0, 1e-3), seed=st.integers(0, 2**32))
def test_those_whom_the_model_fits_set_no_bound_for_the_others(fitting: float, tiny: float, seed: int) -> None:
    """What collapsed a good model: most clients' scalars are all but zero, and that says nothing about the rest."""
    chance = random.Random(seed)
    fits = round(40 * fitting)
    norms = [tiny * chance.random() for _ in range(fits)] + [chance.uniform(4, 12) for _ in range(40 - fits)]
    assert reference_norm(norms) > 1.0
    assert min(clip_factors(norms, 5.0)) > 0.4


def test_zero_is_off() -> None:
    assert clip_factors([1.0, 1.0, 1e9], 0.0) == (1.0, 1.0, 1.0)


def test_norms_beyond_the_limit_are_scaled_to_it() -> None:
    assert clip_factors([2.0, 2.0, 40.0], 10.0) == (1.0, 1.0, 0.5)
    assert clip_factors([1.0, 40.0], 10.0) == (1.0, 1.0)


def test_outlying_scalars_are_scaled_down_and_counted_probes_and_projections_apart() -> None:
    contributions = [
        ClientScalars(7, 10, Scalars(1, (3.0, -3.0), (200.0,))),
        ClientScalars(8, 10, Scalars(1, (3.0, 3.0), (200.0,))),
        ClientScalars(9, 10, Scalars(1, (1e6, -1e6), (200.0,))),
        ClientScalars(10, 10, Scalars(1, (0.0, 3.0), (-1e6,))),
    ]
    bounded, clipped = clip_scalars(contributions, 10.0, FLAT)
    # Probes: root mean squares 3, 3, 2.12 without the longest. Projections: 200.
    limit = 10 * (22.5 / 3) ** 0.5
    assert clipped == 3
    assert bounded[0] == contributions[0] and bounded[1] == contributions[1]
    assert bounded[2].scalars.probes == pytest.approx((limit, -limit))
    assert bounded[2].scalars.projections == (200.0,)
    assert bounded[3].scalars == Scalars(1, (0.0, 3.0), (-2000.0,))


def test_clipping_twice_is_clipping_once_and_the_order_plays_no_part() -> None:
    chance = random.Random(3)
    contributions = [
        ClientScalars(seed, 10, Scalars(1, (chance.gauss(0, 1), chance.gauss(0, 1)), (chance.gauss(0, 9),)))
        for seed in range(20)
    ]
    contributions[4] = ClientScalars(4, 10, Scalars(1, (1e6, 1e6), (1e6,)))
    once, clipped = clip_scalars(contributions, 3.0, FLAT)
    again, none = clip_scalars(once, 3.0, FLAT)
    assert again == once and none == 0 and clipped == 3
    shuffled = contributions[:]
    chance.shuffle(shuffled)
    reordered, count = clip_scalars(shuffled, 3.0, FLAT)
    assert count == clipped
    assert {part.seed: part for part in reordered} == {part.seed: part for part in once}


def test_one_hostile_client_leaves_the_steps_of_the_others_almost_as_they_were() -> None:
    """A million in every scalar would shrink the others' part of a normalised step a million times."""
    honest = [ClientScalars(seed, 10, Scalars(1, (1.0, -2.0), (0.5,))) for seed in range(9)]
    for seed in range(0, 9, 2):
        honest[seed] = ClientScalars(seed, 10, Scalars(1, (-1.5, 1.0), (-0.5,)))
    hostile = ClientScalars(99, 10, Scalars(1, (1e6, 1e6), (1e6,)))
    grid = Grid(16)
    alone = aggregating.steps(algorithm(), grid, 0, honest)
    with_it = aggregating.steps(algorithm(), grid, 0, [*honest, hostile])
    unclipped = aggregating.steps(algorithm(clip=0.0), grid, 0, [*honest, hostile])
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


def test_an_outlying_delta_counts_as_ten_times_the_others() -> None:
    fedavg = FedAvg(warmup_settings(rounds=1, clip=10.0), LAYOUT)
    weights = np.full(20, 1e6, np.float32)
    usual = np.zeros(20, np.float32)
    usual[0] = 3.0
    other = np.zeros(20, np.float32)
    other[1] = -3.0
    wild = np.zeros(20, np.float32)
    wild[2] = 3e6
    deltas = [(10, usual), (10, other), (20, wild)]
    norms = [norm(delta) for _, delta in deltas]
    assert norms == [3.0, 3.0, 3e6]
    assert fedavg.scales(norms, [20] * 3, 4e6) == (1.0, 1.0, 1e-5)
    moved = aggregating.moved(fedavg, weights, deltas)
    assert (moved - weights)[:3].tolist() == [0.75, -0.75, 15.0]
    off = FedAvg(warmup_settings(rounds=1, clip=0.0), LAYOUT)
    assert aggregating.moved(off, weights, deltas)[2] == 2.5e6
    assert wild[2] == 3e6, "what was uploaded stays as it was"
