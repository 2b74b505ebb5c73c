"""`zowarmup plan` against what it plans: each run is planned, then carried out by real processes, and laid beside it."""

import json
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.algorithms import changed, warmup_settings, zeroth_order_settings
from zowarmup.cli.message_sizes import OVERHEAD, WINDOWS
from zowarmup.cli.plan import PING_BYTES, PING_S
from zowarmup.common.settings.run import Evaluation, Model, RunFile, Server
from zowarmup.lab.demo.settings import to_toml
from zowarmup.lab.processes import free_port

BYTES, MEMORY = 0.05, 0.15
Sums = Counter[tuple[str, str]]
DIGITS = RunFile(
    name="digits",
    seed=3,
    draws="seed",
    model=Model(name="mlp"),
    warmup=warmup_settings(rounds=3, clients_per_round=1, learn_deadline=False),
    # Three of the four are drawn for a round, so that some only listen.
    zeroth_order=zeroth_order_settings(
        rounds=40,
        clients_per_round=3,
        minimum_clients=3,
        learn_deadline=False,
        train="all",
        probes=16,
        head_projections=32,
        whitening=0,
    ),
    evaluation=Evaluation(data="digits:test", every=100),
)
# All are drawn: who is drawn for the one round that whitens would be chance, and no mean of many.
WHITENED = replace(
    DIGITS,
    zeroth_order=zeroth_order_settings(rounds=10, clients_per_round=4, minimum_clients=4, learn_deadline=False),
)
BOTH = replace(
    DIGITS,
    warmup=changed(DIGITS.warmup, "heterofl", clients_per_round=4),
    zeroth_order=replace(DIGITS.zeroth_order, rounds=0),
)
RESNET18 = RunFile(
    name="resnet18",
    model=Model(name="resnet18", norm="batch"),
    # Three rounds: memory has then been as large as it gets.
    warmup=warmup_settings(rounds=3, clients_per_round=1, learn_deadline=False, epochs=1, batch=16, rate=0.01),
    zeroth_order=zeroth_order_settings(
        rounds=2,
        clients_per_round=2,
        quorum=1.0,
        learn_deadline=False,
        train="all",
        probes=2,
        rate=0.003,
        micro_batch=16,
    ),
    evaluation=Evaluation(data="digits:test", every=100),
)


def planned(fleet: Any, run: RunFile, *options: str) -> dict[str, Any]:
    file = fleet.folder / "planned.toml"
    file.write_text(to_toml(run))
    done = fleet.run_once("zowarmup.cli.main", "plan", str(file), "--json", *options, seconds=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def compare(plan: dict[str, Any], fleet: Any, metrics: str, members: int, began: float) -> None:
    """What the run has carried and taken, by tier and direction, is what was planned."""
    status = fleet.finished(members, seconds=180)
    assert not status.replicas.differ
    payload: Sums = Counter()
    for row in status.traffic:
        payload[row.direction, str(row.tier or "none")] += row.payload_bytes
    wire: Sums = Counter()
    fedavg: Counter[str] = Counter()
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=10) as answer:
        for family in text_string_to_metric_families(answer.read().decode()):
            for sample in family.samples:
                if sample.name == "zowarmup_wire_bytes_total":
                    wire[sample.labels["direction"], sample.labels["tier"]] += int(sample.value)
                elif sample.name == "zowarmup_fedavg_bytes_total":
                    fedavg[sample.labels["direction"]] += int(sample.value)
    planned = [row for row in plan["traffic"] if row["kind"] != OVERHEAD]
    assert summed(planned) == about(payload, BYTES)
    # Connections are pinged while nothing is said, and how long that is on a busy machine nobody can plan. Nor in how many
    # frames a large message goes, and how often its reader opens the window: that is as the two sides keep up.
    pings = 2 * PING_BYTES * members * (time.monotonic() - began) / PING_S
    for (direction, tier), count in summed(plan["traffic"]).items():
        carried = max(payload["up", tier], payload["down", tier])
        allowed = pings + BYTES * count + WINDOWS * carried / 2**20
        assert count == pytest.approx(wire[direction, tier], abs=allowed), (direction, tier)
    for measured in fedavg.values():  # how often each tier was drawn was chance, how often both were was not
        assert sum(plan["fedavg_bytes"].values()) == measured
    peaks: dict[str, int] = {}
    for client in status.clients:
        peaks[client.tier] = max(client.peak_memory_bytes, peaks.get(client.tier, 0))
    assert plan["memory_bytes"] == about(peaks, MEMORY)


def summed(rows: list[dict[str, Any]]) -> Sums:
    sums: Sums = Counter()
    for row in rows:
        sums[row["direction"], row["tier"]] += row["bytes"]
    return sums


def about(measured: Any, share: float) -> Any:
    return pytest.approx({key: value for key, value in measured.items() if value}, rel=share)


@pytest.mark.parametrize("run", [DIGITS, WHITENED, BOTH], ids=["zowarmup", "whitened", "heterofl alone"])
def test_digits_cost_what_was_planned(run: RunFile, fleet: Callable) -> None:  # type: ignore[type-arg]
    real = fleet()
    plan = planned(real, run, "--high", "1", "--low", "3", "--examples", "360")
    metrics, began = f"127.0.0.1:{free_port()}", time.monotonic()
    real.lead(replace(run, server=Server(metrics_address=metrics)))
    for shard, name in enumerate(("high-1", "low-1", "low-2", "low-3"), 1):
        real.join(name, f"digits:{shard}/4", name.split("-")[0])
    compare(plan, real, metrics, 4, began)


def test_resnet18_costs_what_was_planned(fleet: Callable, tmp_path: Path) -> None:  # type: ignore[type-arg]
    chance = np.random.default_rng(1)
    for part, count in (("high", 32), ("low", 32), ("held-out", 10)):
        images = chance.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        np.savez(tmp_path / f"{part}.npz", x=images, y=np.arange(count) % 10)
    run = replace(RESNET18, evaluation=Evaluation(data=f"npz:{tmp_path / 'held-out.npz'}", every=100))
    real = fleet()
    # On the link that it is carried out on: a slow one's long rounds would be planned with pings.
    loopback = ("--up", "10000Mbit", "--down", "10000Mbit")
    plan = planned(real, run, "--high", "1", "--low", "1", "--examples", "32", *loopback)
    metrics, began = f"127.0.0.1:{free_port()}", time.monotonic()
    real.lead(replace(run, server=Server(metrics_address=metrics)))
    for tier in ("high", "low"):
        real.join(tier, f"npz:{tmp_path / tier}.npz", tier)
    compare(plan, real, metrics, 2, began)
