"""The exported program against torch, on every model; the flat vector is the model, changed in place."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import nn

from tests.client.hostile_programs import LAYOUT as PRYING
from tests.client.hostile_programs import constant, graph, model
from zowarmup.common.exact.layout import Layout
from zowarmup.common.models.base import Constant
from zowarmup.common.models.construction import ModelError, build
from zowarmup.common.models.description import constants_of, describe, flatten, load_into
from zowarmup.common.models.export import export_program
from zowarmup.common.models.program import Program, ProgramFailed
from zowarmup.common.settings.run import Model

DIGIT, COLOUR = (1, 8, 8), (3, 32, 32)
SMALL_COLOUR = (3, 16, 16)


def random_weights(layout: Layout, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Positive, so that running variances can be among them, and small, so that the logits stay finite."""
    return np.random.default_rng(seed).random(layout.size, dtype=np.float32) * np.float32(0.05) + np.float32(0.001)


def assert_agrees(module: nn.Module, program: Program, shape: tuple[int, ...]) -> None:
    for count in (1, 2, 7):
        inputs = np.random.default_rng(count).random((count, *shape), dtype=np.float32)
        with torch.no_grad():
            wanted = module(torch.from_numpy(inputs)).numpy()
        logits, _ = program.forward(inputs)
        np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-4 * float(np.abs(wanted).max()))


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (Model(name="mlp"), DIGIT),
        (Model(name="cnn"), DIGIT),
        (Model(name="cnn"), COLOUR),
        (Model(name="mlp"), (5,)),
        (Model(name="cnn1d"), (3, 37)),
        (Model(name="resnet8"), SMALL_COLOUR),
        (Model(name="resnet18"), SMALL_COLOUR),
        (Model(name="resnet8", norm="batch"), SMALL_COLOUR),
        (Model(name="vit"), SMALL_COLOUR),
    ],
)
def test_program_and_torch_agree(model: Model, shape: tuple[int, ...]) -> None:
    """At the exported weights and at others, written into the same array: no weight is a constant of the graph."""
    module = build(model, shape, 10, seed=0)
    layout = describe(module, shape)
    onnx = export_program(module, layout, shape)
    assert len(onnx) < 100_000  # the graph alone
    weights = flatten(module, layout)
    program = Program(onnx, layout, weights)
    assert program.shape == shape
    assert_agrees(module, program, shape)
    weights[:] = random_weights(layout)
    load_into(module, layout, weights)
    assert_agrees(module, program, shape)


def test_equal_models_give_equal_bytes_whatever_their_weights() -> None:
    def exported(seed: int) -> bytes:
        module = build(Model(name="cnn"), DIGIT, 10, seed)
        return export_program(module, describe(module, DIGIT), DIGIT)

    onnx = exported(0)
    assert onnx == exported(1)
    assert b"/" + Path(__file__).parts[1].encode() + b"/" not in onnx  # nothing of this machine is in it


def test_a_single_changed_weight_changes_the_logits_and_back() -> None:
    module = build(Model(name="cnn"), DIGIT, 10, 0)
    layout = describe(module, DIGIT)
    weights = flatten(module, layout)
    program = Program(export_program(module, layout, DIGIT), layout, weights)
    inputs = np.random.default_rng(0).random((4, *DIGIT), dtype=np.float32)
    before, _ = program.forward(inputs)
    for tensor in layout.tensors:
        kept = weights[tensor.start : tensor.stop].copy()
        weights[tensor.start : tensor.stop] += 1
        changed, _ = program.forward(inputs)
        assert not np.array_equal(before, changed), tensor.name
        weights[tensor.start : tensor.stop] = kept
        np.testing.assert_array_equal(program.forward(inputs)[0], before)


def test_features_are_what_the_head_reads() -> None:
    module = build(Model(name="cnn"), DIGIT, 10, 0)
    layout = describe(module, DIGIT)
    weights = random_weights(layout)
    program = Program(export_program(module, layout, DIGIT), layout, weights)
    logits, features = program.forward(np.random.default_rng(0).random((5, *DIGIT), dtype=np.float32))
    assert features is not None
    views = layout.views(weights)
    np.testing.assert_allclose(
        features @ views["classifier.weight"].T + views["classifier.bias"], logits, rtol=1e-5, atol=1e-5
    )


def of_own(*parts: nn.Module) -> nn.Module:
    return nn.Sequential(*parts).eval()


