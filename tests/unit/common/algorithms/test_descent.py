"""How a round's scalars move the model, in exact numbers."""

from dataclasses import replace

import numpy as np
import pytest

from tests import aggregating
from tests.algorithms import zeroth_order_settings
from tests.closed_forms import (
    ALONE,
    GRID,
    HIDDEN,
    LAYOUT,
    ONE,
    TRAINABLE,
    algorithm,
    drawn,
    require_nearly,
    ticks,
)
from zowarmup.common.algorithms.descent import FLAT, HEAD_PACE, PROBED_PACE
from zowarmup.common.algorithms.local_scalars import STEEP
from zowarmup.common.algorithms.protocol import ClientScalars, Start
from zowarmup.common.exact.grid import HeadroomExceeded
from zowarmup.common.exact.layout import Tensor
from zowarmup.common.messages.values import Scalars, Tier


def test_a_normalized_step_of_the_head_alone_is_divided_by_its_projections() -> None:
    zo = algorithm(ALONE, train="head", rate=0.5, clip=0.0)
    parts = [ClientScalars(seed, 10, Scalars(3, (), (3.0, -4.0, 0.0, 0.0, 5.0))) for seed in (1, 2)]
    found = zo.aggregate(Start(drawn(), GRID, 0), parts)
    size = np.sqrt((9 + 16 + 25) / 5)
    assert [move.length for move in found.moves[:5]] == pytest.approx(
        [-0.5 * value / 5 / 2 / size for value in (3.0, -4.0, 0.0, 0.0, 5.0)]
    )


def test_combine_raw_exactly() -> None:
    """Clients of 6 and 2 examples weigh 3/4 and 1/4; slices of 2, 2, 1 and 1 examples 1/3, 1/3, 1/6 and 1/6."""
    zo = algorithm(step="raw", rate=0.5, head_projections=2, most_times_median=0)
    contributions = [
        ClientScalars(5, 6, Scalars(3, (3.0, -6.0, 12.0, 0.0), (4.0, -8.0))),
        ClientScalars(9, 2, Scalars(3, (8.0, 16.0), (16.0, 0.0))),
    ]
    assert ticks(aggregating.steps(zo, GRID, 9, contributions)) == [
        (5, "trunk", (round(-ONE * 3 / 8), round(ONE * 6 / 8), round(-ONE * 6 / 8), 0)),
        (5, "head", (round(-ONE * 6 / 8), round(ONE * 12 / 8))),
        (9, "trunk", (round(-ONE * 4 / 8), -ONE)),
        (9, "head", (-ONE, 0)),
    ]


def test_combine_follows_the_order_given() -> None:
    first, second = (
        ClientScalars(5, 10, Scalars(3, (1.0, 2.0, 3.0, 4.0), ())),
        ClientScalars(9, 10, Scalars(3, (5.0, 6.0, 7.0, 8.0), ())),
    )
    zo = algorithm(head_projections=0)
    assert aggregating.steps(zo, GRID, 0, [first, second]) == aggregating.steps(zo, GRID, 0, [second, first])[::-1]
    assert [step.seed for step in aggregating.steps(zo, GRID, 0, [first, second])] == [5, 9]


