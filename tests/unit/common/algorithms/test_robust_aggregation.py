"""What a client counts with, and aggregates that leave the extremes out: exact, in any order, with liars among the clients."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests import aggregating
from tests.algorithms import warm_up_algorithm, warmup_settings, zeroth_order_algorithm, zeroth_order_settings
from tests.closed_forms import LAYOUT
from tests.unit.common.algorithms.test_fedopt import LAYOUT as FLAT
from tests.unit.common.algorithms.test_fedopt import Kept
from tests.unit.common.algorithms.test_heterofl import PART, TINY
from tests.unit.common.algorithms.test_heterofl import algorithm as heterofl
from zowarmup.common.algorithms import fedavg
from zowarmup.common.algorithms.protocol import ClientScalars
from zowarmup.common.algorithms.robust_aggregation import counted, left_out
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.steps import apply_steps
from zowarmup.common.messages.values import Scalars

MOST = (1 << 48) - 1
"""The largest count that a Hello or an Enrol may claim."""
CLAIMS = st.lists(st.integers(1, MOST), min_size=1, max_size=12)
Vector = NDArray[np.float32]


def warmup(**settings: Any) -> Any:
    return warmup_settings(rounds=5, **settings)


# What clients count with.


def test_a_claim_counts_up_to_twice_the_median_of_the_round() -> None:
    assert counted([100, 100, MOST], warmup()) == [100, 100, 200]
    assert counted([50, MOST], warmup()) == [50, 100], "of two the lower one is the median"
    assert counted([10, 20, MOST, MOST], warmup()) == [10, 20, 40, 40]
    assert counted([70, 143, 200], warmup()) == [70, 143, 200], "ordinary differences stay"
    assert counted([7], warmup()) == [7]


def test_the_run_may_say_more() -> None:
    assert counted([100, 100, MOST], warmup(most_examples=120)) == [100, 100, 120]
    assert counted([100, 900, 900], warmup(most_examples=120)) == [100, 120, 120]
    assert counted([100, 100, MOST], warmup(most_times_median=1.5)) == [100, 100, 150]
    assert counted([1, 1, MOST], warmup(most_times_median=0)) == [1, 1, MOST]
    assert counted([1, 5, MOST], warmup(weighting="uniform")) == [1, 1, 1]


@given(honest=st.lists(st.integers(1, 10_000), min_size=1, max_size=20), claims=CLAIMS)
def test_fewer_liars_than_others_count_twice_the_largest_honest_claim_at_most(
    honest: list[int], claims: list[int]
) -> None:
    liars = claims[: len(honest) - 1] if len(honest) > 1 else []
    counts = counted([*honest, *liars], warmup())
    assert max(counts) <= 2 * max(honest)
    assert all(1 <= count <= claim for count, claim in zip(counts, [*honest, *liars], strict=True))


@given(claims=CLAIMS, seed=st.integers(0, 99))
def test_the_order_plays_no_part_in_what_clients_count_with(claims: list[int], seed: int) -> None:
    order = list(range(len(claims)))
    random.Random(seed).shuffle(order)
    counts = counted(claims, warmup())
    assert counted([claims[place] for place in order], warmup()) == [counts[place] for place in order]


@pytest.mark.parametrize("name", ["fedavg", "heterofl"])
def test_one_of_three_that_claims_all_the_examples_there_are_has_half_of_the_mean(name: str) -> None:
    """The attack: with a delta as long as the others', by the claim alone it moved the model by all of it."""
    weights, usual = np.full(TINY.size, 10, np.float32), np.zeros(TINY.size, np.float32)
    liar = np.ones(TINY.size, np.float32)
    usual[0] = np.sqrt(TINY.size)  # as long
    algorithm = warm_up_algorithm(warmup(algorithm=name), TINY)
    moved = aggregating.moved(algorithm, weights, [(100, usual), (100, usual), (MOST, liar)])
    assert moved[1:] - weights[1:] == pytest.approx(0.5)
    uniform = warm_up_algorithm(warmup(algorithm=name, weighting="uniform"), TINY)
    moved = aggregating.moved(uniform, weights, [(100, usual), (100, usual), (MOST, liar)])
    assert moved[1:] - weights[1:] == pytest.approx(1 / 3)


