"""Projections of a gradient stand for probes; Gaussian directions are sums of sign directions."""

from dataclasses import replace

import numpy as np
import pytest

from tests import aggregating
from tests.algorithms import zeroth_order_settings
from tests.closed_forms import (
    GRID,
    HEADLESS,
    LAYOUT,
    ONE,
    TRAINABLE,
    Classifier,
    Quadratic,
    Recorded,
    Wide,
    algorithm,
    drawn,
    signs,
    ticks,
    work,
)
from zowarmup.common.algorithms.directional_derivatives import GAUSSIAN_SIGNS, project
from zowarmup.common.algorithms.protocol import ClientScalars
from zowarmup.common.exact.directions import lanes
from zowarmup.common.exact.layout import Block
from zowarmup.common.exact.steps import apply_steps
from zowarmup.common.messages.values import Computation, Scalars, Tier


def test_what_a_client_sends_are_its_gradients_projections() -> None:
    weights = drawn()
    gradient = Classifier(weights).gradient(weights)
    zo = algorithm(gradient_projections=11)
    scalars = zo.project(gradient[:TRAINABLE], work())
    assert (len(scalars.probes), len(scalars.projections)) == (11, 5)
    for found, block in ((scalars.probes, "trunk"), (scalars.projections, "head")):
        for index, value in enumerate(found):
            assert value == pytest.approx(signs(7, index, LAYOUT.block(block)) @ gradient, rel=1e-6, abs=1e-7)
    everything = algorithm(gradient_projections=11, head_projections=0).project(gradient[:TRAINABLE], work())
    assert everything.probes[3] == pytest.approx(signs(7, 3, LAYOUT.block("all")) @ gradient, rel=1e-6)
    assert everything.projections == ()


def test_a_probe_finds_what_a_projection_is() -> None:
    weights = drawn()
    forward = Classifier(weights)
    probed = algorithm(slices="whole", eps=1e-4).contribute(weights, GRID, forward, 10, work())
    zo = algorithm(gradient_projections=4)
    exact = zo.project(forward.gradient(weights)[:TRAINABLE], work())
    assert probed.probes == pytest.approx(exact.probes, abs=1e-4)
    assert probed.projections == pytest.approx(exact.projections, abs=1e-4)


def test_only_the_high_tier_differentiates_and_only_where_the_run_asks_for_it() -> None:
    zo = algorithm(gradient_projections=11)
    assert [zo.spec.computation(tier) for tier in Tier] == [Computation.GRADIENT, Computation.FORWARD]
    assert algorithm().spec.computation(Tier.HIGH) is Computation.FORWARD
    assert (zo.counts(Tier.HIGH, 3), zo.counts(Tier.LOW, 3)) == ((11, 5), (3, 5))
    zo.check(work(), Tier.HIGH, 3, Scalars(3, (0.0,) * 11, (0.0,) * 5))
    zo.check(work(), Tier.LOW, 3, Scalars(3, (0.0,) * 3, (0.0,) * 5))
    with pytest.raises(ValueError, match="11 probes, 3 were asked for with 3 examples in the low tier"):
        zo.check(work(), Tier.LOW, 3, Scalars(3, (0.0,) * 11, (0.0,) * 5))
    with pytest.raises(ValueError, match="3 probes, 11 were asked for with 3 examples in the high tier"):
        zo.check(work(), Tier.HIGH, 3, Scalars(3, (0.0,) * 3, (0.0,) * 5))


def test_combine_gives_every_projection_the_same_part_and_every_slice_its_own() -> None:
    """Clients of 3 examples each: 2 projections weigh 1/2 each, slices of 2 and 1 examples 2/3 and 1/3."""
    zo = algorithm(step="raw", probes=2, gradient_projections=2, head_projections=1)
    parts = [
        ClientScalars(5, 3, Scalars(3, (4.0, -8.0), (2.0,)), Tier.HIGH),
        ClientScalars(9, 3, Scalars(3, (3.0, 6.0), (4.0,)), Tier.LOW),
    ]
    assert ticks(aggregating.steps(zo, GRID, 0, parts)) == [
        (5, "trunk", (-ONE, 2 * ONE)),
        (5, "head", (-ONE,)),
        (9, "trunk", (-ONE, -ONE)),
        (9, "head", (-2 * ONE,)),
    ]


def test_projections_are_part_of_the_normaliser() -> None:
    """(1/2 4^2 + 1/2 8^2) / 2 + (2/3 3^2 + 1/3 6^2) / 2 = 29."""
    zo = algorithm(probes=2, gradient_projections=2, head_projections=0)
    parts = [
        ClientScalars(5, 3, Scalars(3, (4.0, -8.0), ()), Tier.HIGH),
        ClientScalars(9, 3, Scalars(3, (3.0, 6.0), ())),
    ]
    (first, _) = aggregating.steps(zo, GRID, 0, parts)
    assert first.ticks == (round(-ONE / 29**0.5), round(2 * ONE / 29**0.5))


