"""The section [privacy]: what it refuses, what follows from it, and that without it nothing is different."""

from dataclasses import replace
from typing import Any

import pytest

from tests.algorithms import changed
from tests.client.conftest import prepared
from zowarmup.common.algorithms.gaussian_privacy import epsilon_of
from zowarmup.common.settings.privacy import Privacy
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
        ("privacy", {"mode": "aggregate", "epsilon": 8.0}, 'mode = \'aggregate\': must be "off" or "local"'),
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
