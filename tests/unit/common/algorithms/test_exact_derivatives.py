"""Exact projections of a gradient in the place of probes, against closed forms."""

from dataclasses import replace

import numpy as np
import pytest

from tests import aggregating
from tests.algorithms import zeroth_order_settings
from tests.unit.common.algorithms.test_zowarmup import (
    GRID,
    LAYOUT,
    ONE,
    TRAINABLE,
    Classifier,
    drawn,
    method,
    signs,
    ticks,
    work,
)
from zowarmup.common.algorithms.protocol import ClientScalars
from zowarmup.common.exact.steps import apply_steps
from zowarmup.common.messages.values import Computation, Scalars, Tier


def test_what_a_client_sends_are_its_gradients_projections() -> None:
    weights = drawn()
    gradient = Classifier(weights).gradient(weights)
    zo = method(gradient_projections=11)
    scalars = zo.project(gradient[:TRAINABLE], work())
    assert (len(scalars.probes), len(scalars.projections)) == (11, 5)
    for found, block in ((scalars.probes, "trunk"), (scalars.projections, "head")):
        for index, value in enumerate(found):
            assert value == pytest.approx(signs(7, index, LAYOUT.block(block)) @ gradient, rel=1e-6, abs=1e-7)
    everything = method(gradient_projections=11, head_projections=0).project(gradient[:TRAINABLE], work())
    assert everything.probes[3] == pytest.approx(signs(7, 3, LAYOUT.block("all")) @ gradient, rel=1e-6)
    assert everything.projections == ()


def test_a_probe_finds_what_a_projection_is() -> None:
    weights = drawn()
    forward = Classifier(weights)
    probed = method(slices="whole", eps=1e-4).contribute(weights, GRID, forward, 10, work())
    zo = method(gradient_projections=4)
    exact = zo.project(forward.gradient(weights)[:TRAINABLE], work())
    assert probed.probes == pytest.approx(exact.probes, abs=1e-4)
    assert probed.projections == pytest.approx(exact.projections, abs=1e-4)


def test_only_the_high_tier_differentiates_and_only_where_the_run_asks_for_it() -> None:
    zo = method(gradient_projections=11)
    assert [zo.spec.computation(tier) for tier in Tier] == [Computation.GRADIENT, Computation.FORWARD]
    assert method().spec.computation(Tier.HIGH) is Computation.FORWARD
    assert (zo.counts(Tier.HIGH, 3), zo.counts(Tier.LOW, 3)) == ((11, 5), (3, 5))
    zo.check(work(), Tier.HIGH, 3, Scalars(3, (0.0,) * 11, (0.0,) * 5))
    zo.check(work(), Tier.LOW, 3, Scalars(3, (0.0,) * 3, (0.0,) * 5))
    with pytest.raises(ValueError, match="11 probes, 3 were asked for with 3 examples in the low tier"):
        zo.check(work(), Tier.LOW, 3, Scalars(3, (0.0,) * 11, (0.0,) * 5))
    with pytest.raises(ValueError, match="3 probes, 11 were asked for with 3 examples in the high tier"):
        zo.check(work(), Tier.HIGH, 3, Scalars(3, (0.0,) * 3, (0.0,) * 5))


def test_combine_gives_every_projection_the_same_part_and_every_slice_its_own() -> None:
    """Clients of 3 examples each: 2 projections weigh 1/2 each, slices of 2 and 1 examples 2/3 and 1/3."""
    zo = method(step="raw", probes=2, gradient_projections=2, head_projections=1)
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
    zo = method(probes=2, gradient_projections=2, head_projections=0)
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
        zo = method(step="raw", gradient_projections=32, probes=4)
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