def test_uniform_weighting_and_whole_slices() -> None:
    zo = algorithm(step="raw", weighting="uniform", slices="whole", probes=2, head_projections=0)
    contributions = [ClientScalars(5, 6, Scalars(3, (1.0, -2.0), ())), ClientScalars(9, 2, Scalars(3, (4.0, 0.0), ()))]
    assert ticks(aggregating.steps(zo, GRID, 0, contributions)) == [
        (5, "all", (-ONE // 4, ONE // 2)),
        (9, "all", (-ONE, 0)),
    ]


def test_the_normaliser_is_the_weighted_root_mean_square_of_the_probes_and_of_longer_projections_theirs() -> None:
    """3/4 (1/2 1^2 + 1/2 7^2) + 1/4 25^2 = 175 for clients of 6 and 2 examples; of the projections, 3/4 100^2."""
    zo = algorithm(probes=2, head_projections=1, rate=2.0, most_times_median=0)
    contributions = [
        ClientScalars(5, 6, Scalars(3, (1.0, 7.0), (100.0,))),
        ClientScalars(9, 2, Scalars(3, (25.0, -25.0), (0.0,))),
    ]
    size = 175.0**0.5
    expected = [
        (5, "trunk", (-2 / size * 0.375 * 1 * ONE, -2 / size * 0.375 * 7 * ONE)),
        (5, "head", (-2 / 7500**0.5 * 0.75 * 100 * ONE,)),
        (9, "trunk", (-2 / size * 0.125 * 25 * ONE, 2 / size * 0.125 * 25 * ONE)),
        (9, "head", (0.0,)),
    ]
    require_nearly(aggregating.steps(zo, GRID, 0, contributions), expected)
    shorter = [ClientScalars(5, 6, Scalars(3, (1.0, 7.0), (10.0,))), contributions[1]]
    require_nearly(aggregating.steps(zo, GRID, 0, shorter)[1:2], [(5, "head", (-2 / size * 0.75 * 10 * ONE,))])


@pytest.mark.parametrize("scale", [2.0**-30, 1.0, 2.0**20])
def test_a_normalised_step_does_not_depend_on_the_losss_scale(scale: float) -> None:
    derivatives, projections = (1.0, 2.0, -3.0, 4.0), (5.0, 6.0, 7.0, 8.0, 9.0)
    scaled = Scalars(3, tuple(scale * s for s in derivatives), tuple(scale * p for p in projections))
    assert aggregating.steps(algorithm(), GRID, 4, [ClientScalars(5, 10, scaled)]) == aggregating.steps(
        algorithm(), GRID, 4, [ClientScalars(5, 10, Scalars(3, derivatives, projections))]
    )


@pytest.mark.parametrize(("done", "share"), [(0, 1.0), (5, 0.5), (9, 0.1)])
def test_normalised_steps_are_annealed(done: int, share: float) -> None:
    zo = algorithm(probes=1, head_projections=0)
    (step,) = aggregating.steps(zo, GRID, done, [ClientScalars(5, 10, Scalars(3, (-3.0,), ()))])
    assert step.ticks == (round(share * ONE),)
    raw = algorithm(probes=1, head_projections=0, step="raw")
    assert aggregating.steps(raw, GRID, done, [ClientScalars(5, 10, Scalars(3, (-3.0,), ()))])[0].ticks == (3 * ONE,)


@pytest.mark.parametrize("size", [0.0, FLAT / 2])
def test_a_flat_loss_moves_nothing(size: float) -> None:
    steps = aggregating.steps(algorithm(), GRID, 0, [ClientScalars(5, 10, Scalars(3, (size,) * 4, (1.0,) * 5))])
    assert ticks(steps) == [(5, "trunk", (0,) * 4), (5, "head", (0,) * 5)]
    raw = aggregating.steps(algorithm(step="raw"), GRID, 0, [ClientScalars(5, 10, Scalars(3, (0.0,) * 4, (0.0,) * 5))])
    assert ticks(raw) == [(5, "trunk", (0,) * 4), (5, "head", (0,) * 5)]


def test_a_step_too_long_for_the_grid_is_refused() -> None:
    with pytest.raises(HeadroomExceeded, match="too long for the grid"):
        aggregating.steps(algorithm(step="raw"), GRID, 0, [ClientScalars(5, 10, Scalars(3, (STEEP,) * 4, (0.0,) * 5))])


WHITENED = replace(
    LAYOUT,
    tensors=(*LAYOUT.tensors[:3], Tensor("out.whitening", (3, HIDDEN), TRAINABLE)),
    size=TRAINABLE + 3 * HIDDEN,
)


@pytest.mark.parametrize("probes", [1, 4, 64])
@pytest.mark.parametrize("clients", [1, 3])
@pytest.mark.parametrize("shared", [False, True])
def test_with_whitened_features_a_round_moves_each_block_as_far_whatever_explores_it(
    probes: int, clients: int, shared: bool
) -> None:
    """Along D directions in d dimensions an estimate of a gradient of length 1 has the length sqrt(1 + d / D)."""
    settings = zeroth_order_settings(
        algorithm="decomfl" if shared else "zowarmup",
        rounds=10,
        train="all",
        rate=0.5,
        clip=0.0,
        probes=probes,
        head_projections=probes,
    )
    zo = settings.build(WHITENED)
    scalars = Scalars(3, (1.0,) * probes, (1.0,) * probes)
    parts = [ClientScalars(7 if shared else seed, 640, scalars, Tier.LOW) for seed in range(clients)]
    found = zo.aggregate(Start(np.zeros(WHITENED.size, np.float32), GRID, 1), parts)
    for block, pace in (("trunk", PROBED_PACE), ("head", HEAD_PACE)):
        size = WHITENED.block(block).size
        along: dict[tuple[int, int], float] = {}
        for move in found.moves:
            if move.block.name == block:
                along[move.seed, move.direction] = along.get((move.seed, move.direction), 0.0) + move.length
        estimate = np.sqrt(size * sum(length**2 for length in along.values()))
        of_noise = np.sqrt(size / len(along))  # the length of such an estimate, if the gradient's is 1
        assert estimate == pytest.approx(0.5 * 0.9 * pace * of_noise / np.sqrt(1 + size / len(along)))


@pytest.mark.parametrize(("probe", "projection"), [(0.0, 1.0), (1.0, 0.0), (FLAT / 2, 1.0), (1.0, FLAT / 2)])
def test_with_whitened_features_a_flat_block_stays_and_the_other_moves(probe: float, projection: float) -> None:
    """A pace below 1 does not make derivatives of it that rounding has left."""
    zo = algorithm(WHITENED, train="all", clip=0.0, probes=4, head_projections=4)
    part = ClientScalars(7, 640, Scalars(3, (probe,) * 4, (projection,) * 4))
    found = zo.aggregate(Start(np.zeros(WHITENED.size, np.float32), GRID, 1), [part])
    moved = {move.block.name for move in found.moves if move.length}
    assert moved == ({"trunk"} if probe == 1 else {"head"})
