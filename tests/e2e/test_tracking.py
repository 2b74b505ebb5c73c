"""A run written to a real MLflow server, to a database of MLflow's and to TensorBoard, through an outage and a kill -9, and read back by
their own means (zowarmup.server.tracking.mlflow_tracker, zowarmup.server.tracking.tensorboard_tracker): every version is there, and once.

The packages are in .build/tracking (`make tracking`), which takes all else from .venv; the processes here are of that Python.
"""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.e2e.conftest import ENDLESS, Fleet, wait_until
from zowarmup.cli.session.status import payload
from zowarmup.common.messages.values import Tier
from zowarmup.common.settings.run import Evaluation, Model, RunFile
from zowarmup.common.settings.tracking import Tracking
from zowarmup.lab.processes import free_port

REPOSITORY = Path(__file__).parents[2]
TOOLS = REPOSITORY / ".build" / "tracking"
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
WARM_UP, EVERY = 2, 4


@pytest.fixture(scope="module")
def python() -> str:
    """The Python that has MLflow and TensorBoard."""
    if not (TOOLS / "ready").exists():
        assert not os.environ.get("CI"), "continuous integration must have made it: make .build/tracking/ready"
        pytest.skip("there is no MLflow in .build/tracking: make tracking")
    return str(TOOLS / "bin" / "python")


