"""Gaussian directions out of signs: how normal they are, and that they are as exact."""

import numpy as np
import pytest

from tests import aggregating
from tests.algorithms import zeroth_order_settings
from tests.unit.common.algorithms.test_zowarmup import (
    GRID,
    HEADLESS,
    LAYOUT,
    TRAINABLE,
    Classifier,
    Quadratic,
    Recorded,
    Wide,
    drawn,
    method,
    signs,
    ticks,
    work,
)
from zowarmup.common.algorithms.gaussian import SIGNS
from zowarmup.common.algorithms.protocol import ClientScalars
from zowarmup.common.exact.layout import Block
from zowarmup.common.exact.steps import apply_steps
from zowarmup.common.messages.values import Scalars


def normal(seed: int, index: int, block: Block) -> Wide:
    """z in full: a quarter of the sum of 16 sign directions."""
    z: Wide = np.sum([signs(seed, SIGNS * index + part, block) for part in range(SIGNS)], axis=0) / 4
    return z


def test_the_entries_have_the_moments_that_are_said() -> None:
    entries = np.concatenate([normal(seed, 0, LAYOUT.block("all"))[:TRAINABLE] for seed in range(2000)])
    moments = [np.mean(entries**power) for power in (1, 2, 3, 4)]
    assert moments == pytest.approx([0, 1, 0, 2.875], abs=0.08)
    within = np.mean(np.abs(entries) <= 1)
    assert within == pytest.approx(0.79, abs=0.01), (
        "binomial: 0.683 of a normal one's are, with half of those at the edge"
    )


@pytest.mark.parametrize("slices", ["own", "whole"])
def test_slopes_of_a_quadratic(slices: str) -> None:
    weights = drawn()
    before = weights.tobytes()
    forward = Quadratic(weights)
    zo = method(HEADLESS, slices=slices, directions="gaussian", eps=4e-3)
    scalars = zo.contribute(weights, GRID, forward, 10, work())
    for index, slope in enumerate(scalars.probes):
        chosen = forward.asked[2 * index][0]
        z = normal(7, index, HEADLESS.block("all"))
        assert slope == pytest.approx(z @ (weights - forward.centres[chosen].mean(axis=0)), rel=1e-6, abs=1e-6)
    assert weights.tobytes() == before


def test_both_sides_of_every_probe_are_exact() -> None:
    weights = drawn()
    before = weights.copy()
    forward = Recorded(weights)
    method(probes=5, directions="gaussian").contribute(weights, GRID, forward, 10, work())
    length = 4 * GRID.whole_ticks(1e-3 / 4) * GRID.tick
    for call, (_, seen) in enumerate(forward.asked):
        move = (1, -1)[call % 2] * length * normal(7, call // 2, LAYOUT.block("trunk"))
        assert np.array_equal(seen.astype(np.float64), before + move)


@pytest.mark.parametrize("call", range(8))
def test_weights_come_back_when_forward_raises(call: int) -> None:
    weights = drawn()
    before = weights.tobytes()
    with pytest.raises(ConnectionError):
        method(directions="gaussian").contribute(weights, GRID, Classifier(weights, fails_at=call), 10, work())
    assert weights.tobytes() == before


def test_a_step_along_a_direction_is_one_along_its_signs() -> None:
    zo = method(step="raw", rate=1.0, slices="whole", probes=2, head_projections=1, directions="gaussian")
    found = ticks(aggregating.steps(zo, GRID, 0, [ClientScalars(5, 6, Scalars(3, (4.0, -8.0), (2.0,)))]))
    assert found == [(5, "trunk", (-(1 << 19),) * 16 + (1 << 20,) * 16), (5, "head", (-(2 << 20),))]


def test_the_mean_over_seeds_is_the_gradient() -> None:
    weights = drawn()
    forward = Classifier(weights)
    zo = method(step="raw", directions="gaussian", probes=8, slices="whole")
    total, rounds = np.zeros(LAYOUT.size), 400
    for seed in range(rounds):
        scalars = zo.contribute(weights, GRID, forward, 10, work(seed))
        forward.asked.clear()
        moved = weights.copy()
        apply_steps(moved, GRID, aggregating.steps(zo, GRID, 0, [ClientScalars(seed, 10, scalars)]))
        total -= moved.astype(np.float64) - weights
    gradient = forward.gradient(weights)
    assert np.linalg.norm(total / rounds - gradient) / np.linalg.norm(gradient) < 0.15


def test_local_steps_and_exact_projections_go_along_them_too() -> None:
    weights = drawn()
    before = weights.tobytes()
    gradient = Classifier(weights).gradient(weights)
    exact = method(directions="gaussian", gradient_projections=3).project(gradient[:TRAINABLE], work())
    for index in range(3):
        assert exact.probes[index] == pytest.approx(normal(7, index, LAYOUT.block("trunk")) @ gradient, rel=1e-6)
    forward = Quadratic(weights)
    zo = method(
        HEADLESS, directions="gaussian", slices="whole", probes=1, local_steps=2, local_rate=0.02, step="raw", eps=4e-3
    )
    scalars = zo.contribute(weights, GRID, forward, 10, work())
    first, second = (normal(7, index, HEADLESS.block("all")) for index in range(2))
    away = weights - forward.centres.mean(axis=0)
    expected = second @ (away - 0.02 * (first @ away) * first)
    assert scalars.probes[0] == pytest.approx(first @ away, rel=1e-5)
    assert list(scalars.probes[1:]) == pytest.approx([expected], rel=1e-3)
    assert weights.tobytes() == before


def test_so_many_that_a_commit_would_be_too_long_are_refused() -> None:
    with pytest.raises(ValueError, match='probes = 600: must be at most 512 in a round with directions = "gaussian"'):
        zeroth_order_settings(rounds=1, probes=600, directions="gaussian")
