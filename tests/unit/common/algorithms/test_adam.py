"""Adam's step on a zeroth-order estimate: one second moment a block, exact, and remembered."""

import itertools
import math
from typing import Any

import numpy as np
import pytest

from tests import aggregating
from tests.algorithms import zeroth_order_settings
from tests.closed_forms import GRID, LAYOUT, ONE, algorithm, require_nearly, ticks
from zowarmup.common.algorithms.protocol import ClientScalars
from zowarmup.common.algorithms.step_builder import Moments, Move, adam_sizes, advanced_moments, mean_squares
from zowarmup.common.exact.directions import lanes
from zowarmup.common.exact.layout import Block, Layout, Tensor
from zowarmup.common.messages.values import Scalars

TRUNK, HEAD = LAYOUT.block("trunk"), LAYOUT.block("head")


def test_the_mean_square_is_that_over_all_signs() -> None:
    moves = [Move(1, TRUNK, 0, 3.0), Move(1, TRUNK, 1, -1.0), Move(2, TRUNK, 0, 0.5), Move(1, HEAD, 0, 7.0)]
    every = [sum(s * m for s, m in zip(z, (3.0, -1.0, 0.5), strict=True)) for z in itertools.product((1, -1), repeat=3)]
    assert mean_squares(moves, [TRUNK, HEAD]) == [pytest.approx(np.mean(np.square(every))), 49.0]
    again = [*moves, Move(1, TRUNK, 0, -2.0)]
    assert mean_squares(again, [TRUNK]) == [1 + 1 + 0.25], "moves along one direction are one"


def test_moments_are_adams_with_its_correction() -> None:
    moments: Moments = ()
    reference = 0.0
    for number, square in enumerate((4.0, 9.0, 1.0), 1):
        moments = advanced_moments(moments, [square, 2 * square], 0.9)
        reference = 0.9 * reference + 0.1 * square
        corrected = math.sqrt(reference / (1 - 0.9**number))
        assert adam_sizes(moments) == [pytest.approx(corrected), pytest.approx(corrected * math.sqrt(2))]
    assert adam_sizes(advanced_moments((), [4.0], 0.99)) == [pytest.approx(2.0)]


def test_a_number_for_each_block_is_what_the_diagonal_would_learn() -> None:
    """Adam with a second moment for each of 3000 parameters, in float64, on estimates of one gradient whose entries
    differ tenfold: what it learns differs among them by noise alone, and in the mean it is ours."""
    wide = Block("all", 0, 3000)
    layout = Layout((Tensor("w", (3000,), 0),), 3000, 3000, (wide,))
    gradient = np.linspace(0.1, 1, 3000)
    zo = algorithm(layout, step="adam", probes=4, slices="whole", beta2=0.98)
    moments: Moments = ()
    diagonal, rounds = np.zeros(3000), 200
    for number in range(rounds):
        z = 2.0 * (lanes(number, 0, 0, 3000)[None, :] >> np.arange(4, dtype=np.uint8)[:, None] & 1) - 1
        derivatives = z @ gradient
        diagonal = 0.98 * diagonal + 0.02 * (derivatives @ z / 4) ** 2
        parts = [ClientScalars(number, 10, Scalars(3, tuple(derivatives.tolist()), ()))]
        moments = aggregating.aggregated(zo, parts, moments=moments).optimizer_state
    (found,) = adam_sizes(moments)
    corrected = diagonal / (1 - 0.98**rounds)
    assert found**2 == pytest.approx(corrected.mean(), rel=0.02)
    large, small = corrected[2000:].mean(), corrected[:1000].mean()
    assert large == pytest.approx(small, rel=0.05), "though those gradients' squares differ 5-fold"


def test_two_rounds_in_exact_numbers() -> None:
    """Probes of 3 and 4 weigh 1/2 each: a parameter's mean square is 1.5^2 + 2^2 = 6.25; of the projection 8 it is 64."""
    zo = algorithm(step="adam", rate=2.0, rounds=10, slices="whole", probes=2, head_projections=1, beta2=0.75)
    parts = [ClientScalars(5, 6, Scalars(3, (3.0, 4.0), (8.0,)))]
    expected = [(5, "trunk", (-2 * 1.5 / 2.5 * ONE, -2 * 2 / 2.5 * ONE)), (5, "head", (-2.0 * ONE,))]
    require_nearly(aggregating.steps(zo, GRID, 0, parts), expected)
    remembered = aggregating.aggregated(zo, parts).optimizer_state
    assert remembered == (0.75, 6.25 / 4, 16.0)
    still = [ClientScalars(5, 6, Scalars(3, (0.0, 0.0), (4.0,)))]
    second = (0.75 * 16 + 0.25 * 16) / (1 - 0.75**2)
    expected = [(5, "trunk", (0.0, 0.0)), (5, "head", (-2 * 0.5 * 4 / math.sqrt(second) * ONE,))]
    require_nearly(aggregating.steps(zo, GRID, 5, still, remembered), expected)


def test_nothing_is_remembered_for_other_steps() -> None:
    assert (
        aggregating.aggregated(algorithm(), [ClientScalars(5, 6, Scalars(3, (3.0,) * 4, (8.0,) * 5))]).optimizer_state
        == ()
    )


def test_a_flat_loss_moves_nothing() -> None:
    zo = algorithm(step="adam")
    assert ticks(aggregating.steps(zo, GRID, 0, [ClientScalars(5, 10, Scalars(3, (0.0,) * 4, (0.0,) * 5))])) == [
        (5, "trunk", (0,) * 4),
        (5, "head", (0,) * 5),
    ]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"beta2": 0.9}, 'beta2 = 0.9: must be 0.99, the default, with step "normalized"'),
        ({"step": "adam", "beta2": 1.0}, "beta2 = 1.0: must be 0 to below 1"),
        ({"step": "adam", "local_steps": 2}, "step = 'adam': must be another one where clients take steps"),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        zeroth_order_settings(rounds=1, **settings)
