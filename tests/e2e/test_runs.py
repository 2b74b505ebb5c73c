"""`zowarmup runs` (zowarmup.cli.runs) beside real coordinators: which are there, how they stand, and one figure of them."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.e2e.conftest import ENDLESS, Fleet
from zowarmup.common.settings.run import Evaluation, Model, RunFile

RUN = RunFile(
    name="short",
    seed=1,
    model=Model(name="mlp"),
    warmup=warmup_settings(rounds=2, clients_per_round=1, learn_deadline=False, epochs=1),
    zeroth_order=zeroth_order_settings(rounds=4, clients_per_round=1, learn_deadline=False),
    evaluation=Evaluation(data="digits:test", every=2),
)
LONG = RunFile(
    name="long",
    model=Model(name="mlp"),
    warmup=warmup_settings(rounds=ENDLESS, clients_per_round=1),
    zeroth_order=zeroth_order_settings(rounds=1, clients_per_round=1),
    evaluation=Evaluation(data="digits:test"),
)


def test_the_runs_under_a_folder_are_listed_and_compared(fleet: Callable[[], Fleet], tmp_path: Path) -> None:
    over, open_ = fleet(), fleet()
    over.lead(RUN, "server", "--exit-when-finished")
    over.until(lambda status: bool(status.activity), 60, "the short run, which has to begin first")
    open_.lead(LONG)
    over.join("one", "digits:1/4", "high")
    status = open_.until(lambda status: bool(status.activity), 60, "the long run")
    assert over.code("server", 120) == 0

    def listed(*places: Path) -> dict[str, dict[str, Any]]:
        done = open_.run_once("zowarmup.cli.main", "runs", "--json", *map(str, places))
        assert done.returncode == 0, done.stderr
        return {run["folder"]: run for run in json.loads(done.stdout)}

    damaged = tmp_path / "archive" / "old"
    shutil.copytree(over.data_dir, damaged)
    (damaged / "ledger.sqlite").write_bytes(b"no ledger" * 1000)
    runs = listed(tmp_path)
    assert set(runs) == {str(over.data_dir), str(open_.data_dir), str(damaged)}
    short, long = runs[str(over.data_dir)], runs[str(open_.data_dir)]
    assert (short["name"], short["state"], short["phase"], short["version"]) == ("short", "finished", "finished", 6)
    assert short["address"] == "" and len(short["digest"]) == 32
    assert short["metric"] == "accuracy" and 0 < short["value"] <= 1 and short["loss"] > 0
    assert short["uplink_bytes"] > 0 < short["downlink_bytes"] and short["committed_at_s"] >= short["began_at_s"]
    assert (long["state"], long["address"], long["run_id"]) == ("running", open_.address, status.run_id)
    assert "ledger.sqlite cannot be opened as a ledger" in runs[str(damaged)]["problem"]
    assert set(listed(over.folder, over.data_dir)) == {str(over.data_dir)}

    figure = tmp_path / "runs.svg"
    done = open_.run_once("zowarmup.cli.main", "runs", str(tmp_path), "--plot", str(figure))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[:6] == ["name", "state", "phase", "version", "result", "uplink"]
    assert [line.split()[0] for line in lines[1:3]] == ["long", "short"], "the newest first"
    assert f"running at {open_.address}" in lines[1] and f"accuracy {100 * short['value']:.1f} %" in lines[2]
    assert f"{damaged} cannot be read" in lines[3]
    assert "</svg>" in figure.read_text()

    # A holder's lock goes with it, whatever it left in the file.
    open_.signal("server", signal.SIGKILL)
    assert json.loads((open_.data_dir / "lock").read_text())["address"] == open_.address
    killed = listed(open_.folder)[str(open_.data_dir)]
    assert (killed["state"], killed["address"]) == ("stopped", "")


def test_where_there_is_no_run_a_sentence_says_so(fleet: Callable[[], Fleet], tmp_path: Path) -> None:
    made = fleet()
    for arguments, code, said in (
        ((str(tmp_path),), 0, f"no run is under {tmp_path}: name the folder of its --data-dir"),
        ((str(tmp_path / "x"),), 1, f"{tmp_path / 'x'}: there is no such folder"),
        ((str(tmp_path), "--plot", "x.png"), 1, "--plot: no run has been evaluated yet"),
    ):
        done = made.run_once("zowarmup.cli.main", "runs", *arguments)
        assert done.returncode == code and said in done.stdout + done.stderr
