"""Models: their sizes, their flat form, how the head is found, and what is refused because replicas could differ."""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from zowarmup.common.exact.layout import Block, Head, Layout
from zowarmup.common.models.base import Constant
from zowarmup.common.models.construction import ModelError, build, check
from zowarmup.common.models.description import constants_of, describe, flatten, load_constants, load_into
from zowarmup.common.settings.run import Model

DIGIT, COLOUR, ROW, SEQUENCE = (1, 8, 8), (3, 32, 32), (6,), (3, 128)


class Net(nn.Module):
    """Whatever modules, and what to do with the inputs."""

    def __init__(self, forward: Callable[[Any, torch.Tensor], Any], **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self._forward = forward
        self.eval()

    def forward(self, inputs: torch.Tensor) -> Any:
        return self._forward(self, inputs)


def sequence(*parts: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), *parts).eval()


@pytest.mark.parametrize(
    ("model", "shape", "parameters", "buffers"),
    [
        (Model(name="mlp"), DIGIT, 9_610, 0),
        (Model(name="cnn"), DIGIT, 9_930, 0),
        (Model(name="cnn"), COLOUR, 10_218, 0),
        (Model(name="mlp"), ROW, 2_186, 0),
        (Model(name="cnn1d"), SEQUENCE, 5_418, 0),
        (Model(name="resnet8"), COLOUR, 78_042, 0),
        (Model(name="resnet8", norm="batch"), COLOUR, 78_042, 672),
        (Model(name="resnet18"), COLOUR, 11_173_962, 0),  # as in Legate et al., arXiv 2509.03503
        (Model(name="resnet18", norm="batch"), COLOUR, 11_173_962, 9_600),
        (Model(name="vit"), COLOUR, 18_936_330, 0),  # the paper says 18.94 M
    ],
)
def test_sizes(model: Model, shape: tuple[int, ...], parameters: int, buffers: int) -> None:
    module = build(model, shape, 10, seed=0)
    layout = describe(module, shape)
    assert (layout.trainable, layout.size) == (parameters, parameters + buffers)
    assert layout.head is not None
    assert layout.head.classes == 10
    edge = parameters - 10 * (layout.head.features + 1)
    assert layout.blocks == (
        Block("all", 0, parameters),
        Block("trunk", 0, edge),
        Block("head", edge, parameters),
    )


def test_the_seed_decides_the_weights_and_nothing_else_is_touched() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()

    def weights(seed: int) -> bytes:
        module = build(Model(name="cnn"), DIGIT, 10, seed)
        return flatten(module, describe(module, DIGIT)).tobytes()

    assert weights(1) == weights(1) != weights(2)
    assert torch.equal(state, torch.get_rng_state())


def test_flat_form_round_trip() -> None:
    model = Model(name="resnet18", norm="batch")
    module = build(model, (3, 8, 8), 4, seed=0)
    layout = describe(module, (3, 8, 8))
    weights = np.random.default_rng(0).random(layout.size, dtype=np.float32)
    load_into(module, layout, weights)
    assert flatten(module, layout).tobytes() == weights.tobytes()
    views = layout.views(weights)
    for name, tensor in module.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(tensor.numpy(), views[name])
    weights[:] = 0
    assert float(module.state_dict()["classifier.weight"].abs().min()) > 0  # copied, not shared


def test_another_models_weights_are_refused() -> None:
    cnn, mlp = (build(Model(name=name), DIGIT, 10, 0) for name in ("cnn", "mlp"))
    layout = describe(cnn, DIGIT)
    with pytest.raises(ModelError, match=r"has no tensor first\.weight"):
        flatten(mlp, layout)
    with pytest.raises(ModelError, match=r"classifier\.weight has shape"):
        load_into(build(Model(name="cnn"), DIGIT, 3, 0), layout, np.zeros(layout.size, np.float32))
    wider = describe(mlp, DIGIT)
    with pytest.raises(ModelError, match=r"tensor 5\.weight is not in the layout"):
        flatten(nn.Sequential(*mlp.children(), nn.ReLU(), nn.Linear(10, 10, bias=False)), wider)


