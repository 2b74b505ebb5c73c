"""ZOWarmUp as a whole: its estimate is the gradient, its steps descend, and what is no answer is refused."""

import numpy as np
import pytest

from tests import aggregating
from tests.algorithms import zeroth_order_settings
from tests.closed_forms import GRID, HEADLESS, LAYOUT, TRAINABLE, Classifier, algorithm, drawn, work
from zowarmup.common.algorithms.local_scalars import STEEP
from zowarmup.common.algorithms.protocol import ClientScalars
from zowarmup.common.exact.layout import Layout
from zowarmup.common.exact.steps import apply_steps
from zowarmup.common.messages.values import Scalars, Tier


@pytest.mark.parametrize("train", ["everything", "layers:", "layers:a,,b", "norms", ""])
def test_what_is_trained_is_one_of_four(train: str) -> None:
    with pytest.raises(ValueError, match=r"^train = "):
        zeroth_order_settings(rounds=1, train=train)


@pytest.mark.parametrize("slices", ["own", "whole"])
@pytest.mark.parametrize(("layout", "projections"), [(LAYOUT, 5), (LAYOUT, 0), (HEADLESS, 0)])
def test_the_mean_over_seeds_is_the_gradient(slices: str, layout: Layout, projections: int) -> None:
    weights = drawn()
    forward = Classifier(weights)
    gradient = forward.gradient(weights)
    zo = algorithm(layout, slices=slices, head_projections=projections, step="raw")
    rounds = 1000
    total = np.zeros(layout.size)
    for seed in range(rounds):
        scalars = zo.contribute(weights, GRID, forward, 10, work(seed))
        forward.asked.clear()
        moved = weights.copy()
        apply_steps(moved, GRID, aggregating.steps(zo, GRID, 0, [ClientScalars(seed, 10, scalars)]))
        total -= moved.astype(np.float64) - weights
    error = np.linalg.norm(total / rounds - gradient) / np.linalg.norm(gradient)
    # Each of the 4 probes has an error of about sqrt(dimension) gradients, independent of the others.
    assert error < 0.2
    assert not total[TRAINABLE:].any()


def test_descent_along_the_estimate_lowers_the_loss() -> None:
    weights = drawn()
    forward = Classifier(weights)
    zo = algorithm(rate=0.1, rounds=100)
    losses = []
    for done in range(100):
        losses.append(forward.differentiated(weights, np.arange(10))[0])
        scalars = zo.contribute(weights, GRID, forward, 10, work(done))
        apply_steps(weights, GRID, aggregating.steps(zo, GRID, done, [ClientScalars(done, 10, scalars)]))
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize(
    ("scalars", "sentence"),
    [
        (Scalars(2, (0.0,) * 4, (0.0,) * 5), "for round 2, the work was for round 3"),
        (Scalars(3, (0.0,) * 3, (0.0,) * 5), "3 probes, 4 were asked for with 10 examples"),
        (Scalars(3, (0.0,) * 5, (0.0,) * 5), "5 probes, 4 were"),
        (Scalars(3, (0.0,) * 4, ()), "0 projections, 5 were"),
        (Scalars(3, (0.0, 0.0, 0.0, -2 * STEEP), (0.0,) * 5), "one of the probes is beyond"),
        (Scalars(3, (0.0,) * 4, (0.0, 0.0, 0.0, 0.0, 2 * STEEP)), "one of the projections is beyond"),
    ],
)
def test_check_refuses(scalars: Scalars, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        algorithm().check(work(), Tier.LOW, 10, scalars)


def test_check_counts_the_examples() -> None:
    algorithm().check(work(), Tier.LOW, 2, Scalars(3, (0.0,) * 2, (0.0,) * 5))
    algorithm(slices="whole").check(work(), Tier.LOW, 2, Scalars(3, (0.0,) * 4, (0.0,) * 5))
    with pytest.raises(ValueError, match="4 probes, 2 were asked for with 2 examples"):
        algorithm().check(work(), Tier.LOW, 2, Scalars(3, (0.0,) * 4, (0.0,) * 5))


def test_what_combine_asks_for() -> None:
    with pytest.raises(ValueError, match="without contributions"):
        aggregating.steps(algorithm(), GRID, 0, [])
    for done in (-1, 10):
        with pytest.raises(ValueError, match=f"done = {done}: must be 0 to 9"):
            aggregating.steps(algorithm(), GRID, done, [ClientScalars(5, 10, Scalars(3, (1.0,) * 4, (1.0,) * 5))])


def test_tau_is_folded_in() -> None:
    """(eps, rate, tau) is (eps tau, rate tau^2, 1)."""
    for step in ("raw", "normalized"):
        plain, folded = (
            algorithm(step=step, eps=0.0009765625, rate=0.25),
            algorithm(step=step, eps=0.001953125, rate=1.0, tau=0.5),
        )
        weights = drawn()
        scalars = plain.contribute(weights, GRID, Classifier(weights), 10, work())
        assert folded.contribute(weights, GRID, Classifier(weights), 10, work()) == scalars
        assert aggregating.steps(folded, GRID, 2, [ClientScalars(7, 10, scalars)]) == aggregating.steps(
            plain, GRID, 2, [ClientScalars(7, 10, scalars)]
        )
