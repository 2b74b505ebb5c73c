"""An algorithm and a task that live outside the package: named in a run file, they train, once a device's owner allows their
code."""

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.algorithms import warmup_settings
from tests.e2e.test_algorithms import NAMES, run_file
from zowarmup.common.algorithms import settings_class
from zowarmup.common.messages.values import Phase
from zowarmup.common.settings.run import Evaluation, Model, Server
from zowarmup.server.store.archive import open_archive
from zowarmup.server.store.fsck import check

NAME = "majority_vote:MajorityVote"
PLUGINS = Path(__file__).parents[2] / "examples/plugins"
ROUNDS = 5
TASK = "regression:Regression"
FEATURES = 5


def test_it_trains_and_all_replicas_are_equal(
    fleet: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(PLUGINS))
    settings: Any = settings_class("zeroth_order", NAME)
    rules = settings(algorithm=NAME, rounds=ROUNDS, clients_per_round=len(NAMES), quorum=1.0, probes=8, rate=0.02)
    voting = fleet()
    monkeypatch.setitem(voting.processes._environment, "PYTHONPATH", str(PLUGINS))
    voting.lead(replace(run_file(), zeroth_order=rules))
    state = ("--state-dir", str(tmp_path / "stranger"), "--connect-timeout", "60")
    stranger = voting.run_once("zowarmup.client.main", "--server", voting.address, "--data", "digits:1/4", *state)
    assert stranger.returncode != 0
    refusal = f"this device does not run the code of algorithm {NAME}: its owner can allow it with --allow-model {NAME}"
    assert refusal in stranger.stderr
    for shard, (client, tier) in enumerate(NAMES.items(), 1):
        voting.join(client, f"digits:{shard}/{len(NAMES)}", tier, "--allow-model", NAME)
    status = voting.finished(len(NAMES))
    assert status.replicas.agree == tuple(NAMES), "the coordinator's and every client's digest are equal"
    assert status.version == 1 + ROUNDS
    archive = open_archive(voting.data_dir)
    steps = [step for commit in archive.history.since(1, 1 + ROUNDS) or () for step in commit.steps]
    assert len(steps) == ROUNDS, "one a round, along directions that all share"
    assert archive.state.run_file.zeroth_order == rules
    voting.processes.stop()
    report = check(voting.data_dir)
    assert report.problems == [] and report.notes == [], "what was committed is what its code makes of what was sent"
    assert archive.state.phase is Phase.FINISHED


