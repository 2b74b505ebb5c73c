"""Models as people bring them: each is taken, or refused in one sentence that names it, the line and what to do."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from zowarmup.common.models.construction import ModelError, build, foreign_code
from zowarmup.common.models.description import describe, flatten
from zowarmup.common.models.export import export_program
from zowarmup.common.models.program import Program
from zowarmup.common.settings.run import Model

SHAPE, CLASSES = (1, 8, 8), 10
Factory = Callable[[tuple[int, ...], int], Any]


class Net(nn.Module):
    """`way` is its forward; the rest its layers."""

    def __init__(self, way: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.way = way
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, inputs: torch.Tensor) -> Any:
        return self.way(self, inputs)


def one_layer_under_two_names() -> nn.Module:
    layer = nn.Linear(64, 64)
    return nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer, nn.Linear(64, CLASSES))


def a_list_of_the_same_layers() -> nn.Module:
    body, head = nn.Linear(64, 16), nn.Linear(16, CLASSES)
    layers = nn.ModuleList([body, head])
    return Net(lambda m, x: m.layers[1](m.layers[0](x.flatten(1)).relu()), body=body, head=head, layers=layers)


def one_block_three_times() -> nn.Module:
    block = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU())
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16), nn.ModuleList([block])[0], block, block, nn.Linear(16, CLASSES)
    )


def one_parameter_in_two_layers() -> nn.Module:
    first, second = nn.Linear(64, 64), nn.Linear(64, 64)
    second.weight = first.weight
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.Linear(64, CLASSES))


TAKEN: dict[str, Callable[[], nn.Module]] = {
    "one_layer_under_two_names": one_layer_under_two_names,
    "a_list_of_the_same_layers": a_list_of_the_same_layers,
    "one_block_three_times": one_block_three_times,
    "one_parameter_in_two_layers": one_parameter_in_two_layers,
    "lazy": lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(CLASSES)),
    "recurrent": lambda: Net(
        lambda m, x: m.head(m.rnn(x.flatten(1, 2))[0][:, -1]),
        rnn=nn.GRU(8, 16, batch_first=True),
        head=nn.Linear(16, CLASSES),
    ),
}


@pytest.mark.parametrize("name", TAKEN)
def test_a_model_that_is_taken_is_exported_with_every_weight_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = built(lambda shape, classes: TAKEN[name](), monkeypatch)
    layout = describe(module, SHAPE)
    before = flatten(module, layout)
    onnx = export_program(module, layout, SHAPE)  # which compares the graph with the module at other weights
    assert (flatten(module, layout) == before).all()
    assert layout.trainable == sum(p.numel() for p in module.parameters())
    inputs = torch.rand(3, *SHAPE)
    with torch.no_grad():
        wanted = module(inputs).numpy()
    logits, _ = Program(onnx, layout, before).forward(inputs.numpy())
    assert np.allclose(logits, wanted, atol=1e-4)


def branches(net: Net, inputs: torch.Tensor) -> torch.Tensor:
    inputs = inputs.flatten(1)
    if inputs.sum() > 0:
        inputs = inputs * 2
    head: Any = net.head
    return head(inputs)  # type: ignore[no-any-return]


def through_numpy(net: Net, inputs: torch.Tensor) -> torch.Tensor:
    head: Any = net.head
    return head(torch.from_numpy(inputs.detach().numpy() ** 2).flatten(1))  # type: ignore[no-any-return]


def raising(error: BaseException) -> Callable[[Net, torch.Tensor], torch.Tensor]:
    def forward(net: Net, inputs: torch.Tensor) -> torch.Tensor:
        raise error

    return forward


def headed(way: Callable[..., Any]) -> Factory:
    return lambda shape, classes: Net(way, head=nn.Linear(64, CLASSES), other=nn.Linear(2, 2))


def linear(**options: Any) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES, **options))


def exiting(shape: tuple[int, ...], classes: int) -> nn.Module:
    sys.exit("no licence")


def scripted(shape: tuple[int, ...], classes: int) -> nn.Module:
    return torch.jit.script(linear())


LINE = r"test_odd_models\.py, line \d+"
REFUSED: dict[str, tuple[Factory, str]] = {
    "key": (headed(raising(KeyError("logits"))), rf"shape \(1, 8, 8\): KeyError: 'logits' \(.*{LINE}\)"),
    "assertion": (headed(raising(AssertionError("RGB only"))), rf"AssertionError: RGB only \(.*{LINE}\)"),
    "attribute": (headed(lambda net, inputs: net.no_such_layer(inputs)), rf"has no attribute 'no_such_layer'.*{LINE}"),
    "exit": (exiting, rf"raised SystemExit: no licence \(.*{LINE}\)"),
    "exit in forward": (headed(raising(SystemExit(0))), rf"SystemExit: 0 \(.*{LINE}\)"),
    "memory": (headed(raising(MemoryError())), rf"out of memory \(MemoryError\) \(.*{LINE}\)"),
    "recursion": (headed(lambda net, inputs: net(inputs)), f"RecursionError.*{LINE}"),
    "none": (lambda shape, classes: None, "gave a NoneType, not a torch.nn.Module: does it end without a return?"),
    "class": (lambda shape, classes: nn.Identity, "gave the class Identity: it must return an object of it"),
    "tensor": (lambda shape, classes: torch.zeros(3), "gave a Tensor, not a torch.nn.Module"),
    "scripted": (scripted, "is a TorchScript module"),
    "half": (lambda shape, classes: linear().half(), "1.weight is torch.float16: all parameters must be float32"),
    "complex": (lambda shape, classes: linear(dtype=torch.complex64), "1.weight is torch.complex64"),
    "meta": (lambda shape, classes: linear(device="meta"), "1.weight is on the meta device and has no values"),
    "gpu": (lambda shape, classes: linear(device="cuda"), "factory.* raised "),
    "dict": (
        headed(lambda net, inputs: {"logits": net.head(inputs.flatten(1))}),
        "gives a dict .* one tensor, float32",
    ),
    "tuple": (headed(lambda net, inputs: (net.head(inputs.flatten(1)), 0)), "gives a tuple .* one tensor, float32"),
    "integers": (headed(lambda net, inputs: net.head(inputs.flatten(1)).argmax(1)), r"gives torch.int64 \(3,\)"),
    "classes": (lambda shape, classes: nn.Sequential(nn.Flatten(), nn.Linear(64, 7)), r"\(3, 7\) for 3 examples"),
    "batch size": (headed(lambda net, inputs: net.head(inputs.view(3, -1))), "accepts 3 examples at once and not 2"),
    "loss": (headed(lambda net, inputs, labels: net.head(inputs)), "missing 1 required positional argument"),
    "branch": (headed(branches), rf"decides by the values of its inputs at .*{LINE}.*torch\.where"),
    "numpy": (headed(through_numpy), rf"\.numpy\(\) is not supported.*{LINE}.*only torch's own operations"),
    "operator": (
        lambda shape, classes: nn.Sequential(nn.AdaptiveMaxPool2d(3), nn.Flatten(), nn.Linear(9, CLASSES)),
        "no operator for torch's aten.adaptive_max_pool2d: use another layer",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_is_not_taken_is_refused_in_a_sentence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    factory, words = REFUSED[name]
    with pytest.raises(ModelError, match=words) as refused:
        shipped(factory, monkeypatch)
    sentence = str(refused.value)
    assert sentence.startswith("model ")
    assert "test_odd_models:factory" in sentence
    assert len(sentence.splitlines()) == 1


def test_a_compiled_module_is_the_one_that_it_was_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    module = built(lambda shape, classes: torch.compile(linear()), monkeypatch)
    assert [tensor.name for tensor in describe(module, SHAPE).tensors] == ["1.weight", "1.bias"]


@pytest.mark.parametrize("code", ["import no_such_library", "x = = 1", "1 / 0", "import sys; sys.exit(4)"])
def test_a_module_whose_import_fails(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    name = f"broken_{abs(hash(code))}"
    (tmp_path / f"{name}.py").write_text("\n" + code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match=rf"model {name}:net cannot be imported: .*{name}\.py, line 2"):
        build(Model(name=f"{name}:net"), SHAPE, CLASSES, 0)


def shipped(factory: Factory, monkeypatch: pytest.MonkeyPatch) -> bytes:
    with foreign_code("model test_odd_models:factory:"):
        module = built(factory, monkeypatch)
        return export_program(module, describe(module, SHAPE), SHAPE)


def built(factory: Factory, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    monkeypatch.setattr(sys.modules[__name__], "factory", factory, raising=False)
    return build(Model(name=f"{__name__}:factory"), SHAPE, CLASSES, 0)
