"""Crashes in a run of each algorithm: what an algorithm remembers, and what it makes of contributions, survives."""

import asyncio
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.algorithms import changed
from tests.faults.backends import Backend, files
from tests.faults.small import PAIR, RANK, TRIO, Client, Life, create, live, run_file
from tests.scenario.test_crash_points import folder, outcome
from zowarmup.common.messages.values import Tier
from zowarmup.common.settings.run import Model
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
    "fedspzo": {"algorithm": "fedspzo", "cut": 1, "probes": (2, 3)},
    "fedspzo, nested": {"algorithm": "fedspzo", "cut": 1, "probes": (2, 3), "split": "nested"},
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
        model=Model(name="hf:small" if "cut" in ALGORITHMS.get(name, {}) else "mlp"),
    )
    calm = outcome(folder / "calm", TRIO, settings=settings)
    assert (calm.version, calm.lives, calm.lost) == (30, 1, 0)
    places = random.Random(5).sample(range(1, len(calm.places) * 2 // 3), 12)
    crashed = outcome(folder / "crashed", TRIO, places, Coordinator, settings, backend=backend)
    assert crashed.lives >= 6
    assert (crashed.digest, crashed.version, crashed.lost) == (calm.digest, calm.version, 0)


class Late(Client):
    """Comes some rounds after the first one, which whitened what the head reads."""

    async def take_part(self, server: Life) -> None:
        await server.until(lambda state: state.version >= 9)
        await super().take_part(server)


def test_a_client_that_comes_late_has_whitened_features_from_its_first_snapshot(folder: Path) -> None:
    plain = run_file(PAIR)
    settings = replace(plain, zeroth_order=changed(plain.zeroth_order, **ALGORITHMS["whitened"]))
    create(folder / "server", settings)
    late = Late("low-9", Tier.LOW)
    clients = [*(Client(name, tier) for name, tier in PAIR.items()), late]

    async def run() -> str:
        stores = files(folder / "server")
        try:
            server = Life.start(stores)
            await asyncio.wait_for(live(server, clients), 60)
            return server.coordinator.state.digest
        finally:
            stores.log.close()

    digest = asyncio.run(run())
    assert [client.replica and client.replica.digest().hex() for client in clients] == [digest] * 3
    assert late.replica is not None and late.acknowledged
    rows = late.replica.layout.views(late.replica.weights)["head.whitening"]
    assert rows[0].any() and (rows[2:] != 0).any(axis=1).all()
