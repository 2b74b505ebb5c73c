"""Settings of all algorithms that probe: what they say of a round's cost and of how far it moves."""

from typing import Any

import pytest

from tests.algorithms import zeroth_order_settings
from zowarmup.common.algorithms.probing import ProbingSettings


def settings(**others: Any) -> ProbingSettings:
    made = zeroth_order_settings(rounds=10, clients_per_round=4, **others)
    assert isinstance(made, ProbingSettings)
    return made


@pytest.mark.parametrize(
    ("others", "examples", "batch"),
    [
        ({"probes": 32, "train": "all"}, 640, 20),
        ({"probes": 32, "train": "all"}, 641, 21),
        ({"probes": 32, "train": "all"}, 5, 1),
        ({"probes": 2, "train": "all"}, 640, 64),
        ({"probes": 32, "train": "all", "slices": "whole"}, 50, 50),
        ({"probes": 32, "train": "head"}, 50, 50),
        ({"probes": 32}, 50, 50),
        ({"probes": 32, "gradient_projections": 8}, 640, 20),
    ],
)
def test_the_largest_batch_is_a_slice_or_a_micro_batch(others: dict[str, Any], examples: int, batch: int) -> None:
    assert settings(**others).largest_batch(examples) == batch


@pytest.mark.parametrize(
    ("others", "first"),
    [
        ({"probes": 25, "train": "all"}, 0.5 / 10),
        ({"probes": 25, "train": "all", "algorithm": "decomfl"}, 0.5 / 5),
        ({"probes": 25}, 0.5 / 16),
        ({"train": "head", "head_projections": 100}, 0.5 / 20),
        ({"step": "adam"}, 0.5),
        ({"step": "raw"}, 0.0),
    ],
)
def test_the_first_move_falls_with_the_root_of_the_directions(others: dict[str, Any], first: float) -> None:
    assert settings(rate=0.5, **others).first_move == pytest.approx(first)


def test_the_rate_is_annealed_to_near_zero_unless_steps_are_raw() -> None:
    assert [settings().annealed(0.4, done) for done in (0, 5, 9)] == pytest.approx([0.4, 0.2, 0.04])
    assert settings(step="raw").annealed(0.4, 9) == 0.4


def test_slowed_keeps_local_steps_in_proportion() -> None:
    slowed = settings(local_steps=2, rate=0.4, local_rate=0.2).slowed(0.5)
    assert (slowed.rate, slowed.local_rate) == (0.2, 0.1)
