"""DeComFL: all of a round's clients along the same directions, and one step for all of them."""

import numpy as np
import pytest

from tests import aggregating
from tests.algorithms import zeroth_order_algorithm, zeroth_order_settings
from tests.closed_forms import GRID, LAYOUT, ONE, Classifier, drawn, signs, ticks, work
from zowarmup.common.algorithms.decomfl import DeComFL
from zowarmup.common.algorithms.protocol import ClientScalars
from zowarmup.common.exact.steps import apply_steps
from zowarmup.common.messages.values import Scalars


def algorithm(**settings: object) -> DeComFL:
    plain = {"algorithm": "decomfl", "rounds": 10, "probes": 4, "head_projections": 2, "step": "raw", "rate": 1.0}
    made = zeroth_order_algorithm(zeroth_order_settings(**{**plain, **settings}), LAYOUT)  # type: ignore[arg-type]
    assert isinstance(made, DeComFL) and made.spec.shared_directions
    return made


def test_scalars_along_one_direction_are_averaged_and_the_commit_does_not_grow() -> None:
    """Clients of 6 and 2 examples weigh 3/4 and 1/4; slices of 2, 2, 1 and 1 examples 1/3, 1/3, 1/6 and 1/6."""
    parts = [
        ClientScalars(5, 6, Scalars(3, (3.0, -6.0, 12.0, 0.0), (4.0, -8.0))),
        ClientScalars(5, 2, Scalars(3, (8.0, 16.0), (16.0, 0.0))),
    ]
    expected = [
        (5, "trunk", (round(-ONE * (3 / 4 + 1)), round(ONE * (6 / 4 - 2)), round(-ONE * 6 / 4), 0)),
        (5, "head", (round(-ONE * (6 / 4 + 2)), round(ONE * 12 / 4))),
    ]
    assert ticks(aggregating.steps(algorithm(most_times_median=0), GRID, 9, parts)) == expected
    assert ticks(aggregating.steps(algorithm(most_times_median=0), GRID, 9, parts[::-1])) == expected, (
        "the order plays no part"
    )
    many = aggregating.steps(algorithm(most_times_median=0), GRID, 0, parts * 50)
    assert [len(step.ticks) for step in many] == [4, 2]


def test_moves_are_summed_before_they_are_rounded() -> None:
    """Three moves of 0.4 ticks are one tick and not none."""
    zo = algorithm(head_projections=0, slices="whole", probes=1, weighting="uniform")
    derivative = -0.4 * 3 * GRID.tick
    (step,) = aggregating.steps(zo, GRID, 0, [ClientScalars(5, 1, Scalars(3, (derivative,), ()))] * 3)
    assert step.ticks == (1,)


def test_it_descends_the_mean_of_the_clients_losses_along_the_shared_directions() -> None:
    weights = drawn()
    clients = [Classifier(weights, inputs=np.random.default_rng(seed).normal(size=(10, 3))) for seed in range(3)]
    zo = algorithm(slices="whole", head_projections=0, eps=1e-4)
    parts = [ClientScalars(7, 10, zo.contribute(weights, GRID, client, 10, work())) for client in clients]
    gradient = sum(client.gradient(weights) for client in clients) / 3
    directions = [signs(7, index, LAYOUT.block("all")) for index in range(4)]
    expected = -sum((z @ gradient) * z for z in directions) / 4
    moved = weights.copy()
    apply_steps(moved, GRID, aggregating.steps(zo, GRID, 0, parts))
    assert moved.astype(np.float64) - weights == pytest.approx(expected, abs=1e-3)
