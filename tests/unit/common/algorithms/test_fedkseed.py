"""FedKSeed: a pool of directions, a local step after each probe, and a way back that costs the pool and no more."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import aggregating
from tests.algorithms import warmup_settings, zeroth_order_algorithm, zeroth_order_settings
from tests.closed_forms import (
    GRID,
    HEADLESS,
    LAYOUT,
    ONE,
    Quadratic,
    drawn,
    signs,
    ticks,
    work,
)
from tests.tasks import scored
from zowarmup.common.algorithms.fedkseed import FedKSeed
from zowarmup.common.algorithms.protocol import ClientScalars
from zowarmup.common.exact.replica import Commit, Replica, merged
from zowarmup.common.exact.steps import Step, apply_steps
from zowarmup.common.messages.codec import decode_commit, encode_commit
from zowarmup.common.messages.values import Scalars
from zowarmup.common.settings.data_card import DataCard
from zowarmup.common.settings.run import Evaluation, Model, RunFile
from zowarmup.server.core import events as ev
from zowarmup.server.projections.history import History
from zowarmup.server.setup.run_file import RunFileError, run_file_of

POOL = 99
ALL = LAYOUT.block("all")
SPEC: dict[str, Any] = {
    "algorithm": "fedkseed",
    "rounds": 10,
    "pool": 16,
    "probes": 5,
    "step": "raw",
}


def algorithm(**settings: Any) -> FedKSeed:
    made = zeroth_order_algorithm(zeroth_order_settings(**{**SPEC, "rate": 0.02, **settings}), HEADLESS, POOL)
    assert isinstance(made, FedKSeed)
    return made


def test_the_derivatives_are_those_that_descent_along_the_pool_meets_in_float64() -> None:
    weights = drawn()
    before = weights.tobytes()
    forward = Quadratic(weights)
    zo = algorithm()
    scalars = zo.contribute(weights, GRID, forward, 10, work())
    w, found = weights.astype(np.float64), []
    for index, (chosen, _) in zip(zo.plan.drawn(7, 5), forward.asked[::2], strict=True):
        z = signs(POOL, index, ALL)
        found.append(float(z @ (w - forward.centres[chosen].mean(axis=0))))
        w -= 0.02 * found[-1] * z
    assert scalars.probes == pytest.approx(found, abs=1e-4)
    assert weights.tobytes() == before
    assert sorted(itertools.chain(*(chosen for chosen, _ in forward.asked[::2]))) == list(range(10))
    # What the coordinator makes of one client's scalars is where that client had got to.
    apply_steps(weights, GRID, aggregating.steps(zo, GRID, 0, [ClientScalars(7, 10, scalars)]))
    assert weights.astype(np.float64) == pytest.approx(w, abs=1e-4)


def test_directions_are_drawn_evenly_from_the_pool_and_by_the_clients_seed() -> None:
    zo = algorithm(probes=4000)
    counted = np.bincount(zo.plan.drawn(7, 4000), minlength=16)
    assert len(counted) == 16 and counted.min() > 180
    assert zo.plan.drawn(7, 9) == zo.plan.drawn(7, 4000)[:9] != zo.plan.drawn(8, 9)


def test_a_commit_is_one_tick_for_each_direction_of_the_pool() -> None:
    """Clients of 6 and 2 examples weigh 3/4 and 1/4; every local step counts whole."""
    zo = algorithm(rate=1.0, probes=2, pool=4, most_times_median=0)
    first, second = zo.plan.drawn(5, 2), zo.plan.drawn(9, 2)
    expected = np.zeros(4)
    np.add.at(expected, first, np.array([4.0, 8.0]) * 3 / 4)
    np.add.at(expected, second, np.array([2.0, -6.0]) / 4)
    parts = [ClientScalars(5, 6, Scalars(3, (4.0, 8.0), ())), ClientScalars(9, 2, Scalars(3, (2.0, -6.0), ()))]
    ((seed, block, found),) = ticks(aggregating.steps(zo, GRID, 0, parts))
    assert (seed, block) == (POOL, "all")
    assert [*found, 0, 0, 0][:4] == [round(-move * ONE) for move in expected]


def test_the_normaliser_is_the_mean_square_of_the_derivatives() -> None:
    zo = algorithm(rate=1.0, probes=2, pool=4096, step="normalized")
    ((_, _, found),) = ticks(aggregating.steps(zo, GRID, 0, [ClientScalars(5, 6, Scalars(3, (1.0, 7.0), ()))]))
    first, second = zo.plan.drawn(5, 2)
    assert [found[first], found[second]] == pytest.approx([-ONE / 5, -7 * ONE / 5], abs=1)


blocks = st.sampled_from([ALL, LAYOUT.block("trunk"), LAYOUT.block("head")])
steps = st.builds(Step, st.integers(1, 3), blocks, st.lists(st.integers(-9, 9), min_size=1, max_size=20).map(tuple))


@settings(max_examples=60)
@given(st.lists(steps, max_size=12))
def test_merged_steps_move_every_bit_alike(taken: list[Step]) -> None:
    one, other = drawn(), drawn()
    apply_steps(one, GRID, taken)
    few = merged(taken)
    apply_steps(other, GRID, few)
    assert one.tobytes() == other.tobytes()
    assert len(few) == len({(step.seed, step.block) for step in taken})


def test_sums_that_fit_no_step_stay_apart() -> None:
    long = Step(1, ALL, ((1 << 31) - 1,))
    assert merged([long, long]) == [long, long]
    assert merged([long, Step(1, ALL, (-5,))]) == [Step(1, ALL, ((1 << 31) - 6,))]


def rounds(count: int) -> tuple[Replica, list[Commit]]:
    """A replica at version 0, and the commits of so many rounds of two clients."""
    zo = algorithm(rate=0.005, pool=64, rounds=1000)
    start = Replica(LAYOUT, GRID, drawn(), 0)
    replica, commits = Replica(LAYOUT, GRID, drawn(), 0), list[Commit]()
    chance = np.random.default_rng(0)
    for number in range(1, count + 1):
        parts = [
            ClientScalars(
                2 * number + k, 10, Scalars(number, tuple(chance.normal(size=5).astype(np.float32).tolist()), ())
            )
            for k in range(2)
        ]
        made = aggregating.steps(zo, GRID, number - 1, parts)
        apply_steps(replica.weights, GRID, made)
        commits.append(Commit(number, replica.digest(), made))
    return start, commits


def test_a_replica_comes_back_by_one_commit_for_many_rounds() -> None:
    start, commits = rounds(200)
    whole = Commit(200, commits[-1].digest, tuple(merged([s for commit in commits for s in commit.steps])), 200)
    assert decode_commit(encode_commit(whole, LAYOUT), LAYOUT) == whole
    with pytest.raises(ValueError, match="a commit of version 200 does not follow"):
        start.apply([replace(whole, versions=199)])
    assert start.version == 0
    start.apply([whole])
    assert start.version == 200
    with pytest.raises(ValueError, match="it leads 5 versions on, to 4"):
        Commit(4, b"0" * 16, (), 5)


def test_what_a_catch_up_sends_is_bounded_by_the_pool() -> None:
    _, commits = rounds(200)
    told = History()
    run = RunFile(
        name="x",
        model=Model(name="mlp"),
        warmup=warmup_settings(rounds=1),
        zeroth_order=zeroth_order_settings(**SPEC),
        evaluation=Evaluation(data="digits:test"),
    )
    program = ev.ProgramRecord("b" * 64, 1, LAYOUT.to_json(), DataCard(shape=(1,), classes=2), 1, 1, *scored(2))
    told.record(0.0, [ev.RunCreated("run", run, program, ev.Snapshot(0, "c" * 64, 20, "d" * 32))])
    costs = {}
    for commit in commits:
        told.record(1.0, [ev.Committed(commit.version, commit.version, commit.digest.hex(), commit.steps, None, ())])
        way = told.catch_up(0, "d" * 32, commit.version, snapshot=0, snapshot_bytes=1 << 20)
        costs[commit.version] = way.cost_bytes
        assert way.snapshot is None and len(way.commits) == 1
    assert costs[200] < 400 < sum(len(encode_commit(commit, LAYOUT)) for commit in commits) / 50
    replica = Replica(LAYOUT, GRID, drawn(), 0)
    replica.apply([decode_commit(data, LAYOUT) for data in way.commits])
    assert (replica.version, replica.digest()) == (200, commits[-1].digest)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"pool": 0}, "zeroth_order.pool = 0: must be 1 to 4096"),
        ({"pool": None}, "zeroth_order.pool is missing"),
        (
            {"head_projections": 0},
            'zeroth_order.head_projections is not a setting of algorithm "fedkseed"; allowed here: algorithm',
        ),
        ({"gradient_projections": 8}, 'zeroth_order.gradient_projections is not a setting of algorithm "fedkseed"'),
        ({"local_steps": 2}, 'zeroth_order.local_steps is not a setting of algorithm "fedkseed"'),
        ({"algorithm": "zowarmup"}, 'zeroth_order.pool is not a setting of algorithm "zowarmup"'),
        ({"algorithm": "decomfl"}, 'zeroth_order.pool is not a setting of algorithm "decomfl"'),
        (
            {"algorithm": "fedpseed"},
            "zeroth_order.algorithm = 'fedpseed': must be 'zowarmup', 'decomfl', 'fedkseed', 'mixed', 'fedspzo' or package.module:Algorithm",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(changed: dict[str, Any], sentence: str) -> None:
    given = {name: value for name, value in {**SPEC, **changed}.items() if value is not None}
    raw = {"name": "x", "model": {"name": "mlp"}, "warmup": {"rounds": 1}, "evaluation": {"data": "digits:test"}}
    with pytest.raises(RunFileError) as refused:
        run_file_of({**raw, "zeroth_order": given}, "run.toml")
    assert sentence in str(refused.value)