@contextmanager
def mlflow_server(python: str, folder: Path, port: int) -> Iterator[Callable[..., dict[str, Any]]]:
    """A server, as its makers start it; gives what calls its REST API."""
    command = [
        python,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        f"sqlite:///{folder}/server.db",
        "--workers",
        "1",
    ]
    command += ["--host", "127.0.0.1", "--port", str(port), "--artifacts-destination", str(folder / "artifacts")]

    def ask(call: str, **content: Any) -> dict[str, Any]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/2.0/mlflow/{call}",
            json.dumps(content).encode() if call.endswith("search") else None,
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def up() -> bool:
        try:
            return bool(ask("experiments/search", max_results=10))
        except (OSError, urllib.error.HTTPError):
            assert process.poll() is None, log.read_text()
            return False

    log = folder / "mlflow.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, **QUIET}, start_new_session=True, cwd=folder
        )
    try:
        wait_until(up, 60, "the MLflow server")
        yield ask
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def output_of(python: str, *arguments: str) -> str:
    environment = {**os.environ, **QUIET, "PYTHONPATH": str(REPOSITORY / ".build" / "python")}
    done = subprocess.run([python, *arguments], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_run_is_in_its_trackers_whole_and_once_whatever_happens_to_them_and_to_it(
    fleet: Callable[..., Fleet], python: str, tmp_path: Path
) -> None:
    port = free_port()
    run = RunFile(
        name="tracked run",
        seed=3,
        model=Model(name="mlp"),
        warmup=warmup_settings(rounds=WARM_UP, clients_per_round=1, learn_deadline=False, epochs=1),
        zeroth_order=zeroth_order_settings(
            rounds=ENDLESS, clients_per_round=2, minimum_clients=2, quorum=1.0, learn_deadline=False
        ),
        evaluation=Evaluation(data="digits:test", every=EVERY),
        tracking=Tracking(mlflow=f"http://127.0.0.1:{port}", tensorboard=str(tmp_path / "tb")),
    )
    made = fleet(python)
    made.lead(run)
    made.join("high", "digits:1/4", "high")
    # No server is there yet: the run goes on, and the log says so once.
    made.until(lambda status: status.version >= WARM_UP, 60, "the warm-up")
    wait_until(lambda: "tracking.mlflow: nothing can be delivered" in made.logged("server"), 60, "the first failure")
    with mlflow_server(python, tmp_path, port) as ask:
        wait_until(lambda: "tracking.mlflow answers again" in made.logged("server"), 120, "the second delivery")
        assert made.logged("server").count("nothing can be delivered") == 1
        made.join("low", "digits:2/4", "low")
        made.until(lambda status: status.version >= WARM_UP + 20, 60, "some rounds")
        made.signal("server", signal.SIGKILL)
        made.lead(None, "server again", "--exit-when-finished")
        made.until(lambda status: status.version >= WARM_UP + 60, 60, "some more")
        made.end_run()
        status = made.finished(2)
        assert made.code("server again", 120) == 0
        assert "not delivered" not in made.logged("server again")

        (experiment,) = (e for e in ask("experiments/search", max_results=10)["experiments"] if e["name"] == "zowarmup")
        (found,) = ask("runs/search", experiment_ids=[experiment["experiment_id"]])["runs"]
        kept = {
            metric["key"]: [
                (int(point["step"]), point["value"])
                for point in ask(
                    f"metrics/get-history?run_id={found['info']['run_id']}&metric_key={metric['key']}&max_results=25000"
                )["metrics"]
            ]
            for metric in found["data"]["metrics"]
        }
    last = status.version
    every = list(range(1, last + 1))
    evaluated = sorted({*range(0, last + 1, EVERY), WARM_UP, last})
    assert [step for step, _ in kept["participants"]] == [step for step, _ in kept["contributions"]] == every
    assert dict(kept["participants"]) == {v: 1 if v <= WARM_UP else 2 for v in every}
    assert [step for step, _ in kept["accuracy"]] == [step for step, _ in kept["loss"]] == evaluated
    assert dict(kept["accuracy"])[last] == status.value(status.evaluation)  # type: ignore[arg-type]
    for direction in ("up", "down"):
        for tier in Tier:
            curve = [value for _, value in kept[f"{direction}link_bytes/{tier}"]]
            assert curve == sorted(curve) and 0 < curve[-1] <= payload(status.traffic, direction, tier)
    assert [step for step, _ in kept["uplink_bytes/high"]] == every
    assert found["info"]["status"] == "FINISHED" and found["info"]["run_name"] == "tracked run"
    tags = {tag["key"]: tag["value"] for tag in found["data"]["tags"]}
    assert (tags["zowarmup.digest"], tags["zowarmup.version"]) == (status.digest, str(last))
    assert (tags["zowarmup.algorithm"], tags["zowarmup.name"]) == ("zowarmup", "tracked run")
    parameters = {one["key"]: one["value"] for one in found["data"]["params"]}
    assert (parameters["warmup.rounds"], parameters["model.name"], parameters["seed"]) == (str(WARM_UP), "mlp", "3")
    assert not any(name.startswith(("server.", "tracking.")) for name in parameters)

    (folder,) = (tmp_path / "tb").iterdir()
    assert folder.name == f"tracked_run-{status.run_id[:8]}" and len(list(folder.iterdir())) == 2
    seen = json.loads(output_of(python, str(REPOSITORY / "tests" / "tracking" / "scalars.py"), str(folder)))
    assert set(seen["scalars"]) == set(kept)
    for name, points in seen["scalars"].items():
        assert [step for step, _ in points] == [step for step, _ in kept[name]], name
        assert [value for _, value in points] == pytest.approx([value for _, value in kept[name]]), name
    ((_, parameters_shown),) = seen["texts"]["run file"]
    assert "| warmup.rounds | 2 |" in parameters_shown
    ((step, ending),) = seen["texts"]["ending"]
    assert step == last and status.digest in ending and ending.startswith("finished")


def test_a_tracker_that_is_named_later_is_given_all_of_the_run_at_the_next_start(
    fleet: Callable[..., Fleet], python: str, tmp_path: Path
) -> None:
    """Though the run is over: into a database of MLflow's, without a server."""
    run = RunFile(
        name="tracked later",
        seed=3,
        model=Model(name="mlp"),
        warmup=warmup_settings(rounds=WARM_UP, clients_per_round=1, learn_deadline=False, epochs=1),
        zeroth_order=zeroth_order_settings(rounds=4, clients_per_round=1, quorum=1.0, learn_deadline=False),
        evaluation=Evaluation(data="digits:test", every=EVERY),
    )
    last = WARM_UP + run.zeroth_order.rounds
    made = fleet(python)
    made.lead(run, "server", "--exit-when-finished")
    made.join("high", "digits:1/4", "high")
    assert [made.code(name, 120) for name in ("server", "high")] == [0, 0]
    made.lead(replace(run, tracking=Tracking(mlflow=f"sqlite:///{tmp_path}/own.db")), "server later")

    own: dict[str, list[int]] = {}

    def written() -> bool:
        assert "server later" not in {ended.name for ended in made.processes.ended()}, made.logged("server later")
        own.update(steps_in(tmp_path / "own.db"))
        return bool(own)

    wait_until(written, 120, "the database")
    every = list(range(1, last + 1))
    for name in ("participants", "contributions", "uplink_bytes/high", "downlink_bytes/high"):
        assert own[name] == every, name
    assert own["accuracy"] == own["loss"] == [0, WARM_UP, EVERY, last]


def steps_in(database: Path) -> dict[str, list[int]]:
    """Of a finished run in a database of MLflow's: the steps of each metric. Nothing where none is there yet."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as opened:
            ((run, status),) = opened.execute("SELECT run_uuid, status FROM runs").fetchall()
            points = opened.execute("SELECT key, step FROM metrics WHERE run_uuid = ? ORDER BY step", (run,)).fetchall()
    except (sqlite3.Error, ValueError):
        return {}
    found = defaultdict(list)
    for name, step in points:
        found[name].append(step)
    return found if status == "FINISHED" else {}


def test_what_is_missing_or_no_place_is_refused_at_the_start(fleet: Callable[..., Fleet], tmp_path: Path) -> None:
    """Of the everyday Python, which has none of them."""
    made = fleet()
    run = RunFile(
        name="tracked",
        model=Model(name="mlp"),
        warmup=warmup_settings(rounds=1, clients_per_round=1),
        zeroth_order=zeroth_order_settings(rounds=1, clients_per_round=1),
        evaluation=Evaluation(data="digits:test"),
    )
    for number, (tracking, said) in enumerate(
        (
            (
                Tracking(mlflow="http://127.0.0.1:1"),
                "tracking.mlflow = 'http://127.0.0.1:1': mlflow is not installed here",
            ),
            (Tracking(tensorboard="tb"), "tracking.tensorboard = 'tb': tensorboard is not installed here"),
        )
    ):
        name = f"server-{number}"
        made.lead(replace(run, tracking=tracking), name)
        assert made.code(name, 60) == 1
        assert f"{said}: pip install 'zowarmup[tracking]'" in made.logged(name)
