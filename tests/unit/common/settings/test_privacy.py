"""The section [privacy]: what it refuses, what follows from it, and that without it nothing is different."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.algorithms import changed
from tests.client.conftest import prepared
from zowarmup.client.errors import Final
from zowarmup.client.policy import Policy
from zowarmup.common.algorithms.gaussian_privacy import epsilon_of
from zowarmup.common.algorithms.shared_noise import NoiseShares
from zowarmup.common.secure_aggregation.roster import threshold_of
from zowarmup.common.settings.privacy import Privacy, noise_shares
from zowarmup.common.settings.run import ClientSpec, Model
from zowarmup.server.setup.run_file import RunFileError, run_file_of

RAW: dict[str, Any] = {
    "name": "private",
    "model": {"name": "mlp"},
    "warmup": {"rounds": 0},
    "zeroth_order": {"rounds": 100},
    "evaluation": {"data": "digits:test"},
    "privacy": {"mode": "local", "epsilon": 8.0},
}
SECURE = {"secure_aggregation": True}
SHARED: dict[str, Any] = {
    **RAW,
    "zeroth_order": {"rounds": 100, "algorithm": "decomfl"},
    "privacy": {"mode": "aggregate", "epsilon": 8.0, **SECURE},
}


def test_the_noise_follows_from_the_budget() -> None:
    budget = run_file_of(RAW, "run.toml").privacy.budget(100)
    assert (budget.releases, budget.delta) == (100, 1e-5)
    assert budget.epsilon(100) == pytest.approx(8.0, rel=1e-9)
    assert budget.epsilon(100) <= 8.0
    fewer = Privacy(mode="local", epsilon=8.0, releases=25).budget(100)
    assert fewer.multiplier == pytest.approx(budget.multiplier / 2)
    given = Privacy(mode="local", noise_multiplier=5.0).budget(100)
    assert given.epsilon(7) == epsilon_of(5.0, 7, 1e-5)


def test_what_is_not_said_of_the_rounds_is_as_it_has_to_be() -> None:
    rounds = run_file_of(RAW, "run.toml").zeroth_order
    assert (rounds.whitens, rounds.slices, rounds.probes) == (0, "whole", 8)  # type: ignore[attr-defined]
    off = run_file_of({**RAW, "privacy": {"mode": "off"}}, "run.toml")
    assert off == run_file_of({name: table for name, table in RAW.items() if name != "privacy"}, "run.toml")
    assert off.zeroth_order.whitens == 8


@pytest.mark.parametrize(
    ("section", "table", "said"),
    [
        (
            "privacy",
            {"mode": "aggregate", "epsilon": 8.0},
            'privacy.secure_aggregation = False: must be true with mode = "aggregate": a share of the noise hides nothing',
        ),
        (
            "privacy",
            {"mode": "aggregate", "epsilon": 8.0, **SECURE},
            'must be one whose clients share directions, "decomfl"',
        ),
        ("privacy", {"mode": "local", "epsilon": 8.0, "colluders": 2}, "privacy.colluders = 2: must be 1, the default"),
        (
            "privacy",
            {"mode": "aggregate", "epsilon": 8.0, **SECURE, "colluders": 301},
            "privacy.colluders = 301: must be 0",
        ),
        ("privacy", {"mode": "local"}, "privacy.epsilon = 0.0: must be above 0, or else noise_multiplier"),
        ("privacy", {"mode": "local", "epsilon": 8.0, "noise_multiplier": 3.0}, "and not both of them"),
        ("privacy", {"mode": "local", "epsilon": 8.0, "delta": 0.5}, "privacy.delta = 0.5: must be above 0"),
        ("privacy", {"mode": "local", "epsilon": 8.0, "clip": 0.0}, "privacy.clip = 0.0: must be 1e-6 to 1e6"),
        ("privacy", {"mode": "local", "noise_multiplier": 0.01}, "100 releases with it have no epsilon below 500"),
        ("privacy", {"mode": "local", "epsilon": 0.01, "releases": 10**6}, "privacy.epsilon = 0.01: must be larger"),
        ("warmup", {"rounds": 3}, "privacy.warmup_data = 'private': must be \"public\" where there is a warm-up"),
        ("zeroth_order", {"rounds": 5, "whitening": 8}, "zeroth_order.whitening = 8: must be 0 under [privacy]"),
        (
            "zeroth_order",
            {"rounds": 5, "slices": "own"},
            "zeroth_order.slices = 'own': must be \"whole\" under [privacy]",
        ),
        ("zeroth_order", {"rounds": 5, "gradient_projections": 4}, "zeroth_order.gradient_projections = 4: must be 0"),
        ("zeroth_order", {"rounds": 5, "local_steps": 2}, "zeroth_order.local_steps = 2: must be 1 under [privacy]"),
        ("zeroth_order", {"rounds": 5, "algorithm": "fedkseed", "pool": 64}, 'must be "zowarmup" or "decomfl"'),
        ("zeroth_order", {"rounds": 5, "algorithm": "mixed"}, 'must be "zowarmup" or "decomfl" under [privacy]'),
    ],
)
def test_what_would_not_keep_the_promise_is_refused_with_the_reason(
    section: str, table: dict[str, Any], said: str
) -> None:
    with pytest.raises(RunFileError) as refused:
        run_file_of({**RAW, section: table}, "run.toml")
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("section", "table", "said"),
    [
        ("zeroth_order", {"weighting": "uniform"}, "zeroth_order.weighting = 'uniform': must be \"examples\" with"),
        ("privacy", {"colluders": 4}, "privacy.colluders = 4: must be fewer: in a round of 8, which"),
        ("zeroth_order", {"slices": "own"}, "zeroth_order.slices = 'own': must be \"whole\" under [privacy]"),
        ("zeroth_order", {"whitening": 8}, "zeroth_order.whitening = 8: must be 0 under [privacy]"),
        ("zeroth_order", {"local_steps": 2}, "zeroth_order.local_steps = 2: must be 1 under [privacy]"),
        ("zeroth_order", {"gradient_projections": 4}, "zeroth_order.gradient_projections = 4: must be 0"),
        ("zeroth_order", {"algorithm": "fedkseed", "pool": 64}, 'must be "zowarmup" or "decomfl" under [privacy]'),
        ("zeroth_order", {"algorithm": "mixed"}, "a sum of their scalars says nothing"),
        ("warmup", {"rounds": 3}, "privacy.warmup_data = 'private': must be \"public\" where there is a warm-up"),
    ],
)
def test_rounds_in_which_noise_cannot_be_shared_are_refused_with_the_reason(
    section: str, table: dict[str, Any], said: str
) -> None:
    with pytest.raises(RunFileError) as refused:
        run_file_of({**SHARED, section: {**SHARED[section], **table}}, "run.toml")
    assert said in str(refused.value)


def test_the_noise_is_shared_among_the_fewest_who_do_not_tell_theirs() -> None:
    run = run_file_of(SHARED, "run.toml")
    privacy, rounds = run.privacy, run.zeroth_order
    assert privacy.budget(100) == Privacy(mode="local", epsilon=8.0).budget(100), "the sum's is what a device's is else"
    # Of 10 devices 7 must be in the sum, of whom one may tell its noise.
    assert [privacy.fewest(members) for members in (2, 3, 4, 5, 6, 9, 10, 100)] == [0, 2, 2, 3, 4, 6, 6, 66]
    assert replace(privacy, colluders=0).fewest(10) == 7
    # Against four of ten secure aggregation itself is nothing: they can have two sets of survivors signed.
    assert [replace(privacy, colluders=few).fewest(10) for few in (3, 4)] == [4, 0]
    assert noise_shares(privacy, 100, 10) == NoiseShares(1.0, privacy.budget(100).multiplier, 6)
    assert privacy.multiplier_alone(rounds) == pytest.approx(privacy.budget(100).multiplier / math.sqrt(6))
    with pytest.raises(ValueError, match="2 devices are too few to add noise together where 1 may tell theirs"):
        noise_shares(privacy, 100, 2)


@given(st.integers(3, 1000), st.integers(0, 300))
def test_as_many_honest_devices_are_in_every_sum(members: int, colluders: int) -> None:
    """Whoever drops out: of the threshold, or more, at most `colluders` are not honest. And where these can have two sets of survivors
    signed, the one of which they are all and the other, nothing is shared."""
    threshold = threshold_of(members)
    fewest = replace(run_file_of(SHARED, "run.toml").privacy, colluders=colluders).fewest(members)
    signed_twice = (members - colluders) + 2 * colluders >= 2 * threshold
    assert (fewest == 0) is signed_twice
    assert signed_twice or fewest == threshold - colluders >= 1


def test_an_owners_bound_is_on_its_own_noise_unless_it_takes_the_others() -> None:
    run = run_file_of(SHARED, "run.toml")
    for policy in (Policy(epsilon=8.0, shared_noise=True), Policy(epsilon=30.0), Policy()):
        policy.require_privacy(run.privacy, run.zeroth_order, trains=False)
    with pytest.raises(Final) as refused:
        Policy(epsilon=8.0).require_privacy(run.privacy, run.zeroth_order, trains=False)
    told = epsilon_of(run.privacy.multiplier_alone(run.zeroth_order), 100, 1e-5)
    assert 20 < told < 30
    assert f"up to epsilon {told:.4g} by its own noise alone (shared_noise = true counts" in str(refused.value)
    with pytest.raises(Final, match="up to epsilon 8, and this device's owner allows epsilon 7"):
        Policy(epsilon=7.0, shared_noise=True).require_privacy(run.privacy, run.zeroth_order, trains=False)


def test_a_warm_up_on_what_may_be_known_is_taken() -> None:
    raw = {**RAW, "warmup": {"rounds": 3}, "privacy": {**RAW["privacy"], "warmup_data": "public"}}
    assert run_file_of(raw, "run.toml").warmup.rounds == 3


def test_devices_are_told_of_it_and_of_nothing_where_there_is_none() -> None:
    spec = prepared(Model(name="mlp")).spec
    assert '"privacy"' not in spec.to_json()
    rounds = changed(spec.zeroth_order, slices="whole", whitening=0)
    private = replace(
        spec, zeroth_order=rounds, warmup=changed(spec.warmup, rounds=0), privacy=Privacy(mode="local", epsilon=2.0)
    )
    assert ClientSpec.from_json(private.to_json()) == private
    lying = private.to_json().replace('"slices": "whole"', '"slices": "own"')
    assert lying != private.to_json()
    with pytest.raises(ValueError, match=r"zeroth_order\.slices"):
        ClientSpec.from_json(lying)