def head_of(module: nn.Module) -> Head | None:
    layout = describe(module, DIGIT)
    assert layout == Layout.from_json(layout.to_json())
    return layout.head


def test_the_head_is_the_layer_whose_output_the_logits_are() -> None:
    trunk, last = nn.Linear(64, 7), nn.Linear(7, 3)
    assert head_of(sequence(trunk, nn.ReLU(), last)) == Head("3.weight", "3.bias", 7, 3)
    assert head_of(sequence(trunk, nn.Linear(7, 3, bias=False))) == Head("2.weight", None, 7, 3)
    # First in the module, last in the pass: its tensors still end the trainable range.
    net = Net(lambda self, x: self.last(torch.relu(self.trunk(x.flatten(1)))), last=last, trunk=trunk)
    layout = describe(net, DIGIT)
    assert layout.head == Head("last.weight", "last.bias", 7, 3)
    assert [t.name for t in layout.tensors] == ["trunk.weight", "trunk.bias", "last.weight", "last.bias"]


def test_the_head_is_found_without_torchs_symbolic_algebra() -> None:
    """Which takes a device seconds and tens of megabytes to load."""
    code = (
        "import sys; sys.modules['sympy'] = None\n"
        "from zowarmup.common.models.construction import build\n"
        "from zowarmup.common.models.description import describe\n"
        "from zowarmup.common.settings.run import Model\n"
        "assert describe(build(Model(name='mlp'), (1, 8, 8), 10, 0), (1, 8, 8)).head"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_no_linear_classifier_is_no_head() -> None:
    trunk, last = nn.Linear(64, 7), nn.Linear(7, 3)
    assert head_of(sequence(trunk, last, nn.LogSoftmax(dim=1))) is None
    assert head_of(Net(lambda self, x: self.last(self.trunk(x.flatten(1))) * 2, trunk=trunk, last=last)) is None
    square = nn.Linear(5, 5)
    twice = Net(lambda self, x: self.s(torch.relu(self.s(self.t(x.flatten(1))))), t=nn.Linear(64, 5), s=square)
    assert head_of(twice) is None  # its weight is used in the trunk too, so the closed form would be wrong
    assert head_of(sequence(nn.Linear(64, 3))) is None  # there is no trunk
    frozen = nn.Linear(7, 3).requires_grad_(False)
    assert head_of(sequence(nn.Linear(64, 7), frozen)) is None


def test_a_weight_used_outside_its_layer_is_no_head() -> None:
    def forward(net: Any, inputs: torch.Tensor) -> Any:
        hidden = net.trunk(inputs.flatten(1))
        return net.last(hidden + nn.functional.linear(hidden, net.last.weight) @ net.last.weight)

    assert head_of(Net(forward, trunk=nn.Linear(64, 7), last=nn.Linear(7, 3))) is None


def test_shared_weights_are_listed_once() -> None:
    shared = nn.Linear(64, 64)
    net = sequence(shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(64, 10))
    layout = describe(net, DIGIT)
    assert [t.name for t in layout.tensors] == ["1.weight", "1.bias", "5.weight", "5.bias"]
    weights = np.arange(layout.size, dtype=np.float32)
    load_into(net, layout, weights)
    assert flatten(net, layout).tobytes() == weights.tobytes()


def test_parameters_without_a_gradient_are_constants_and_in_no_vector() -> None:
    net = sequence(nn.Linear(64, 7).requires_grad_(False), nn.Linear(7, 6), nn.Linear(6, 3))
    layout = describe(net, DIGIT)
    assert [t.name for t in layout.tensors] == ["2.weight", "2.bias", "3.weight", "3.bias"]
    assert layout.trainable == layout.size == 7 * 6 + 6 + 6 * 3 + 3
    constants = constants_of(net)
    assert list(constants) == ["1.weight", "1.bias"]
    other = {name: Constant("F32", np.full(tensor.shape, 2, np.float32)) for name, tensor in constants.items()}
    load_constants(net, other)
    assert all((tensor == 2).all() for tensor in constants_of(net).values())
    with pytest.raises(ModelError, match=r"constant 1\.bias is in it alone"):
        load_constants(net, {"1.weight": other["1.weight"]})
    with pytest.raises(ModelError, match=r"constant 1\.bias has shape"):
        load_constants(net, other | {"1.bias": Constant("F32", np.zeros(3, np.float32))})


def test_a_head_on_constants_needs_no_trunk() -> None:
    layout = describe(sequence(nn.Linear(64, 7).requires_grad_(False), nn.Linear(7, 3)), DIGIT)
    assert layout.head == Head("2.weight", "2.bias", 7, 3)
    assert layout.blocks == (Block("all", 0, 24), Block("head", 0, 24))
    assert layout.head_alone


def test_of_a_pretrained_model_what_is_not_trained_is_constant() -> None:
    def made() -> nn.Module:
        return sequence(nn.Linear(64, 7), nn.LayerNorm(7), nn.Linear(7, 3))

    whole = describe(made(), DIGIT, train="norm")
    assert whole.frozen == 64 * 7
    for train, kept in (
        ("head", []),
        ("norm", ["1.bias", "2.weight", "2.bias"]),
        ("layers:2.*", ["2.weight", "2.bias"]),
    ):
        net = made()
        layout = describe(net, DIGIT, train=train, pretrained=True)
        assert [tensor.name for tensor in layout.tensors] == [*kept, "3.weight", "3.bias"]
        assert layout.frozen == 0
        assert set(constants_of(net)) == {"1.weight", "1.bias", "2.weight", "2.bias"} - set(kept)


def names(layout: Layout, block: str) -> list[str]:
    found = layout.block(block)
    return [tensor.name for tensor in layout.tensors if found.start <= tensor.start < found.stop]


def test_what_zeroth_order_rounds_train_lies_together_before_the_head() -> None:
    module = build(Model(name="resnet18"), (3, 32, 32), 10, 0)
    whole, norm = describe(module, (3, 32, 32)), describe(module, (3, 32, 32), train="norm")
    assert (norm.block("probed").size, norm.block("head").size) == (9600, 5130)
    assert all(".weight" not in name or norm_weight(module, name) for name in names(norm, "probed"))
    assert norm.block("probed").stop == norm.block("head").start
    assert (norm.size, norm.trainable, norm.head) == (whole.size, whole.trainable, whole.head)
    assert describe(module, (3, 32, 32), train="all") == whole
    assert describe(module, (3, 32, 32), train="head") == replace(whole, frozen=whole.block("head").start)
    last = describe(module, (3, 32, 32), train="layers:blocks.7.*,stem.1.bias")
    assert names(last, "probed")[0] == "stem.1.bias"
    assert {name.rpartition(".")[0][:8] for name in names(last, "probed")[1:]} == {"blocks.7"}
    weights = flatten(module, norm)
    load_into(module, norm, weights)
    np.testing.assert_array_equal(np.sort(flatten(module, whole)), np.sort(weights))


def norm_weight(module: nn.Module, name: str) -> bool:
    return isinstance(module.get_submodule(name.rpartition(".")[0]), nn.GroupNorm)


def test_without_a_head_the_trained_part_ends_what_is_trainable() -> None:
    layout = describe(sequence(nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 3), nn.Tanh()), DIGIT, train="norm")
    assert layout.head is None
    assert names(layout, "probed") == ["1.bias", "3.bias"]
    assert layout.block("probed").stop == layout.trainable


