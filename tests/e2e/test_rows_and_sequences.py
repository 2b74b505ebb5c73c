"""Measurements as a sensor has them, with real processes: tables of numbers, and sequences of several channels."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from tests.algorithms import warmup_settings, zeroth_order_settings
from zowarmup.common.settings.run import Evaluation, Model, RunFile

TIERS = {"high-1": "high", "low-1": "low", "low-2": "low"}
ROOMS = ("bathroom", "cellar", "kitchen")
# Temperature, relative humidity, air pressure, light: features of very different size, which only a common scale makes
# learnable.
CENTRES = np.array([[24.0, 0.80, 101_325, 300], [12.0, 0.75, 101_360, 5], [21.0, 0.45, 101_330, 500]])
SPREADS = np.array([1.5, 0.08, 25, 120])
NAMES = ("temperature", "humidity", "pressure", "light")


def run(model: str, held_out: str) -> RunFile:
    return RunFile(
        name=model,
        seed=3,
        draws="seed",
        model=Model(name=model),
        warmup=warmup_settings(
            rounds=4, clients_per_round=1, quorum=1.0, learn_deadline=False, epochs=3, batch=16, rate=0.1
        ),
        zeroth_order=zeroth_order_settings(
            rounds=12, clients_per_round=3, quorum=1.0, learn_deadline=False, probes=8, rate=0.1
        ),
        evaluation=Evaluation(data=held_out, every=100),
    )


def measured(chance: np.random.Generator, rooms: list[int]) -> NDArray[np.float64]:
    return CENTRES[rooms] + SPREADS * chance.standard_normal((len(rooms), len(NAMES)))


def table(path: Path, seed: int, rooms: list[int], order: tuple[int, ...] = (0, 1, 2, 3)) -> str:
    """A spec of 40 examples of each of some rooms, the columns in an order of the device's own."""
    chance, labels = np.random.default_rng(seed), rooms * 40
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["room", *(NAMES[place] for place in order)])
        for label, row in zip(labels, measured(chance, labels), strict=True):
            lines.writerow([ROOMS[label], *(f"{row[place]:.6g}" for place in order)])
    return f"csv:{path},label=room"


def shaken(path: Path, seed: int, kinds: list[int]) -> str:
    """A spec of 40 sequences of each of some kinds of movement: three axes, 64 steps, a frequency each, any phase."""
    chance, labels = np.random.default_rng(seed), np.array(kinds * 40)
    phase = chance.uniform(0, 2 * np.pi, (len(labels), 1, 3))
    angle = 2 * np.pi * np.array([2, 5, 11])[labels][:, None, None] * np.arange(64)[None, :, None] / 64 + phase
    x = 9.81 + 3 * np.sin(angle) + 0.5 * chance.standard_normal(angle.shape)
    np.savez(path, x=x.astype(np.float32), y=labels)
    return f"npz:{path},kind=sequence"


def specs_of_rows(folder: Path) -> tuple[str, list[str]]:
    held_out = table(folder / "held-out.csv", 0, [0, 1, 2])
    orders = [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)]
    rooms = [[0, 1, 2], [2, 1], [1, 0]]
    return held_out, [table(folder / f"{n}.csv", n + 1, rooms[n], orders[n]) for n in range(3)]


def specs_of_sequences(folder: Path) -> tuple[str, list[str]]:
    held_out = shaken(folder / "held-out.npz", 0, [0, 1, 2])
    return held_out, [shaken(folder / f"{n}.npz", n + 1, kinds) for n, kinds in enumerate(([0, 1, 2], [2, 1], [1, 0]))]


Specs = Callable[[Path], tuple[str, list[str]]]


@pytest.mark.parametrize(("model", "specs"), [("mlp", specs_of_rows), ("cnn1d", specs_of_sequences)])
def test_measurements_are_learnt(fleet: Callable, tmp_path: Path, model: str, specs: Specs) -> None:  # type: ignore[type-arg]
    """Warm-up and zeroth-order rounds with devices that lack classes and have columns in orders of their own: replicas are
    equal, and what is learnt of three classes is far above chance."""
    held_out, mine = specs(tmp_path)
    whole = fleet()
    whole.lead(run(model, held_out))
    for (name, tier), spec in zip(TIERS.items(), mine, strict=True):
        whole.join(name, spec, tier)
    status = whole.finished(len(TIERS))
    assert status.replicas.agree == tuple(TIERS)
    assert status.version == 16
    assert status.value(status.evaluation) > 0.85
    exported = whole.run_once(
        "zowarmup.cli.main", "export", "--data-dir", str(whole.data_dir), "--out", str(tmp_path / "out"), seconds=120
    )
    assert exported.returncode == 0, exported.stderr
    x, names = values(tmp_path / Path(held_out.partition(":")[2].partition(",")[0]).name)
    assert np.mean(predicted(tmp_path / "out.onnx", x) == names) == pytest.approx(
        status.value(status.evaluation), abs=1e-6
    )


def values(file: Path) -> tuple[NDArray[np.float64], list[str]]:
    """What was measured, as somebody has it who knows no more than the exported file, and the right answers."""
    if file.suffix == ".npz":
        with np.load(file) as archive:
            return archive["x"].transpose(0, 2, 1).astype(np.float64), [str(label) for label in archive["y"]]
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    return np.array([[float(row[name]) for name in NAMES] for row in rows]), [row["room"] for row in rows]


def predicted(onnx: Path, x: NDArray[np.float64]) -> NDArray[np.str_]:
    """The classes that an exported model tells, by what its own metadata says of labels and inputs."""
    session = onnxruntime.InferenceSession(str(onnx))
    card = json.loads(session.get_modelmeta().custom_metadata_map["data_card"])
    along = [1, -1] + [1] * (x.ndim - 2)
    mean, deviation = (np.reshape(card[name], along) for name in ("mean", "deviation"))
    assert tuple(card["feature_names"]) in (NAMES, ())
    logits = session.run(["logits"], {"inputs": ((x - mean) / deviation).astype(np.float32)})[0]
    classes = card["class_names"] or [str(label) for label in range(card["classes"])]
    found: NDArray[np.str_] = np.array(classes)[logits.argmax(axis=1)]
    return found


def test_a_table_of_other_columns_is_refused(fleet: Callable, tmp_path: Path) -> None:  # type: ignore[type-arg]
    whole = fleet()
    whole.lead(run("mlp", table(tmp_path / "held-out.csv", 0, [0, 1, 2])))
    spec = table(tmp_path / "mine.csv", 1, [0, 1])
    (tmp_path / "mine.csv").write_text((tmp_path / "mine.csv").read_text().replace("light", "lux"))
    whole.join("low-1", spec, "low")
    assert whole.code("low-1", 60) == 1
    assert "missing here: light; unknown to the run: lux: name them as the run does" in whole.logged("low-1")


def test_a_model_of_images_is_refused_for_rows(fleet: Callable, tmp_path: Path) -> None:  # type: ignore[type-arg]
    whole = fleet()
    whole.lead(run("cnn", table(tmp_path / "held-out.csv", 0, [0, 1, 2])))
    assert whole.code("server", 60) == 1
    assert "model cnn needs images (channels, H, W) of at least 4x4, not (4,): for rows use mlp" in whole.logged(
        "server"
    )
