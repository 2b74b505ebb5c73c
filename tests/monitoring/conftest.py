"""One run for all tests of this folder: about half a minute in which a stranger calls, the low tier is killed and comes back,
and then the coordinator.

What happened when is noted in `Recorded`; the tests ask the Prometheus that watched.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.monitoring.live import Fleet, Prometheus, fleet, prometheus
from zowarmup.common.settings.run import Evaluation, Model, RunFile

HIGH, LOW = 2, 2
RUN = RunFile(
    name="watched",
    seed=3,
    draws="seed",
    model=Model(name="mlp"),
    warmup=warmup_settings(rounds=3, clients_per_round=HIGH, quorum=1.0, learn_deadline=False, epochs=1),
    zeroth_order=zeroth_order_settings(
        rounds=300, clients_per_round=HIGH + LOW, quorum=1.0, learn_deadline=False, probes=16, head_projections=16
    ),
    evaluation=Evaluation(data="digits:test", every=10),
)


@dataclass
class Recorded:
    """A run that is over, and the Prometheus that has watched it, still there to be asked. `moments`: unix seconds of
    what was done to it, and of the alerts that it led to."""

    prometheus: Prometheus
    fleet: Fleet
    start: float
    end: float = 0.0
    moments: dict[str, float] = field(default_factory=dict)


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    folder = tmp_path_factory.mktemp("watched")
    with fleet(folder, RUN, HIGH, LOW) as devices, prometheus(folder, devices.metrics) as watching:
        found = Recorded(watching, devices, time.time())
        low = [name for name, tier in devices.tiers.items() if tier == "low"]
        version = f'zowarmup_model_version{{run="{RUN.name}"}}'

        def until(expr: str, seconds: float = 60.0) -> float:
            return watching.until(expr, seconds, devices.sound)

        def firing(alert: str) -> str:
            return f'ALERTS{{alertname="{alert}", alertstate="firing", run="{RUN.name}"}}'

        devices.lead()
        for name in devices.tiers:
            devices.join(name)
        until(f"{version} >= {RUN.warmup.rounds + 15}")

        devices.stranger()
        for name in low:
            devices.kill(name)
        found.moments["low tier killed"] = time.time()
        found.moments["ZowarmupTierLost"] = until(firing("ZowarmupTierLost"))
        for name in low:
            devices.join(name, " again")
        until(f"{version} >= {RUN.warmup.rounds + 30}")

        devices.kill("coordinator")
        found.moments["coordinator killed"] = time.time()
        found.moments["ZowarmupCoordinatorDown"] = until(firing("ZowarmupCoordinatorDown"))
        devices.lead("coordinator again")
        until(f'zowarmup_phase{{run="{RUN.name}", phase="finished"}} == 1')
        until(f"zowarmup_evaluated_version == {RUN.warmup.rounds + RUN.zeroth_order.rounds}")
        time.sleep(2)
        found.end = time.time()
        yield found