@pytest.mark.parametrize("pretrained", [False, True])
@pytest.mark.parametrize("train", ["norm", "head", "layers:1.bias"])
def test_a_head_whose_gradient_is_not_asked_for_is_probed_with_what_moves(train: str, pretrained: bool) -> None:
    module = sequence(nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 3))
    layout = describe(module, DIGIT, exact_head=False, train=train, pretrained=pretrained)
    assert layout.head is None
    moved = names(layout, "all" if pretrained else "probed")
    assert moved == [*(["1.bias"] if train != "head" else []), "3.weight", "3.bias"]


@pytest.mark.parametrize(
    ("train", "sentence"),
    [
        ("head", 'zeroth_order.train = "head": the model does not end in a linear layer'),
        ("norm", 'zeroth_order.train = "norm": the model has no normalisation and no bias before its head'),
        (
            "layers:1.*,nothing.*",
            "no parameter before the head has a name like 'nothing.*'; there are 1.weight, 3.weight",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_by_name(train: str, sentence: str) -> None:
    net = sequence(nn.Linear(64, 5, bias=False), nn.ReLU(), nn.Linear(5, 3, bias=False), nn.Tanh())
    with pytest.raises(ModelError, match=re.escape(sentence)):
        describe(net, DIGIT, train=train)


def refusal(module: nn.Module) -> str:
    def admit() -> None:
        check("net", module, DIGIT, 3)
        describe(module, DIGIT)

    with pytest.raises(ModelError) as caught:
        admit()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("end", "what"),
    [
        (nn.Softmax(dim=1), "a softmax"),
        (Net(lambda _, z: z.exp() / z.exp().sum(1, keepdim=True)), "a softmax"),
        (Net(lambda _, z: torch.log_softmax(z, 1).exp()), "a softmax"),
        (nn.Sequential(nn.Softmax(dim=1), nn.Identity()), "a softmax"),
        (nn.Sigmoid(), "a sigmoid"),
        (nn.Hardsigmoid(), "a sigmoid"),
        (Net(lambda _, z: (torch.tanh(z) + 1) / 2), "a sigmoid"),
        (nn.Hardtanh(0.0, 1.0), "a sigmoid"),
    ],
)
@pytest.mark.parametrize("trunk", [nn.Linear(64, 3), nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))])
def test_outputs_that_have_been_through_a_softmax_or_sigmoid_are_refused(
    trunk: nn.Module, end: nn.Module, what: str
) -> None:
    before = [parameter.clone() for parameter in trunk.parameters()]
    said = refusal(sequence(trunk, end))
    assert f"as {what} at its end does: leave that out and return logits" in said
    assert all(torch.equal(now, was) for now, was in zip(trunk.parameters(), before, strict=True))