@pytest.mark.parametrize(
    "module",
    [
        of_own(nn.Flatten(), nn.Linear(64, 10)),  # no trunk, so no head
        of_own(nn.Flatten(), nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 10, bias=False)),
        of_own(nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), nn.Dropout(), nn.Linear(12, 10), nn.LogSoftmax(1)),
        of_own(nn.Flatten(), nn.Linear(64, 12).requires_grad_(False), nn.Linear(12, 10)),
        of_own(nn.Flatten(2), nn.TransformerEncoderLayer(64, 4, 32, batch_first=True), nn.Flatten(), nn.Linear(64, 10)),
        of_own(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=False), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    ],
    ids=["linear", "no bias", "no head", "frozen", "attention", "pooled"],
)
def test_modules_of_ones_own(module: nn.Module) -> None:
    layout = describe(module, DIGIT)
    weights = random_weights(layout)
    constants = {name: Constant("F32", tensor.detach().numpy()) for name, tensor in constants_of(module).items()}
    program = Program(export_program(module, layout, DIGIT), layout, weights, constants=constants)
    load_into(module, layout, weights)
    assert_agrees(module, program, DIGIT)
    _, features = program.forward(np.zeros((2, *DIGIT), np.float32))
    assert (features is None) == (layout.head is None)


def test_shared_and_unused_weights() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
            self.second.weight = self.first.weight
            self.spare = nn.Parameter(torch.zeros(3))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            hidden = torch.relu(self.first(inputs.flatten(1)))
            return self.last(torch.relu(self.second(hidden)))  # type: ignore[no-any-return]

    module = Shared().eval()
    layout = describe(module, DIGIT)
    assert sum(t.shape == (64, 64) for t in layout.tensors) == 1
    weights = random_weights(layout)
    program = Program(export_program(module, layout, DIGIT), layout, weights)
    load_into(module, layout, weights)
    assert_agrees(module, program, DIGIT)


def test_a_model_that_cannot_be_exported_says_why() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(64, 10)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            flat = inputs.flatten(1)
            return self.last(flat if float(flat.sum()) > 0 else -flat)  # type: ignore[no-any-return]

    module = Branches().eval()
    with pytest.raises(ModelError, match="the model cannot be exported to ONNX: ") as caught:
        export_program(module, describe(module, DIGIT), DIGIT)
    assert "\n" not in str(caught.value)


def test_a_graph_that_computes_something_else_is_refused() -> None:
    class Fickle(nn.Module):
        """Like a model whose traced form leaves out what it does in Python."""

        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.last, self.calls = nn.Linear(64, 8), nn.Linear(8, 10), 0

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return self.last(self.trunk(inputs.flatten(1)) * self.calls)  # type: ignore[no-any-return]

    module = Fickle().eval()
    with pytest.raises(ModelError, match="gives other outputs than the module"):
        export_program(module, describe(module, DIGIT), DIGIT)


@pytest.fixture(scope="module")
def mlp() -> tuple[Layout, bytes]:
    module = build(Model(name="mlp"), DIGIT, 10, 0)
    layout = describe(module, DIGIT)
    return layout, export_program(module, layout, DIGIT)


def test_what_does_not_fit_together_is_refused(mlp: tuple[Layout, bytes]) -> None:
    layout, onnx = mlp
    weights = np.zeros(layout.size, np.float32)
    with pytest.raises(ValueError, match="it is not an ONNX graph"):
        Program(b"not a graph", layout, weights)
    with pytest.raises(ValueError, match="weights are float32"):
        Program(onnx, layout, weights[:-1])
    other = build(Model(name="cnn"), DIGIT, 10, 0)
    cnn = describe(other, DIGIT)
    with pytest.raises(ValueError, match=r"tensor 1\.bias is in it alone"):
        Program(onnx, cnn, np.zeros(cnn.size, np.float32))
    raw = json.loads(layout.to_json())
    raw["tensors"][0]["shape"].reverse()
    with pytest.raises(ValueError, match=r"tensor 1\.weight has shape \(128, 64\), in the layout float32 \(64, 128\)"):
        Program(onnx, Layout.from_json(json.dumps(raw)), weights)
    raw = json.loads(layout.to_json())
    raw.update(head=None, blocks=raw["blocks"][:1])
    with pytest.raises(ValueError, match="its outputs are logits, features, it should give logits"):
        Program(onnx, Layout.from_json(json.dumps(raw)), weights)


def test_wrong_inputs_are_refused(mlp: tuple[Layout, bytes]) -> None:
    layout, onnx = mlp
    program = Program(onnx, layout, np.zeros(layout.size, np.float32))
    for inputs in (np.zeros((2, 64), np.float32), np.zeros((2, *DIGIT)), np.zeros((0, *DIGIT), np.float32)):
        with pytest.raises(ValueError, match=r"the model takes float32 \(n, \*\(1, 8, 8\)\)"):
            program.forward(inputs)


