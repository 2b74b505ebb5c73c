"""A file of weights to begin with, of either kind: what is taken from it, and what is refused."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from tests.faults.small import LAYOUT
from zowarmup.common.exact.layout import Block, Head, Layout, Tensor
from zowarmup.server.setup.prepare import PreparationError
from zowarmup.server.setup.weights_file import load_weights

HEADED = Layout(
    (Tensor("trunk.weight", (4, 3), 0), Tensor("head.weight", (2, 4), 12), Tensor("head.bias", (2,), 20)),
    22,
    22,
    (Block("all", 0, 22), Block("trunk", 0, 12), Block("head", 12, 22)),
    Head("head.weight", "head.bias", 4, 2),
)


def tensors(classes: int = 2) -> dict[str, torch.Tensor]:
    shapes = {"trunk.weight": (4, 3), "head.weight": (classes, 4), "head.bias": (classes,)}
    return {name: torch.full(shape, place + 1.0) for place, (name, shape) in enumerate(shapes.items())}


def write(path: Path, values: Any) -> Path:
    if path.suffix == ".safetensors":
        save_file(values, path)
    else:
        torch.save(values, path)
    return path


def loaded(path: Path, layout: Layout = HEADED) -> tuple[NDArray[np.float32], str]:
    weights = np.zeros(layout.size, np.float32)
    remark = load_weights(path, layout, weights)
    return weights, remark


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.pt"])
def test_the_models_tensors_are_taken_and_others_left_alone(tmp_path: Path, name: str) -> None:
    more = {"AuxLogits.fc.weight": torch.ones(3), "bn.num_batches_tracked": torch.tensor(7)}
    weights, remark = loaded(write(tmp_path / name, {**tensors(), **more}))
    assert weights.tolist() == [1.0] * 12 + [2.0] * 8 + [3.0] * 2
    assert remark == ""


def test_the_format_of_old_state_dicts_and_half_precision_are_read(tmp_path: Path) -> None:
    halves = {name: tensor.to(torch.bfloat16) for name, tensor in tensors().items()}
    torch.save(halves, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    weights, _ = loaded(tmp_path / "old.pth")
    assert weights.tolist() == [1.0] * 12 + [2.0] * 8 + [3.0] * 2


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_a_head_of_other_classes_stays_as_it_was(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, tensors(classes=1000))
    weights, remark = loaded(path)
    assert weights.tolist() == [1.0] * 12 + [0.0] * 10
    assert remark == f"{path}: its head is of 1000 classes: that of the run begins at random weights"


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"trunk.weight": torch.ones(5, 3)}, r"trunk\.weight must have shape \(4, 3\) and is of shape \(5, 3\)"),
        ({"head.weight": torch.ones(2, 5)}, r"head\.weight must have shape \(2, 4\) and is of shape \(2, 5\)"),
        ({"head.bias": None}, r"head\.bias must have shape \(2,\) and is missing"),
    ],
)
def test_other_shapes_are_refused_by_name(tmp_path: Path, name: str, changed: dict[str, Any], said: str) -> None:
    found = {name: tensor for name, tensor in {**tensors(), **changed}.items() if tensor is not None}
    path = write(tmp_path / name, found)
    with pytest.raises(PreparationError, match=rf"^model\.weights = '.*{name}': {said}$"):
        loaded(path)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model": tensors(), "epoch": 3}, "it holds model, epoch, and not tensors by name"),
        ([1.0], "it holds a list, and not tensors by name: write it by torch.save"),
        ({"trunk.weight": torch.ones(4, 3).to_sparse()}, "trunk.weight: "),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path: Path, values: Any, said: str) -> None:
    with pytest.raises(PreparationError) as raised:
        loaded(write(tmp_path / "w.pth", values))
    assert "cannot be read as a state dict of torch: " + said in str(raised.value)


class _Running:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("run",)


@pytest.mark.parametrize("content", [None, b"", b"PK\3\4", pickle.dumps(_Running(), 2)])
def test_a_file_that_is_something_else_is_refused_and_nothing_in_it_is_run(
    tmp_path: Path, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "w.pth"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PreparationError, match="cannot be read as a state dict of torch"):
        loaded(path, LAYOUT)
    assert capsys.readouterr().out == ""
