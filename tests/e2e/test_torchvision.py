"""Torchvision's models in whole runs, and what each family of them becomes.

The everyday environment has no torchvision. `make torchvision` installs it into .build/torchvision, which takes all else from .venv, and
the processes here are of that Python. Beside a torch of a CPU index its compiled operators cannot be loaded, which no classifier has.
"""

import json
import os
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.e2e.conftest import ENDLESS
from zowarmup.common.settings.run import Evaluation, Guard, Model, RunFile
from zowarmup.lab.processes import ONE_THREAD
from zowarmup.server.store.archive import open_archive

REPOSITORY = Path(__file__).parents[2]
PLACE = REPOSITORY / ".build" / "torchvision"
HEADS = {
    "alexnet": "classifier.6.weight",
    "convnext_tiny": "classifier.2.weight",
    "densenet121": "classifier.weight",
    "efficientnet_b0": "classifier.1.weight",
    "googlenet": "fc.weight",
    "inception_v3": "fc.weight",
    "mnasnet0_5": "classifier.1.weight",
    "mobilenet_v2": "classifier.1.weight",
    "mobilenet_v3_small": "classifier.3.weight",
    "regnet_x_400mf": "fc.weight",
    "resnet18": "fc.weight",
    "shufflenet_v2_x0_5": "fc.weight",
    "squeezenet1_1": "",  # it ends in a convolution
    "vgg11": "classifier.6.weight",
    "vit_b_32": "heads.head.weight",
}


@pytest.fixture(scope="module")
def python() -> str:
    """The Python that has torchvision."""
    if not (PLACE / "ready").exists():
        assert not os.environ.get("CI"), "continuous integration must have made it: make .build/torchvision/ready"
        pytest.skip("there is no torchvision in .build/torchvision: make torchvision")
    return str(PLACE / "bin" / "python")


def output_of(python: str, *arguments: str) -> str:
    environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": str(REPOSITORY / ".build" / "python")}
    done = subprocess.run([python, *arguments], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def found(python: str) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(output_of(python, str(REPOSITORY / "tests" / "torchvision" / "families.py")))
    return said


@pytest.mark.parametrize("name", HEADS)
def test_a_classifier_of_each_family_has_its_head_and_its_program(found: dict[str, Any], name: str) -> None:
    family = found["families"][name]
    assert family["head"] == HEADS[name]
    assert family["largest"] > 0.01, "else anything would agree"
    assert family["difference"] < 5e-3 * family["largest"]
    everything, norms, *head = family["moving"]
    assert 0 < norms < everything
    assert head == ([7 * (family["features"] + 1)] if HEADS[name] else [])


def test_what_torchvision_has_is_a_classifier_or_refused(found: dict[str, Any]) -> None:
    assert set(found["families"]) == set(HEADS)
    taken = {name for name, sentence in found["refused"].items() if not sentence}
    assert {name for name in found["classifiers"] if not name.startswith("swin_")} == taken
    assert "torchvision.models.detection" in found["refused"]["ssdlite320_mobilenet_v3_large"]


def write_images(folder: Path) -> list[str]:
    chance = np.random.default_rng(1)
    for part in ("a", "b", "held-out"):
        labels = np.arange(12) % 10
        images = chance.integers(0, 128, (12, 3, 32, 32)) + (labels * 12)[:, None, None, None]
        np.savez(folder / f"{part}.npz", x=images.astype(np.uint8), y=labels)
    return [f"npz:{folder / part}.npz" for part in ("a", "b", "held-out")]


@pytest.mark.parametrize(
    ("name", "train", "images"),
    [("torchvision:mobilenet_v3_small", "norm", True), ("torchvision:shufflenet_v2_x0_5", "head", False)],
)
def test_a_fleet_trains_one_and_the_low_tier_loads_no_torch(
    fleet: Callable,  # type: ignore[type-arg]
    python: str,
    tmp_path: Path,
    name: str,
    train: str,
    images: bool,
) -> None:
    """From published weights, of 1,000 classes, in colour; and from random ones on grey images of 8x8."""
    weights = str(tmp_path / "published.pth") if images else ""
    if images:
        code = "import sys, torch, torchvision\ntorch.save(torchvision.models.mobilenet_v3_small().state_dict(), sys.argv[1])"
        output_of(python, "-c", code, weights)
    high, low, held_out = write_images(tmp_path) if images else ["digits:1/20", "digits:2/20", "digits:test"]
    whole = fleet(python)
    whole.lead(
        RunFile(
            name="torchvision",
            model=Model(name=name, weights=weights),
            warmup=warmup_settings(
                rounds=1, clients_per_round=1, quorum=1.0, learn_deadline=False, epochs=1, batch=6, rate=0.01
            ),
            zeroth_order=zeroth_order_settings(
                rounds=ENDLESS, clients_per_round=2, quorum=1.0, learn_deadline=False, rate=0.01, train=train
            ),
            evaluation=Evaluation(data=held_out, every=10**6),
            guard=Guard(factor=0),
        ),
        measured=images,
    )
    whole.join("high-1", high, "high", "--allow-model", name)
    whole.join("low-1", low, "low")
    whole.until(lambda status: status.version >= 4, 180, "three zeroth-order rounds")
    low_maps, high_maps = (Path(f"/proc/{whole.processes.pid(of)}/maps").read_text() for of in ("low-1", "high-1"))
    assert "onnxruntime" in low_maps
    assert "torch" not in low_maps
    assert "site-packages/torch/" in high_maps, (
        "it has trained torchvision's module, which nobody makes without torchvision"
    )
    whole.end_run()
    status = whole.finished(2)
    assert status.replicas.agree == ("high-1", "low-1")
    assert ("its head is of 1000 classes" in whole.logged("server")) is images

    archive = open_archive(whole.data_dir)
    layout = archive.layout
    pivot, last = (archive.weights(version)[0] for version in (1, status.version))
    assert layout.head is not None and layout.head.classes == 10
    means = [view for key, view in layout.views(pivot).items() if key.endswith("running_mean")]
    assert all(view.any() for view in means), "the warm-up gathers BatchNorm's statistics"
    statistics = slice(layout.trainable, layout.uploaded)
    assert np.array_equal(pivot[statistics], last[statistics]), "and no round after it does"
    assert not np.array_equal(pivot[layout.uploaded :], last[layout.uploaded :]), "the first round after it whitens"
    assert 0 < layout.frozen < layout.trainable
    assert np.array_equal(pivot[: layout.frozen], last[: layout.frozen])
    assert not np.array_equal(pivot[layout.frozen : layout.trainable], last[layout.frozen : layout.trainable])


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="this Python has torchvision")
def test_a_coordinator_without_torchvision_says_what_to_install(fleet: Callable) -> None:  # type: ignore[type-arg]
    alone = fleet()
    alone.lead(
        RunFile(
            name="torchvision",
            model=Model(name="torchvision:resnet18"),
            warmup=warmup_settings(rounds=1),
            zeroth_order=zeroth_order_settings(rounds=1),
            evaluation=Evaluation(data="digits:test"),
        )
    )
    assert alone.code("server", 60) == 1
    assert "'torchvision:resnet18': torchvision is not installed here: pip install 'zowarmup[torchvision]'" in (
        alone.logged("server")
    )