@pytest.mark.parametrize("name", ["zowarmup", "decomfl", "fedkseed"])
def test_nor_do_scalars_count_for_more_by_a_claim(name: str) -> None:
    only = {"pool": 4} if name == "fedkseed" else {"head_projections": 0}
    spec = zeroth_order_settings(rounds=10, algorithm=name, probes=4, step="raw", rate=1.0, **only)
    zo, grid = zeroth_order_algorithm(spec, LAYOUT, 7), Grid(14)

    def displacement(claims: list[int], values: list[float]) -> NDArray[np.float64]:
        moved = np.zeros(LAYOUT.size, np.float32)
        seeds = [5, 5, 5] if spec.shared_directions else [5, 6, 7]
        parts = [
            ClientScalars(seed, claim, Scalars(1, (value,) * 4, ()))
            for seed, claim, value in zip(seeds, claims, values, strict=True)
        ]
        apply_steps(moved, grid, aggregating.steps(zo, grid, 0, parts))
        return moved.astype(np.float64)

    alone = displacement([100, 100, 100], [0.0, 0.0, 1.0])  # a third
    lying = displacement([100, 100, MOST], [0.0, 0.0, 1.0])
    assert np.linalg.norm(lying) == pytest.approx(1.5 * np.linalg.norm(alone), rel=0.01), "half"


@pytest.mark.parametrize("members", [1, 2, 3])
@pytest.mark.parametrize("name", ["zowarmup", "decomfl", "fedkseed"])
def test_a_raw_step_is_bounded_by_the_model_where_the_others_cannot_bound_it(name: str, members: int) -> None:
    """The third sends zeros, as one may that the model fits."""
    only = {"pool": 4} if name == "fedkseed" else {"head_projections": 0}
    spec = zeroth_order_settings(rounds=10, algorithm=name, probes=4, step="raw", rate=1.0, **only)
    zo = zeroth_order_algorithm(spec, LAYOUT, 7)
    parts = [ClientScalars(5, 10, Scalars(1, (value,) * 4, ())) for value in (2.0**32, 1.0, 0.0)[:members]]

    def size(model: float) -> float:
        moved, weights = np.zeros(LAYOUT.size, np.float32), np.full(LAYOUT.size, model, np.float32)
        apply_steps(moved, Grid(8), aggregating.steps(zo, Grid(8), 0, parts, weights=weights))
        return float(np.sqrt(np.mean(np.square(moved[: LAYOUT.trainable].astype(np.float64)))))

    assert size(0.5) <= 0.5 + 16 * Grid(8).tick
    assert size(1e30) > 100


# What is left out.


def test_how_many_values_are_left_out() -> None:
    trimmed, median = warmup(aggregate="trimmed", weighting="uniform"), warmup(aggregate="median", weighting="uniform")
    assert [left_out(n, trimmed) for n in (1, 2, 3, 4, 5, 8, 9, 10)] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [left_out(n, median) for n in (1, 2, 3, 4, 5, 8, 9, 10)] == [0, 0, 1, 1, 2, 3, 4, 4]
    assert [left_out(n, warmup()) for n in (1, 3, 10)] == [0, 0, 0]
    assert left_out(10, warmup(aggregate="trimmed", weighting="uniform", trim=0.1)) == 1


def reference(columns: list[list[float]], out: int) -> list[float]:
    """Coordinate by coordinate in Python's own float64."""
    found = []
    for values in zip(*columns, strict=True):
        kept = sorted(values)[out : len(values) - out]
        total = 0.0
        for value in kept:
            total += value
        found.append(total / len(kept))
    return found


@pytest.mark.parametrize("aggregate", ["trimmed", "median"])
@pytest.mark.parametrize("least", [1, 3, 1 << 10])
@pytest.mark.parametrize("clients", [1, 2, 5, 10])
def test_deltas_are_those_of_the_float64_reference_in_any_order_and_by_any_pieces(
    aggregate: Any, least: int, clients: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fedavg, "LEAST_PIECE", least)
    monkeypatch.setattr(fedavg, "PIECE", least)
    chance = np.random.default_rng(clients)
    weights = chance.normal(size=TINY.size).astype(np.float32)
    deltas = [(MOST - n, chance.normal(size=TINY.size).astype(np.float32)) for n in range(clients)]
    spec = warmup(aggregate=aggregate, weighting="uniform", clip=0)
    moved = aggregating.moved(warm_up_algorithm(spec, TINY), weights, deltas)
    columns = [delta.astype(np.float64).tolist() for _, delta in deltas]
    expected = np.array(reference(columns, left_out(clients, spec))) + weights
    assert moved.tobytes() == expected.astype(np.float32).tobytes()
    random.Random(0).shuffle(deltas)
    assert aggregating.moved(warm_up_algorithm(spec, TINY), weights, deltas).tobytes() == moved.tobytes()