def small_and_positive(width: int, classes: int) -> nn.Linear:
    """Logits that lie in 0 to 1 at the initial weights."""
    layer = nn.Linear(width, classes)
    with torch.no_grad():
        layer.weight.abs_().mul_(1e-3)
        layer.bias.fill_(0.5)
    return layer


def zeros(width: int, classes: int) -> nn.Linear:
    layer = nn.Linear(width, classes)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    return layer


@pytest.mark.parametrize(
    "last",
    [
        zeros(64, 3),
        small_and_positive(64, 3),
        nn.Sequential(zeros(64, 3), nn.LogSoftmax(dim=1)),  # of which softmax is the same
        nn.Sequential(nn.LayerNorm(64), zeros(64, 3)),
        nn.Sequential(nn.Linear(64, 64), nn.Softmax(dim=1), small_and_positive(64, 3)),  # attention has one inside
        nn.Sequential(small_and_positive(64, 3), nn.ReLU()),
        nn.Sequential(*(nn.Linear(64, 64) for _ in range(40)), zeros(64, 3)),  # overflows at large weights
    ],
)
def test_logits_that_happen_to_lie_between_0_and_1_are_logits(last: nn.Module) -> None:
    check("net", sequence(last), DIGIT, 3)


@pytest.mark.parametrize("seed", range(20))
def test_no_model_of_two_classes_is_mistaken(seed: int) -> None:
    build(Model(name="cnn"), DIGIT, 2, seed)
    build(Model(name="mlp"), DIGIT, 2, seed)


def test_what_would_let_replicas_differ_is_refused() -> None:
    last = nn.Linear(64, 3)
    assert "dropout must be off" in refusal(Net(lambda s, x: nn.functional.dropout(s.last(x.flatten(1))), last=last))
    company = nn.BatchNorm1d(64, track_running_stats=False)
    assert "in other company" in refusal(sequence(company, last))
    assert "give BatchNorm a momentum" in refusal(sequence(nn.BatchNorm1d(64, momentum=None), last))
    check("net", sequence(nn.Dropout(0.5), nn.BatchNorm1d(64), last), DIGIT, 3)