def test_inputs_that_are_not_contiguous_are_taken(mlp: tuple[Layout, bytes]) -> None:
    layout, onnx = mlp
    program = Program(onnx, layout, random_weights(layout))
    inputs = np.random.default_rng(0).random((8, *DIGIT), dtype=np.float32)
    np.testing.assert_array_equal(program.forward(inputs[::2])[0], program.forward(inputs[::2].copy())[0])


def test_logits_outlive_the_next_pass(mlp: tuple[Layout, bytes]) -> None:
    layout, onnx = mlp
    program = Program(onnx, layout, random_weights(layout))
    first, features = program.forward(np.ones((2, *DIGIT), np.float32))
    assert features is not None
    kept = first.copy(), features.copy()
    program.forward(np.zeros((2, *DIGIT), np.float32))
    np.testing.assert_array_equal(first, kept[0])
    np.testing.assert_array_equal(features, kept[1])


def test_a_low_tier_process_is_small_and_loads_no_torch(mlp: tuple[Layout, bytes], tmp_path: Path) -> None:
    """The forward pass with the data, as a device runs it, with grpc beside it."""
    layout, onnx = mlp
    (tmp_path / "layout.json").write_text(layout.to_json())
    (tmp_path / "program.onnx").write_bytes(onnx)
    script = """
import sys
from pathlib import Path
import grpc.aio
import numpy as np
from zowarmup.common.exact.layout import Layout
from zowarmup.common.models.program import Program
from zowarmup.common.tasks.classification import Classification
from zowarmup.data import load

folder = Path(sys.argv[1])
layout = Layout.from_json((folder / "layout.json").read_text())
data = load("digits:1/10")
program = Program((folder / "program.onnx").read_bytes(), layout, np.zeros(layout.size, np.float32))
batch = data.batch(np.arange(64))
logits, _ = program.forward(batch.inputs)
assert abs(Classification(data).loss(logits, batch) / 64 - np.log(10)) < 1e-6
status = dict(line.split(":") for line in open("/proc/self/status"))
own = int(status["VmHWM"].split()[0]) - int(status["RssFile"].split()[0])
print(own // 1024, sorted({name.split(".")[0] for name in sys.modules}))
"""
    output = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    own, _, modules = output.partition(" ")
    for heavy in ("torch", "onnx", "pydantic", "typer", "rich", "matplotlib", "PIL"):
        assert f"'{heavy}'" not in modules
    # Some 45 MB of files on top, or 65 where they have just been written: how much the kernel maps around a page that is
    # used depends on how it has cached them.
    assert int(own) < 42


def blank(*extra: onnx.NodeProto, constants: tuple[onnx.TensorProto, ...] = ()) -> bytes:
    """A program of which the last node is replaced by others."""
    body = graph(constant("secret", *[0] * 32, kind="uint8"))
    body.node.pop()
    body.node.extend(extra)
    body.initializer.extend(constants)
    return bytes(model(body).SerializeToString())


@pytest.mark.parametrize(
    ("last", "shape"),
    [
        (helper.make_node("Reshape", ["blank", "other"], ["logits"]), [5, 4]),
        (helper.make_node("Expand", ["sum", "other"], ["logits"]), [5, 4]),
        (helper.make_node("ReduceMax", ["blank"], ["logits"], keepdims=0), []),
    ],
)
def test_a_pass_that_gives_another_shape_than_declared_fails_in_a_sentence(
    last: onnx.NodeProto, shape: list[int]
) -> None:
    """The runtime takes the declaration for advice."""
    onnx_bytes = blank(last, constants=(constant("other", 5, 4, kind="int64"),))
    program = Program(onnx_bytes, PRYING, np.ones(32, np.float32))
    with pytest.raises(ProgramFailed, match=re.escape(f"gives logits of shape {shape}, and should of [2, 10]")):
        program.forward(np.ones((2, 1, 8, 8), np.float32))


def test_what_fails_says_so_in_a_sentence_and_nothing_of_it_reaches_the_terminal(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The runtime would write names of the program's to standard error as they are."""
    name = "\x1b[2J" * 100
    node = helper.make_node("Reshape", ["blank", "other"], ["logits"], name=name)
    program = Program(blank(node, constants=(constant("other", 7, 7, kind="int64"),)), PRYING, np.ones(32, np.float32))
    with pytest.raises(ProgramFailed, match="a forward pass fails: ") as failed:
        program.forward(np.ones((2, 1, 8, 8), np.float32))
    assert str(failed.value).isprintable() and len(str(failed.value)) < 1500
    with pytest.raises(ValueError, match="ONNX Runtime cannot load it") as refused:
        Program(
            blank(helper.make_node("MatMul", ["zeros", "zeros"], ["logits"], name=name)),
            PRYING,
            np.ones(32, np.float32),
        )
    assert str(refused.value).isprintable() and len(str(refused.value)) < 1500
    assert capfd.readouterr() == ("", "")
