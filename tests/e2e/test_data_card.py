"""Devices whose labels or inputs mean something else than the run's, against a real coordinator: each is told why, by the
client and by the doctor alike, and the coordinator is told the same of its held-out set."""

import json
import signal
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from tests.algorithms import warmup_settings, zeroth_order_settings
from zowarmup.common.settings.run import Evaluation, Model, RunFile

from .conftest import Fleet

RUN = RunFile(
    name="animals",
    model=Model(name="mlp"),
    warmup=warmup_settings(rounds=0),
    zeroth_order=zeroth_order_settings(rounds=2, clients_per_round=1, minimum_clients=1, probes=2, head_projections=2),
    evaluation=Evaluation(data="set below"),
)
ANIMALS = ["chat", "école", "zèbre"]


def folders(root: Path, names: list[str]) -> str:
    """Each class has a shade of its own."""
    for name in names:
        (root / name).mkdir(parents=True)
        shade = 80 * sorted(names, key=lambda n: unicodedata.normalize("NFC", n)).index(name)
        for copy in range(4):
            Image.new("L", (8, 8), shade + copy).save(root / name / f"{copy}.png")
    return f"folder:{root},channels=1"


def archive(path: Path, factor: float, first: int = 0) -> str:
    inputs = (factor * np.random.default_rng(0).random((30, 8, 8))).astype(np.float32)
    np.savez(path, x=inputs, y=first + np.arange(30) % 3)
    return f"npz:{path}.npz"


def asked(made: Fleet, state: Path, data: str) -> tuple[int, str, str]:
    """The client's exit code and last line, and what the doctor finds of the data."""
    here = ["--server", made.address, "--state-dir", str(state), "--data", data]
    found = made.run_once("zowarmup.client.main", "--doctor", "--json", *here)
    data_found = next(f for f in json.loads(found.stdout)["findings"] if f["check"] == "data")
    client = made.run_once("zowarmup.client.main", "--tier", "low", *here)
    assert (found.returncode == 1) == (data_found["verdict"] == "fail") == (client.returncode == 1)
    assert "Traceback" not in client.stderr
    return client.returncode, client.stderr.strip().splitlines()[-1], data_found["found"]


def test_folders_of_other_classes_are_refused_and_the_same_classes_in_another_spelling_are_not(
    fleet: Callable[[], Fleet], tmp_path: Path
) -> None:
    made = fleet()
    held_out = folders(tmp_path / "held-out", [unicodedata.normalize("NFD", name) for name in ANIMALS])
    made.lead(replace(RUN, evaluation=Evaluation(data=held_out)))
    made.until(lambda status: True, 240, "the coordinator to listen")
    for other, said in (
        (
            ["chat", "école", "loup"],
            "it has chat, loup, école, the run chat, zèbre, école; missing here: zèbre; unknown",
        ),
        (["Chat", "école", "zèbre"], "'Chat' for 'chat'"),
        (["chat", "école"], "missing here: zèbre: make a folder for each of them"),
    ):
        code, line, found = asked(made, tmp_path / "no", folders(tmp_path / other[0] / other[-1], other))
        assert (code, said in line, said in found) == (1, True, True), line
    code, line, found = asked(made, tmp_path / "yes", folders(tmp_path / "same", ANIMALS))
    assert (code, found) == (0, "12 examples"), line


def test_values_and_labels_in_another_unit_are_refused_on_either_side(
    fleet: Callable[[], Fleet], tmp_path: Path
) -> None:
    made = fleet()
    with_ones = replace(RUN, evaluation=Evaluation(data=archive(tmp_path / "ones", 1.0, first=1)))
    made.lead(with_ones, "ones")
    assert made.code("ones", 60) == 1
    assert "its labels go from 1 to 3 and class 0 never occurs: labels begin at 0" in made.logged("ones")

    made = fleet()
    held_out = archive(tmp_path / "held-out", 1.0)
    made.lead(replace(RUN, evaluation=Evaluation(data=held_out)))
    made.until(lambda status: True, 240, "the coordinator to listen")
    for data, said in (
        (archive(tmp_path / "bytes", 255.0), "the run's held-out ones from"),
        (archive(tmp_path / "small", 1 / 255), "store the values in the run's unit"),
        (archive(tmp_path / "from-1", 1.0, first=1), "they begin at 1; subtract 1 from each"),
    ):
        code, line, found = asked(made, tmp_path / "no", data)
        assert (code, said in line, said in found) == (1, True, True), line

    # The held-out set may not become another one under a run that goes on.
    made.signal("server", signal.SIGTERM)
    archive(tmp_path / "held-out", 255.0)
    made.lead(None, "again")
    assert made.code("again", 60) == 1
    assert "The run began with other data: restore what it began with" in made.logged("again")
