"""Several local steps: what a client finds on its way, and that it leaves no trace of it."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests import aggregating
from tests.algorithms import zeroth_order_settings
from tests.closed_forms import (
    GRID,
    HEADLESS,
    LAYOUT,
    ONE,
    Classifier,
    Quadratic,
    algorithm,
    drawn,
    signs,
    ticks,
)
from zowarmup.common.algorithms.protocol import ClientScalars
from zowarmup.common.exact.grid import HeadroomExceeded
from zowarmup.common.messages.values import Phase, Scalars, Tier, Work


def work(done: int = 0) -> Work:
    return Work(3, Phase.ZEROTH_ORDER, 12, 7, 60.0, done)


def descended(weights: Any, centre: Any, rates: Sequence[float], probes: int) -> list[float]:
    """The derivatives of |w - centre|^2 / 2 that gradient descent along random directions meets, in float64: one step of
    each of the rates, times the mean over `probes` directions."""
    w, found = weights.astype(np.float64), list[float]()
    for number, rate in enumerate((*rates, 0.0)):
        directions = [signs(7, number * probes + index, HEADLESS.block("all")) for index in range(probes)]
        derivatives = [float(z @ (w - centre)) for z in directions]
        found += derivatives
        w = w - rate * sum(derivative * z for derivative, z in zip(derivatives, directions, strict=True)) / probes
    return found


def test_the_derivatives_are_those_that_descent_in_float64_meets() -> None:
    weights = drawn()
    before = weights.tobytes()
    forward = Quadratic(weights)
    zo = algorithm(HEADLESS, slices="whole", probes=2, local_steps=3, local_rate=0.03, step="raw")
    scalars = zo.contribute(weights, GRID, forward, 10, work())
    expected = descended(weights, forward.centres.mean(axis=0), (0.03, 0.03), 2)
    assert scalars.probes == pytest.approx(expected, abs=2e-4)
    assert weights.tobytes() == before
    standing = algorithm(HEADLESS, slices="whole", probes=6, step="raw").contribute(weights, GRID, forward, 10, work())
    assert scalars.probes[:2] == standing.probes[:2]
    assert abs(scalars.probes[4] - standing.probes[4]) > 0.01, "it had moved by then"


def test_a_normalised_local_step_is_divided_by_what_was_found_so_far_and_annealed() -> None:
    weights = drawn()
    forward = Quadratic(weights)
    zo = algorithm(HEADLESS, slices="whole", probes=2, local_steps=2, local_rate=0.03)
    derivatives = descended(weights, forward.centres.mean(axis=0), (), 2)
    size = (sum(derivative * derivative for derivative in derivatives) / 2) ** 0.5
    expected = descended(weights, forward.centres.mean(axis=0), (0.03 * 0.6 / size,), 2)
    assert zo.contribute(weights, GRID, forward, 10, work(done=4)).probes == pytest.approx(expected, abs=2e-4)


def test_each_local_step_has_slices_and_projections_of_its_own() -> None:
    weights = drawn()
    forward = Classifier(weights)
    zo = algorithm(local_steps=3, rate=0.05)
    scalars = zo.contribute(weights, GRID, forward, 10, work())
    slices = [chosen for chosen, _ in forward.asked[::2]]
    steps = [list(itertools.chain(*slices[4 * number : 4 * number + 4])) for number in range(3)]
    assert [sorted(step) for step in steps] == [list(range(10))] * 3
    assert steps[0] != steps[1] != steps[2]
    assert zo.counts(Tier.LOW, 10) == (len(scalars.probes), len(scalars.projections)) == (12, 15)
    zo.check(work(), Tier.LOW, 10, scalars)
    # The last five projections are of the gradient where the third step began: between both sides of its probes.
    third = [forward.differentiated(seen, np.array(chosen))[1] for chosen, seen in forward.asked[16:]]
    mean = np.sum(third, axis=0) / 20
    for index in range(5):
        assert scalars.projections[10 + index] == pytest.approx(
            signs(7, 10 + index, LAYOUT.block("head")) @ mean, rel=1e-5, abs=1e-6
        )


@pytest.mark.parametrize("call", range(0, 24, 3))
def test_no_trace_is_left_when_forward_raises(call: int) -> None:
    weights = drawn()
    before = weights.tobytes()
    with pytest.raises(ConnectionError):
        algorithm(local_steps=3).contribute(weights, GRID, Classifier(weights, fails_at=call), 10, work())
    assert weights.tobytes() == before


def test_no_trace_is_left_of_a_local_step_beyond_the_grid() -> None:
    weights = drawn()
    before = weights.tobytes()
    with pytest.raises(HeadroomExceeded):
        algorithm(local_steps=4, local_rate=60.0).contribute(weights, GRID, Classifier(weights), 10, work())
    assert weights.tobytes() == before


def test_the_round_moves_by_the_sum_of_what_was_found_at_every_step() -> None:
    """Two local steps of two probes: each step's probes weigh 1/2, its projection 1."""
    zo = algorithm(step="raw", rate=0.5, slices="whole", probes=2, head_projections=1, local_steps=2, local_rate=0.1)
    parts = [ClientScalars(5, 6, Scalars(3, (4.0, -8.0, 12.0, 0.0), (2.0, 4.0)))]
    assert ticks(aggregating.steps(zo, GRID, 0, parts)) == [
        (5, "trunk", (-ONE, 2 * ONE, -3 * ONE, 0)),
        (5, "head", (-ONE, -2 * ONE)),
    ]


def test_the_normaliser_is_a_mean_over_local_steps() -> None:
    """1/2 (1/2 1^2 + 1/2 7^2) + 1/2 (1/2 5^2 + 1/2 5^2) = 25."""
    zo = algorithm(rate=1.0, slices="whole", probes=2, head_projections=0, local_steps=2)
    (step,) = aggregating.steps(zo, GRID, 0, [ClientScalars(5, 6, Scalars(3, (1.0, 7.0, 5.0, -5.0), ()))])
    assert step.ticks == tuple(round(-derivative / 2 / 5 * ONE) for derivative in (1.0, 7.0, 5.0, -5.0))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"local_steps": 0}, "local_steps = 0: must be 1 to 1024"),
        ({"local_steps": 129}, "local_steps = 129: must be so few that"),
        ({"local_steps": 2, "gradient_projections": 8}, "gradient_projections = 8: must be 0 with more than one"),
        ({"local_rate": 0.1}, "local_rate = 0.1: must be 0 where a client takes no steps of its own"),
        ({"local_steps": 2, "local_rate": -0.1}, "local_rate = -0.1: must be 0 "),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(zeroth_order_settings(rounds=1), **settings)