def test_what_cannot_be_shipped_is_refused() -> None:
    doubled = sequence(nn.Linear(64, 3))
    doubled.register_buffer("table", torch.zeros(3, dtype=torch.int64))
    assert "buffer table is torch.int64" in refusal(doubled)
    half = Net(lambda s, x: s.last(x.double().flatten(1)).float(), last=nn.Linear(64, 3).double())
    assert "parameter last.weight is torch.float64: all parameters must be float32" in refusal(half)
    assert "gives torch.float32 (3, 4) for 3 examples: it must be float32 (n, 3)" in refusal(sequence(nn.Linear(64, 4)))
    assert "does not accept inputs of shape (1, 8, 8)" in refusal(sequence(nn.Linear(63, 3)))
    assert "not finite" in refusal(Net(lambda s, x: s.last(x.flatten(1)) / 0, last=nn.Linear(64, 3)))
    assert "no trainable parameters" in refusal(sequence(nn.Linear(64, 3).requires_grad_(False)))
    assert "gives a tuple" in refusal(Net(lambda s, x: (x, x), last=nn.Linear(64, 3)))


def test_buffers_that_are_not_persistent_are_no_weights() -> None:
    net = sequence(nn.Linear(64, 7), nn.Linear(7, 3))
    net.register_buffer("positions", torch.zeros(9), persistent=False)
    assert describe(net, DIGIT).size == 65 * 7 + 8 * 3


def test_a_factory_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "zowarmup_own_models.py").write_text(
        "from torch import nn\n"
        "THREE = 3\n"
        "def good(shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Dropout(), nn.Linear(5, classes))\n"
        "def nothing(shape, classes):\n"
        "    return None\n"
        "def broken(shape, classes):\n"
        "    raise KeyError('depth')\n"
    )

    def own(name: str) -> Model:
        return Model(name=f"zowarmup_own_models:{name}")

    module = build(own("good"), DIGIT, 10, 0)
    assert not module.training
    assert describe(module, DIGIT).head == Head("3.weight", "3.bias", 5, 10)
    for name, sentence in {
        "nothing": "the factory gave a NoneType, not a torch.nn.Module",
        "broken": r"factory\(\(1, 8, 8\), 10\) raised KeyError: 'depth'",
        "THREE": r"is a int: it must be callable as \(input_shape, outputs\)",
        "missing": "cannot be imported",
    }.items():
        with pytest.raises(ModelError, match=sentence):
            build(own(name), DIGIT, 10, 0)
    with pytest.raises(ModelError, match="cannot be imported"):
        build(Model(name="zowarmup_no_such_module:f"), DIGIT, 10, 0)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("cnn", (64,)), ("cnn", (1, 3, 8)), ("resnet18", (3, 4, 4)), ("vit", (3, 30, 32)), ("vit", (9,))],
)
def test_shapes_a_model_cannot_take(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=f"model {name} needs"):
        build(Model(name=name), shape, 10, 0)


@pytest.mark.parametrize(
    ("name", "shape", "remedy"),
    [
        ("cnn", (6,), "images (channels, H, W) of at least 4x4, not (6,): for rows use mlp"),
        ("resnet18", (3, 128), "images (channels, H, W) of at least 8x8, not (3, 128): for these sequences use cnn1d"),
        ("vit", (3, 2), "for sequences so short use mlp"),
        ("cnn1d", (6,), "sequences (channels, length) of at least 4 steps, not (6,): for rows use mlp"),
        ("cnn1d", (3, 3), "not (3, 3): for sequences so short use mlp"),
        (
            "cnn1d",
            (1, 128, 6),
            "for images use cnn; if they are sequences (n, length, channels), read them with npz:PATH",
        ),
    ],
)
def test_the_model_that_suits_the_shape_is_named(name: str, shape: tuple[int, ...], remedy: str) -> None:
    with pytest.raises(ModelError) as caught:
        build(Model(name=name), shape, 10, 0)
    assert remedy in str(caught.value)