def test_zeros_of_either_sign_are_one_number() -> None:
    """A sort may leave them in any order, by machine."""
    weights = np.zeros(TINY.size, np.float32)
    deltas = [(1, np.full(TINY.size, value, np.float32)) for value in (-0.0, 0.0, -0.0)]
    moved = aggregating.moved(warm_up_algorithm(warmup(aggregate="median", weighting="uniform"), TINY), weights, deltas)
    assert moved.tobytes() == weights.tobytes()


@pytest.mark.parametrize("aggregate", ["trimmed", "median"])
@given(seed=st.integers(0, 2**32), liars=st.integers(1, 3), size=st.sampled_from([-1e9, -1.0, 1e-9, 1e30]))
def test_three_liars_of_ten_leave_each_parameter_between_what_honest_clients_say(
    aggregate: Any, seed: int, liars: int, size: float
) -> None:
    chance = np.random.default_rng(seed)
    honest = [chance.normal(size=TINY.size).astype(np.float32) for _ in range(10 - liars)]
    lies = [(size * chance.normal(size=TINY.size)).astype(np.float32) for _ in range(liars)]
    spec = warmup(aggregate=aggregate, weighting="uniform", clip=0)
    weights = np.zeros(TINY.size, np.float32)
    moved = aggregating.moved(warm_up_algorithm(spec, TINY), weights, [(1, delta) for delta in [*honest, *lies]])
    assert (np.min(honest, axis=0) <= moved).all() and (moved <= np.max(honest, axis=0)).all()


def test_an_optimizer_on_the_server_follows_the_aggregate() -> None:
    spec = warmup(algorithm="fedadam", server_rate=0.5, aggregate="median", weighting="uniform", clip=0)
    weights = np.zeros(FLAT.size, np.float32)
    deltas = [(1, np.full(FLAT.size, value, np.float32)) for value in (-1e9, 1.0, 2.0)]
    found = aggregating.moved(warm_up_algorithm(spec, FLAT), weights, deltas, store=Kept().put)
    alone = aggregating.moved(warm_up_algorithm(spec, FLAT), weights, deltas[1:2], store=Kept().put)
    assert found.tobytes() == alone.tobytes() and found[0] > 0


@pytest.mark.parametrize("aggregate", ["trimmed", "median"])
@pytest.mark.parametrize("least", [1, 5, 1 << 10])
def test_of_partial_deltas_each_parameter_is_aggregated_among_those_who_hold_it(
    aggregate: Any, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fedavg, "LEAST_PIECE", least)
    monkeypatch.setattr(fedavg, "PIECE", least)
    chance = np.random.default_rng(3)
    sizes = [TINY.size] * 3 + [PART.layout.size] * 4
    deltas = [(1, chance.normal(size=size).astype(np.float32)) for size in sizes]
    algorithm = heterofl(aggregate=aggregate, weighting="uniform", most_times_median=2, clip=0)
    weights = np.zeros(TINY.size, np.float32)
    moved = aggregating.moved(algorithm, weights, deltas)
    held, place = PART.held(0, TINY.size), 0
    for index in range(TINY.size):
        values = [float(delta[index]) for _, delta in deltas[:3]]
        if held[index]:
            values += [float(delta[place]) for _, delta in deltas[3:]]
            place += 1
        (expected,) = reference([[value] for value in values], left_out(len(values), algorithm.spec))
        assert moved[index] == np.float32(expected)
    narrow = aggregating.moved(algorithm, weights, deltas[3:])
    assert not narrow[~held].any(), "what nobody holds stays"


def _decomfl(**settings: Any) -> Any:
    made: dict[str, Any] = {
        "rounds": 10,
        "algorithm": "decomfl",
        "probes": 2,
        "head_projections": 1,
        "weighting": "uniform",
    }
    return zeroth_order_algorithm(zeroth_order_settings(**{**made, **settings}), LAYOUT, 7)


def _ticks(steps: Any) -> list[tuple[int, ...]]:
    return [step.ticks for step in steps]