def table(path: Path, examples: int, seed: int) -> Path:
    """Numbers, and one that follows from them but for some noise."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((examples, FEATURES))
    y = 2 * np.tanh(x[:, 0] - x[:, 1]) + x[:, 2] + 0.1 * random.standard_normal(examples)
    names = ",".join(["load", *(f"x{place}" for place in range(FEATURES))])
    np.savetxt(path, np.column_stack([y, x]), delimiter=",", header=names, comments="", fmt="%.6f")
    return path


def test_a_task_trains_and_all_replicas_are_equal(
    fleet: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Regression on a table: the error falls, in the warm-up and after it."""
    monkeypatch.setenv("PYTHONPATH", str(PLUGINS))
    running, held_out = fleet(), table(tmp_path / "held-out.csv", 200, 0)
    run = run_file(probes=8, head_projections=8, rate=0.2)
    running.lead(
        replace(
            run,
            model=Model(name="mlp", task=TASK),
            warmup=warmup_settings(
                rounds=2, clients_per_round=1, quorum=1.0, learn_deadline=False, epochs=1, rate=0.02
            ),
            zeroth_order=replace(run.zeroth_order, rounds=40),
            evaluation=Evaluation(data=f"csv:{held_out},target=load", every=6),
        )
    )
    data = [f"csv:{table(tmp_path / f'{client}.csv', 150, seed)},target=load" for seed, client in enumerate(NAMES, 1)]
    state = ("--state-dir", str(tmp_path / "stranger"), "--connect-timeout", "60")
    stranger = running.run_once("zowarmup.client.main", "--server", running.address, "--data", data[0], *state)
    assert stranger.returncode != 0
    refusal = f"this device does not run the code of task {TASK}: its owner can allow it with --allow-model {TASK}"
    assert refusal in stranger.stderr
    labelled = ("--data", "digits:1/4", "--allow-model", TASK, "--tier", "low", *state)
    other = running.run_once("zowarmup.client.main", "--server", running.address, *labelled)
    assert other.returncode != 0 and "the examples of digits:1/4 are 1 x 8 x 8" in other.stderr
    for (client, tier), spec in zip(NAMES.items(), data, strict=True):
        running.join(client, spec, tier, "--allow-model", TASK)
    status = running.finished(len(NAMES))
    assert status.replicas.agree == tuple(NAMES), "the coordinator's and every client's digest are equal"
    archive = open_archive(running.data_dir)
    assert [metric.name for metric in status.metrics] == ["mean_absolute_error", "r_squared"]
    first, pivot, last = archive.history.versions[0].evaluation, status.pivot_evaluation, status.evaluation
    assert first is not None and pivot is not None and last is not None
    errors = [found.metrics["mean_absolute_error"] for found in (first, pivot, last)]
    assert errors[1] < 0.95 * errors[0] and errors[2] < 0.8 * errors[1], "it falls in the warm-up, and after it"
    assert errors[2] < 0.5 * archive.state.program.baseline.metric, "and is far below that of always telling the mean"
    running.processes.stop()
    report = check(running.data_dir)
    assert report.problems == [] and report.notes == [], "what was committed is what its code makes of what was sent"


FAULTY = """
from dataclasses import dataclass

from majority_vote import MajorityVote, MajorityVoteSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class FaultySettings(MajorityVoteSettings):
    def build(self, layout, pool_seed=0, warmup=None):
        return Faulty(self, layout)


class Faulty(MajorityVote):
    Settings = FaultySettings

    def aggregate(self, start, contributions):
"""


def test_an_algorithm_whose_code_fails_pauses_the_run_which_goes_on_once_it_is_mended(
    fleet: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code, name = tmp_path / "faulty.py", "faulty:Faulty"
    code.write_text(f"{FAULTY}        return start.learning['rate']\n")
    monkeypatch.syspath_prepend(str(PLUGINS))
    monkeypatch.syspath_prepend(str(tmp_path))
    settings: Any = settings_class("zeroth_order", name)
    rules = settings(algorithm=name, rounds=ROUNDS, clients_per_round=len(NAMES), quorum=1.0, probes=8, rate=0.02)
    voting = fleet()
    monkeypatch.setitem(voting.processes._environment, "PYTHONPATH", f"{PLUGINS}:{tmp_path}")
    voting.lead(replace(run_file(), zeroth_order=rules, server=Server(abandoned_limit=2)))
    for shard, (client, tier) in enumerate(NAMES.items(), 1):
        voting.join(client, f"digits:{shard}/{len(NAMES)}", tier, "--allow-model", name)
    place = "AttributeError: 'Start' object has no attribute 'learning' (" + f"{code}"[-80:] + ", line 17)"
    fault = f"2 rounds in a row were abandoned, the last one because of algorithm {name}: {place}; correct the algorithm's code"
    assert voting.until(lambda status: status.paused != "", 120.0, "a pause").paused.startswith(fault)
    for again in ("again", "mended"):
        voting.signal("server" if again == "again" else "again", signal.SIGKILL)
        if again == "mended":
            code.write_text(f"{FAULTY}        return super().aggregate(start, contributions)\n")
        voting.lead(None, again)
        status = voting.until(lambda status: status.paused != "", 60.0, "the coordinator's return")
        assert status.paused.startswith(fault) and status.version == 1
    done = voting.run_once(
        "zowarmup.cli.main", "resume", "--server", voting.address, "--data-dir", str(voting.data_dir)
    )
    assert done.returncode == 0, done.stderr
    assert voting.finished(len(NAMES)).version == 1 + ROUNDS
