"""Models of torchvision's by name, as far as that needs no torchvision: which are refused, and what is said of its
absence and of one that does not fit torch. What it makes is tried in tests/e2e/test_torchvision.py."""

import sys
from pathlib import Path

import pytest

from zowarmup.client.policy import Policy
from zowarmup.common.models.construction import ModelError, build
from zowarmup.common.models.torchvision_classifiers import refused
from zowarmup.common.settings.run import Model

CLASSIFIERS = ["convnext_tiny", "mobilenet_v3_small", "resnet18", "resnet34", "swin_t", "vgg11"]
OTHERS = {
    "fasterrcnn_resnet50_fpn": "torchvision.models.detection.faster_rcnn",
    "fcn_resnet50": "torchvision.models.segmentation.fcn",
    "quantized_resnet18": "torchvision.models.quantization.resnet",
    "r3d_18": "torchvision.models.video.resnet",
}
RESNET = Model(name="torchvision:resnet18")


@pytest.fixture
def no_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where none has been imported yet."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)


def test_a_classifier_is_taken() -> None:
    assert refused("resnet18", CLASSIFIERS, OTHERS) == ""


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("resnet19", "torchvision has no classifier of that name: the closest are resnet18, resnet34"),
        ("ResNet18", "torchvision has no classifier of that name: the closest are resnet18, resnet34"),
        ("", f"torchvision has no classifier of that name: the closest are {', '.join(CLASSIFIERS)}"),
        ("fasterrcnn_resnet50_fpn", "it is one of torchvision.models.detection, which are no classifiers of images"),
        ("fcn_resnet50", "it is one of torchvision.models.segmentation, which"),
        ("quantized_resnet18", "it is one of torchvision.models.quantization, which"),
        ("r3d_18", "it is one of torchvision.models.video, which"),
        ("swin_t", "its shifted windows need an operator, ScatterND, that no device runs: use vit_b_32"),
    ],
)
def test_what_is_no_classifier_for_devices_is_refused_with_what_is(name: str, sentence: str) -> None:
    assert refused(name, CLASSIFIERS, OTHERS).startswith(sentence)


def test_without_torchvision_the_sentence_says_how_to_install_it(
    no_torchvision: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    said = r"^model\.name = 'torchvision:resnet18': torchvision is not installed here: pip install 'zowarmup\[torchvision\]'$"
    with pytest.raises(ModelError, match=said):
        build(RESNET, (3, 32, 32), 10, seed=0)


def test_a_torchvision_of_another_build_is_named_with_the_remedy(
    no_torchvision: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins as torchvision's own code does, and torch itself then raises what it raises where the operators of the
    other build cannot be loaded."""
    package, information = tmp_path / "torchvision", tmp_path / "torchvision-0.0.7.dist-info"
    package.mkdir()
    information.mkdir()
    (package / "__init__.py").write_text(
        "import torch\ntorch.library.register_fake('torchvision::nms')(lambda *_: None)\n"
    )
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.0.7\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError) as raised:
        build(RESNET, (3, 32, 32), 10, seed=0)
    said = str(raised.value)
    assert said.startswith("model.name = 'torchvision:resnet18': torchvision 0.0.7 does not fit torch ")
    assert "operator torchvision::nms does not exist" in said
    assert said.endswith("from one index: pip install --force-reinstall torch torchvision")


def test_there_is_no_half_width_part_of_one() -> None:
    with pytest.raises(ModelError, match="torchvision:resnet18 has no half-width part"):
        build(RESNET, (3, 32, 32), 10, seed=0, half_width=True)


def test_a_device_runs_one_where_its_owner_names_it() -> None:
    assert "--allow-model torchvision:resnet18" in Policy().refused_model(RESNET.name)
    assert Policy().allowing([RESNET.name]).refused_model(RESNET.name) == ""
