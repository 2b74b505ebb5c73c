"""Runs whose learning rate is far too high, with real processes: one finds a rate that it can learn at, one gives up.

What is decided when is in `tests/scenario/test_guard.py`, and crashes around returns in `test_crash_returns.py`.
"""

import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.e2e.conftest import wait_until
from zowarmup.common.messages.values import Phase
from zowarmup.common.settings.run import Evaluation, Guard, Model, RunFile
from zowarmup.server.store.archive import open_archive
from zowarmup.server.store.fsck import check

ROUNDS = 40
RUN = RunFile(
    name="too fast",
    seed=3,
    draws="seed",
    model=Model(name="mlp"),
    warmup=warmup_settings(rounds=2, clients_per_round=1, quorum=1.0, learn_deadline=False, epochs=1),
    zeroth_order=zeroth_order_settings(
        rounds=ROUNDS,
        clients_per_round=3,
        quorum=1.0,
        learn_deadline=False,
        train="all",
        probes=8,
        head_projections=4,
        whitening=0,
        step="raw",
        rate=2.0,
        clip=0.0,
    ),
    evaluation=Evaluation(data="digits:test", every=1),
    guard=Guard(rollbacks=30),
)
NAMES = {"high-1": "high", "low-1": "low", "low-2": "low"}


def started(made: Any, run: RunFile, *options: str) -> None:
    made.lead(run, "server", *options)
    for shard, (name, tier) in enumerate(NAMES.items(), 1):
        made.join(name, f"digits:{shard}/3,alpha=100", tier)


def test_a_run_whose_rate_is_too_high_goes_back_until_it_learns(fleet: Callable[[], Any]) -> None:
    """One device loses its power in the midst of it, and catches up over the returns that it missed."""
    made = fleet()
    started(made, RUN)
    made.until(lambda status: status.rollbacks >= 1, 60, "the first return")
    made.signal("low-2", signal.SIGKILL)
    made.join("low-2", "digits:3/3,alpha=100", "low", log="low-2-again")

    status = made.finished(len(NAMES))
    assert status.replicas.agree == tuple(NAMES)
    assert 1 <= status.rollbacks < 30 and status.rate_factor == 0.5**status.rollbacks
    assert status.version == status.final_version == 2 + ROUNDS + status.rollbacks
    assert status.evaluation is not None and status.pivot_evaluation is not None
    assert status.value(status.evaluation) > status.value(status.pivot_evaluation) + 0.1, "it has learnt"
    assert "learning rates are now 0.5 times those of the run file" in made.logged("server")
    assert f"{status.rollbacks} time" in made.run_once("zowarmup.cli.main", "status", "--server", made.address).stdout
    made.processes.stop()
    report = check(made.data_dir)
    assert (report.problems, report.notes, report.digest) == ([], [], status.digest)


def test_a_run_that_cannot_learn_gives_up_at_its_last_good_model(fleet: Callable[[], Any]) -> None:
    made = fleet()
    hopeless = replace(RUN, zeroth_order=replace(RUN.zeroth_order, rate=1000.0), guard=Guard(rollbacks=2))
    started(made, hopeless)
    assert made.code("server", 120) == 3, "it leaves by itself, whether or not it was told to leave at the end"
    for name in NAMES:
        assert made.code(name, 20) == 0
        assert "the run has given up: it went back 3 times" in made.logged(name)
        assert "(the run's own)" in made.logged(name)
    said = "the run gave up at version"
    assert said in made.logged("server") and "Traceback" not in made.logged("server")

    state = open_archive(made.data_dir).state
    pivot = state.pivot_version
    assert state.phase is Phase.FINISHED and pivot is not None and state.progress.good is not None
    assert state.digest == open_archive(made.data_dir).digest(pivot), "the model is the pivot's, which was good"
    assert state.evaluation is not None and state.evaluation.loss < 3
    assert check(made.data_dir).problems == []

    made.lead(None, "server-again", "--exit-when-finished")
    assert made.code("server-again", 60) == 3
    assert "this run has given up: it went back 3 times" in made.logged("server-again")

    made.lead(None, "server-served")
    wait_until(lambda: made.status() is not None, 60, "a status")
    status = made.status()
    assert status.gave_up.startswith("it went back 3 times") and status.activity == f"gave up: {status.gave_up}"
    shown = made.run_once("zowarmup.cli.main", "status", "--server", made.address)
    assert "gave up: it went back 3 times" in " ".join(shown.stdout.split())
    made.signal("server-served", signal.SIGTERM)
    assert made.code("server-served", 1) == 3