def test_scalars_along_shared_directions_in_exact_numbers() -> None:
    """Coefficients of derivative / 2 for whole probes of two; ticks of 2^-14."""
    zo = _decomfl(aggregate="median", slices="whole", step="raw", rate=2.0**-4, clip=0)
    parts = [
        ClientScalars(5, 10, Scalars(1, (1.0, -4.0), (2.0,))),
        ClientScalars(5, 10, Scalars(1, (2.0, -2.0), (1e9,))),
        ClientScalars(5, 10, Scalars(1, (1e9, 1e9), (1.0,))),
    ]
    assert _ticks(aggregating.steps(zo, Grid(14), 0, parts)) == [(-1024, 1024), (-2048,)]
    assert _ticks(aggregating.steps(zo, Grid(14), 0, parts[::-1])) == [(-1024, 1024), (-2048,)], (
        "the order plays no part"
    )


@pytest.mark.parametrize("step", ["normalized", "raw", "adam"])
@pytest.mark.parametrize("aggregate", ["trimmed", "median"])
def test_three_of_ten_cannot_turn_a_direction_in_which_all_others_agree(step: Any, aggregate: Any) -> None:
    honest = [ClientScalars(5, 10, Scalars(1, (1.0 + client / 10, -2.0), (0.5,))) for client in range(7)]
    lies = [ClientScalars(5, MOST, Scalars(1, (-1e6, 1e6), (-1e6,))) for _ in range(3)]
    zo = _decomfl(aggregate=aggregate, step=step, rate=0.01, clip=0)
    made = aggregating.aggregated(zo, [*honest, *lies])
    signs = [[np.sign(tick) for tick in ticks] for ticks in _ticks(made.steps(Grid(18)))]
    assert signs == [[-1, 1], [-1]]
    assert aggregating.aggregated(zo, [*lies, *honest]).optimizer_state == made.optimizer_state


def test_the_mean_of_equal_clients_is_what_the_trimmed_mean_comes_to() -> None:
    parts = [ClientScalars(5, 10, Scalars(1, (1.0, -2.0), (0.5,)))] * 6
    steps = [
        aggregating.steps(_decomfl(aggregate=name, rate=0.1), Grid(18), 3, parts)
        for name in ("mean", "trimmed", "median")
    ]
    assert steps[0] == steps[1] == steps[2]


def test_a_pools_direction_moves_by_the_share_of_those_who_drew_it_and_not_for_fewer_than_three() -> None:
    spec = zeroth_order_settings(
        rounds=10, algorithm="fedkseed", pool=8, probes=8, clients_per_round=4, slices="whole",
        step="raw", rate=2.0**-4, clip=0, weighting="uniform", aggregate="median",
    )  # fmt: skip
    zo: Any = zeroth_order_algorithm(spec, LAYOUT, 7)
    parts = [ClientScalars(seed, 10, Scalars(1, (1.0,) * 8, ())) for seed in range(4)]
    drawn = [zo.plan.drawn(part.seed, 8) for part in parts]
    (step,) = aggregating.steps(zo, Grid(14), 0, parts)
    for direction in range(8):
        found = sorted(float(draws.count(direction)) for draws in drawn if direction in draws)
        tick = step.ticks[direction] if direction < len(step.ticks) else 0
        if len(found) < 3:
            assert tick == 0
        else:
            middle = found[1] if len(found) == 3 else (found[1] + found[2]) / 2
            assert tick == -1024 * middle * len(found) / 4


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: zeroth_order_settings(
                rounds=1, algorithm="fedkseed", pool=1024, aggregate="median", weighting="uniform"
            ),
            "pool = 1024: must be so few that clients_per_round",
        ),
        (lambda: warmup(aggregate="trimmed"), r"weighting = 'examples': must be \"uniform\" with aggregate"),
        (lambda: warmup(trim=0.1), r"trim = 0.1: must be 0.25, the default, unless aggregate = \"trimmed\""),
        (
            lambda: warmup(trim=0.5, aggregate="trimmed", weighting="uniform"),
            "trim = 0.5: must be above 0 and below 0.5",
        ),
        (lambda: warmup(weighting="uniform", most_examples=5), "most_examples = 5: must be 0, the default, with"),
        (
            lambda: warmup(weighting="uniform", most_times_median=3),
            "most_times_median = 3: must be 2, the default, with",
        ),
        (lambda: warmup(most_times_median=0.5), r"most_times_median = 0.5: must be 0 \(no limit\) or 1 to 1e6"),
        (lambda: warmup(most_examples=-1), "most_examples = -1: must be"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(make: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()
