"""Crashes in a run of each algorithm: what an algorithm remembers, and what it makes of contributions, survives."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.algorithms import changed
from tests.faults.backends import Backend
from tests.faults.small import RANK, TRIO, run_file
from tests.scenario.test_crash_points import folder, outcome
from zowarmup.server.coordinator import Coordinator

__all__ = ["folder"]
pytestmark = pytest.mark.backends("files")
ALGORITHMS: dict[str, dict[str, Any]] = {
    "exact projections": {"gradient_projections": 5},
    "decomfl, local steps": {"algorithm": "decomfl", "local_steps": 2},
    "fedkseed": {"algorithm": "fedkseed", "pool": 8, "step": "raw", "rate": 1e-4},
    "adam": {"step": "adam", "beta2": 0.8, "rate": 0.01},
    "gaussian": {"directions": "gaussian"},
    "mixed": {"algorithm": "mixed"},
    "nibbles": {"scalars": "nibble"},
    "whitened": {"whitening": RANK},
}
WARM_UPS: dict[str, dict[str, Any]] = {
    "heterofl": {"algorithm": "heterofl", "clients_per_round": len(TRIO)},
}


@pytest.mark.parametrize("name", [*ALGORITHMS, *WARM_UPS])
def test_the_same_model_comes_out_whatever_crashes_and_whoever_comes_first(
    folder: Path, backend: Backend, name: str
) -> None:
    plain = run_file(TRIO)
    settings = replace(
        plain,
        warmup=changed(plain.warmup, **WARM_UPS.get(name, {})),
        zeroth_order=changed(plain.zeroth_order, **ALGORITHMS.get(name, {})),
    )
    calm = outcome(folder / "calm", TRIO, settings=settings)
    assert (calm.version, calm.lives, calm.lost) == (30, 1, 0)
    places = random.Random(5).sample(range(1, len(calm.places) * 2 // 3), 12)
    crashed = outcome(folder / "crashed", TRIO, places, Coordinator, settings, backend=backend)
    assert crashed.lives >= 6
    assert (crashed.digest, crashed.version, crashed.lost) == (calm.digest, calm.version, 0)
