"""An algorithm that lives outside the package: named in a run file, it trains, once a device's owner allows its code."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_methods import NAMES, run_file
from zowarmup.common.algorithms import settings_class
from zowarmup.common.messages.values import Phase
from zowarmup.server.store.archive import open_archive
from zowarmup.server.store.fsck import check

NAME = "majority_vote:MajorityVote"
PLUGINS = Path(__file__).parents[2] / "examples/plugins"
ROUNDS = 5


def test_it_trains_and_all_replicas_are_equal(
    fleet: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(PLUGINS))
    settings: Any = settings_class("zeroth_order", NAME)
    rules = settings(method=NAME, rounds=ROUNDS, clients_per_round=len(NAMES), quorum=1.0, probes=8, rate=0.02)
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
