"""`zowarmup fleet` (`zowarmup.cli.lab`): clients that share a process are the same clients, to the last bit, as those that have one each."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.algorithms import changed, warmup_settings, zeroth_order_settings
from tests.e2e.conftest import ENDLESS, wait_until
from zowarmup.common.messages.values import Phase
from zowarmup.common.settings.run import Evaluation, Model, RunFile

CLIENTS = 6
RUN = RunFile(
    name="fleet",
    seed=5,
    draws="seed",
    model=Model(name="mlp"),
    warmup=warmup_settings(rounds=2, clients_per_round=2, quorum=1.0, learn_deadline=False),
    zeroth_order=zeroth_order_settings(
        rounds=6, clients_per_round=5, quorum=1.0, learn_deadline=False, probes=8, head_projections=4
    ),
    evaluation=Evaluation(data="digits:test", every=100),
)
LONG = replace(RUN, zeroth_order=replace(RUN.zeroth_order, rounds=ENDLESS))
# Everyone, since whoever has arrived when the first round opens decides who is drawn.
BOTH = replace(RUN, warmup=changed(RUN.warmup, "heterofl", clients_per_round=CLIENTS))
DATA = "digits,alpha=0.5"
SHAKY = """
[[profile]]
name = "shaky"
slowdown = 1.5
up_kbit_s = 500.0
drop_out = 0.1
away_s = 0.2
[[profile]]
name = "host"
"""


def command(fleet, *options: str) -> list[str]:  # type: ignore[no-untyped-def]
    shared = ["fleet", "--server", fleet.address, "--clients", str(CLIENTS), "--high", "2", "--data", DATA]
    return [*shared, "--state", str(fleet.folder / "state"), *options]


@pytest.mark.parametrize("run", [RUN, BOTH], ids=["fedavg", "heterofl"])
def test_a_fleet_gives_the_bits_of_separate_processes(run: RunFile, fleet: Callable) -> None:  # type: ignore[type-arg]
    apart = fleet()
    apart.lead(run)
    for number in range(1, CLIENTS + 1):
        apart.join(f"fleet-{number}", f"digits:{number}/{CLIENTS},alpha=0.5", "high" if number <= 2 else "low")
    expected = apart.finished(CLIENTS)

    together = fleet()
    together.lead(run)
    together.processes.start("fleet", "zowarmup.cli.main", command(together))
    found = together.finished(CLIENTS)
    assert found.digest == expected.digest
    assert found.replicas.agree == expected.replicas.agree
    assert together.code("fleet", 20) == 0
    assert "6 clients of 6 with the run's own digest" in together.logged("fleet")


def test_a_fleet_leaves_comes_back_and_outlives_its_coordinator(fleet: Callable) -> None:  # type: ignore[type-arg]
    """Two processes of it; Ctrl-C, the same members again, on links that break, a coordinator killed in between."""
    members = fleet()
    members.lead(LONG)
    first = subprocess.Popen([sys.executable, "-m", "zowarmup.cli.main", *command(members, "--workers", "2")])
    try:
        members.until(lambda status: status.phase is Phase.ZEROTH_ORDER and status.round > 4, 60, "some rounds")
        first.send_signal(signal.SIGINT)
        assert first.wait(20) == 130
    finally:
        first.kill()
        first.wait()
    members.until(lambda status: not any(client.connected for client in status.clients), 20, "all to have left")

    (members.folder / "devices.toml").write_text(SHAKY)
    options = ["--workers", "2", "--profile", str(members.folder / "devices.toml"), "--verbose"]
    members.processes.start("again", "zowarmup.cli.main", command(members, *options))
    members.until(lambda status: any(client.connected for client in status.clients), 60, "them to come back")
    members.signal("server", signal.SIGKILL)
    members.lead(name="server-2")
    wait_until(lambda: "has dropped out of round" in members.logged("again"), 60, "a device to drop out")
    members.until(lambda _: True, 60, "the coordinator to answer again")
    members.end_run()
    status = members.finished(CLIENTS)
    assert sorted(client.name for client in status.clients) == [f"fleet-{n}" for n in range(1, CLIENTS + 1)]
    assert members.code("again", 20) == 0


def test_work_that_fails_for_one_client_ends_neither_the_others_nor_the_process(fleet: Callable) -> None:  # type: ignore[type-arg]
    members = fleet()
    name = "tests.client.failing_models:Failing"
    model = Model(name=name)
    members.lead(replace(RUN, model=model), "server", "--model-cache", str(members.folder / "model-cache"))
    environment = {**os.environ, "FAILS": "key once", "FAILED": str(members.folder / "failed")}
    ran = subprocess.run(
        [sys.executable, "-m", "zowarmup.cli.main", *command(members, "--allow-model", name)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "6 clients of 6 with the run's own digest" in ran.stdout
    assert "nothing to contribute: model tests.client.failing_models:Failing: KeyError: 'aux_loss'" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "abstains: model tests.client.failing_models:Failing: KeyError (" in members.logged("server")
