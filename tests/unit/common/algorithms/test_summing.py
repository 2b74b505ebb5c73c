"""A round from the sum of its clients' summands, against the same round from the scalars of each."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.algorithms import changed, zeroth_order_algorithm, zeroth_order_settings
from tests.faults.small import LAYOUT
from zowarmup.common.algorithms.descent import STEEPEST
from zowarmup.common.algorithms.protocol import ClientScalars, Start
from zowarmup.common.algorithms.robust_aggregation import counted, root_mean_square
from zowarmup.common.algorithms.summing import Bounds
from zowarmup.common.exact.grid import Grid
from zowarmup.common.messages.values import Scalars, Tier
from zowarmup.common.secure_aggregation.fixed_point import decoded, encoded, whole_weights

GRID = Grid(18)
WEIGHTS = GRID.quantise(np.random.default_rng(0).normal(size=LAYOUT.size).astype(np.float32))
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "shared": ("decomfl", {}),
    "shared, a head alone": ("decomfl", {"train": "head"}),
    "shared, the head alone, and nothing below it": ("decomfl", {"train": "head", "rate": 0.1}),
    "shared, no head": ("decomfl", {"head_projections": 0, "slices": "whole"}),
    "shared, local steps": ("decomfl", {"local_steps": 2}),
    "shared, raw": ("decomfl", {"step": "raw", "rate": 0.01}),
    "shared, Adam": ("decomfl", {"step": "adam", "rate": 0.01}),
    "shared, Gaussian": ("decomfl", {"directions": "gaussian"}),
    "shared, gradients": ("decomfl", {"gradient_projections": 4}),
    "shared, alike": ("decomfl", {"weighting": "uniform"}),
    "pool": ("fedkseed", {"pool": 6}),
    "pool, normalized": ("fedkseed", {"pool": 3, "step": "normalized", "train": "norm"}),
}


def built(algorithm: str, **settings: Any) -> Any:
    spec = zeroth_order_settings(algorithm, **{"rounds": 10, "probes": 4, "clip": 0.0, **settings})
    spec.check_sums()
    return zeroth_order_algorithm(spec, LAYOUT, pool_seed=5)


def given(algorithm: Any, scale: float = 1.0) -> list[ClientScalars]:
    draws, parts = np.random.default_rng(7), []
    for client, (tier, examples) in enumerate([(Tier.LOW, 12), (Tier.HIGH, 3), (Tier.LOW, 30), (Tier.LOW, 100)]):
        counts = algorithm.counts(tier, examples)
        probes, projections = (tuple((scale * draws.normal(size=n)).tolist()) for n in counts)
        seed = 9 if algorithm.spec.shared_directions else 9 + client
        parts.append(ClientScalars(seed, examples, Scalars(3, probes, projections), tier))
    return parts


def mean(algorithm: Any, parts: list[ClientScalars], bounds: Bounds = ()) -> NDArray[np.float64]:
    """As secure aggregation finds it: in fixed point."""
    limits = algorithm.sum_limits(bounds, 1)
    weights = whole_weights(counted([part.examples for part in parts], algorithm.spec))
    total, sums = sum(weights), np.zeros(limits.size, np.uint64)
    for part, weight in zip(parts, weights, strict=True):
        sums += encoded(algorithm.summand(part, bounds, 1), limits, weight, total)
    return decoded(sums, limits, total, total)


def blank(algorithm: Any, parts: list[ClientScalars]) -> list[ClientScalars]:
    return [
        part._replace(scalars=Scalars(3, *((0.0,) * count for count in algorithm.counts(part.tier, part.examples))))
        for part in parts
    ]


@pytest.mark.parametrize("name", CASES)
def test_the_mean_of_the_summands_moves_the_model_as_the_scalars_of_all_do(name: str) -> None:
    algorithm, settings = CASES[name]
    made = built(algorithm, **settings)
    parts, start = given(made), Start(WEIGHTS, GRID, 1)
    one_by_one, summed = made.aggregate(start, parts), made.aggregate_mean(start, mean(made, parts), blank(made, parts))

    def along(aggregate: Any) -> dict[Any, float]:
        lengths: dict[Any, float] = {}
        for seed, block, index, length in aggregate.moves:
            lengths[seed, block, index] = lengths.get((seed, block, index), 0.0) + length
        return {place: length for place, length in lengths.items() if length}

    expected = along(one_by_one)
    assert along(summed) == pytest.approx(expected, rel=1e-6, abs=1e-12) and expected
    assert summed.optimizer_state == pytest.approx(one_by_one.optimizer_state)


def test_a_client_clips_itself_by_the_last_rounds_bound() -> None:
    made = built("decomfl", clip=2.5)
    parts, start = given(made), Start(WEIGHTS, GRID, 1)
    bounds = made.aggregate_mean(start, mean(made, parts), blank(made, parts)).bounds
    shares = [share / 64 for share in (12, 3, 24, 24)]  # twice the median claim counts at most: 12, 3, 24, 24 of 63
    shares = [64 / 63 * share for share in shares]
    plan = made.plan
    squares = (
        [plan.mean_square(part) for part in parts],
        [root_mean_square(part.scalars.projections) ** 2 for part in parts],
    )
    expected = [2.5 * math.sqrt(sum(s * q for s, q in zip(shares, kind, strict=True))) for kind in squares]
    assert bounds == pytest.approx(expected, rel=1e-6)
    wild = given(made, scale=1000.0)[0]
    clipped = made.summand(wild, bounds, 1)
    assert clipped[-1] == pytest.approx(bounds[1] ** 2)
    assert (np.abs(clipped) <= made.sum_limits(bounds, 1)).all()
    assert clipped[0] / clipped[1] == pytest.approx(made.summand(wild, (), 1)[0] / made.summand(wild, (), 1)[1])
    first = given(made, scale=1e6)[0]
    assert made.summand(first, (), 1)[-1] == pytest.approx(STEEPEST**2)


def test_where_a_loss_is_flat_the_next_round_is_as_the_first() -> None:
    made = built("decomfl", clip=2.5)
    parts = blank(made, given(made))
    assert made.aggregate_mean(Start(WEIGHTS, GRID, 1), mean(made, parts), parts).bounds == (STEEPEST, STEEPEST)


@pytest.mark.parametrize(
    ("algorithm", "settings", "sentence"),
    [
        ("zowarmup", {}, "algorithm = 'zowarmup': must be one whose clients share directions"),
        ("fedspzo", {"cut": 1, "probes": (2, 2), "train": "all"}, "a sum of their scalars says nothing"),
        ("decomfl", {"weighting": "uniform", "aggregate": "median"}, "needs the scalars of each client"),
        ("decomfl", {"scalars": "byte"}, "under a mask a number has 8 bytes"),
        ("decomfl", {"clients_per_round": 2}, "of two each knows what the other gave"),
        ("decomfl", {"clients_per_round": 1001}, "at most 1000"),
        ("decomfl", {"clients_per_round": 900, "over_selection": 0.2}, "at most 1000"),
        ("decomfl", {"most_times_median": 0}, "would be most of the sum"),
        ("decomfl", {"gradient_projections": 3}, "what the high tier alone has is no sum of many"),
    ],
)
def test_what_a_sum_does_not_allow_is_refused_with_the_reason(
    algorithm: str, settings: dict[str, Any], sentence: str
) -> None:
    spec = changed(zeroth_order_settings("decomfl", rounds=2), algorithm, **settings)
    with pytest.raises(ValueError, match=sentence):
        spec.check_sums()