def test_the_mean_over_seeds_is_the_gradient_with_less_noise_than_probes_of_slices() -> None:
    weights = drawn()
    forward = Classifier(weights)
    gradient = forward.gradient(weights)
    errors = {}
    for tier in Tier:
        zo = algorithm(step="raw", gradient_projections=32, probes=4)
        total, rounds = np.zeros(LAYOUT.size), 200
        for seed in range(rounds):
            if zo.spec.computation(tier) is Computation.GRADIENT:
                scalars = zo.project(gradient[:TRAINABLE], work(seed))
            else:
                scalars = zo.contribute(weights, GRID, forward, 10, work(seed))
            moved = weights.copy()
            apply_steps(moved, GRID, aggregating.steps(zo, GRID, 0, [ClientScalars(seed, 10, scalars, tier)]))
            total -= moved.astype(np.float64) - weights
        trunk = LAYOUT.block("trunk")
        errors[tier] = np.linalg.norm((total / rounds - gradient)[: trunk.stop]) / np.linalg.norm(
            gradient[: trunk.stop]
        )
    assert errors[Tier.HIGH] < 0.1
    assert errors[Tier.HIGH] < errors[Tier.LOW] / 2


@pytest.mark.parametrize("count", [-1, 4097])
def test_the_run_file_says_how_many_there_can_be(count: int) -> None:
    with pytest.raises(ValueError, match=r"gradient_projections = -?\d+: must be 0 \(off\) to 4096"):
        replace(zeroth_order_settings(rounds=1), gradient_projections=count)


def normal(seed: int, index: int, block: Block) -> Wide:
    """z in full: a quarter of the sum of 16 sign directions."""
    z: Wide = np.sum([signs(seed, GAUSSIAN_SIGNS * index + part, block) for part in range(GAUSSIAN_SIGNS)], axis=0) / 4
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
def test_derivatives_of_a_quadratic(slices: str) -> None:
    weights = drawn()
    before = weights.tobytes()
    forward = Quadratic(weights)
    zo = algorithm(HEADLESS, slices=slices, directions="gaussian", eps=4e-3)
    scalars = zo.contribute(weights, GRID, forward, 10, work())
    for index, derivative in enumerate(scalars.probes):
        chosen = forward.asked[2 * index][0]
        z = normal(7, index, HEADLESS.block("all"))
        assert derivative == pytest.approx(z @ (weights - forward.centres[chosen].mean(axis=0)), rel=1e-6, abs=1e-6)
    assert weights.tobytes() == before


def test_both_sides_of_every_probe_are_exact() -> None:
    weights = drawn()
    before = weights.copy()
    forward = Recorded(weights)
    algorithm(probes=5, directions="gaussian").contribute(weights, GRID, forward, 10, work())
    length = 4 * GRID.whole_ticks(1e-3 / 4) * GRID.tick
    for call, (_, seen) in enumerate(forward.asked):
        move = (1, -1)[call % 2] * length * normal(7, call // 2, LAYOUT.block("trunk"))
        assert np.array_equal(seen.astype(np.float64), before + move)


@pytest.mark.parametrize("call", range(8))
def test_weights_come_back_when_forward_raises(call: int) -> None:
    weights = drawn()
    before = weights.tobytes()
    with pytest.raises(ConnectionError):
        algorithm(directions="gaussian").contribute(weights, GRID, Classifier(weights, fails_at=call), 10, work())
    assert weights.tobytes() == before


def test_a_step_along_a_direction_is_one_along_its_signs() -> None:
    zo = algorithm(step="raw", rate=1.0, slices="whole", probes=2, head_projections=1, directions="gaussian")
    found = ticks(aggregating.steps(zo, GRID, 0, [ClientScalars(5, 6, Scalars(3, (4.0, -8.0), (2.0,)))]))
    assert found == [(5, "trunk", (-(1 << 19),) * 16 + (1 << 20,) * 16), (5, "head", (-(2 << 20),))]


def test_the_mean_over_seeds_is_the_gradient() -> None:
    weights = drawn()
    forward = Classifier(weights)
    zo = algorithm(step="raw", directions="gaussian", probes=8, slices="whole")
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
    exact = algorithm(directions="gaussian", gradient_projections=3).project(gradient[:TRAINABLE], work())
    for index in range(3):
        assert exact.probes[index] == pytest.approx(normal(7, index, LAYOUT.block("trunk")) @ gradient, rel=1e-6)
    forward = Quadratic(weights)
    zo = algorithm(
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


def test_project_walks_a_block_of_any_place_and_length() -> None:
    block = Block("head", 5, 100_005)
    gradient = np.random.default_rng(0).normal(size=block.size)
    for index, found in enumerate(project(gradient, 11, block, 11)):
        z = 2.0 * (lanes(11, index // 8, block.start, block.size) >> np.uint8(index % 8) & 1) - 1
        assert found == pytest.approx(z @ gradient, rel=1e-9)
