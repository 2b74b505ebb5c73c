"""A model in two parts: what lies below the cut, and the two graphs that are together the program."""

import json
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from tests.language import DECODER, ENCODER
from zowarmup.common.exact.layout import Block, Cut, Layout
from zowarmup.common.lora import Lora
from zowarmup.common.models.base import Constant
from zowarmup.common.models.construction import ModelError, build, sample
from zowarmup.common.models.cutting import boundary_of, crossing, cut_of, lies_below
from zowarmup.common.models.description import constants_of, describe, flatten
from zowarmup.common.models.export import export_program
from zowarmup.common.models.graph import ProgramRefused, checked
from zowarmup.common.models.halves import halves
from zowarmup.common.models.language.boundary import Boundary
from zowarmup.common.models.program import Program
from zowarmup.common.settings.architecture import Architecture
from zowarmup.common.settings.data_card import PADDING
from zowarmup.common.settings.language import Language
from zowarmup.common.settings.run import Model

SHAPE = (12,)
FAMILIES: dict[str, dict[str, Any]] = {"bert": ENCODER, "llama": DECODER}


def made(family: str, cut: int | None = 1, last_token: bool = False, train: str = "norm") -> nn.Module:
    architecture = Architecture.from_config(json.dumps({**FAMILIES[family], "num_hidden_layers": 3}))
    language = Language(architecture=architecture, lora=Lora.of(train), last_token=last_token, cut=cut)
    return build(Model(name=f"hf:{family}"), SHAPE, 2, 0, language=language)


@cache
def exported(family: str) -> tuple[nn.Module, Layout, bytes, dict[str, Constant]]:
    module = made(family)
    layout = describe(module, SHAPE, train="norm", pretrained=True)
    constants = {name: Constant("F32", tensor.detach().numpy()) for name, tensor in constants_of(module).items()}
    return module, layout, export_program(module, layout, SHAPE), constants


@pytest.mark.parametrize(("family", "cut", "last_token"), [("bert", 0, False), ("llama", 2, False), ("llama", 1, True)])
def test_the_two_parts_are_together_the_whole(family: str, cut: int, last_token: bool) -> None:
    module = made(family, cut, last_token)
    layout = describe(module, SHAPE, train="all", pretrained=True)
    weights = flatten(module, layout)
    program = Program(export_program(module, layout, SHAPE), layout, weights)
    plain = made(family, None, last_token)
    for count in (1, 4):
        tokens = sample(module, SHAPE, count)
        crossing = program.lower(tokens.numpy())
        means = [] if last_token else [(count, 16 * (cut + 1))]
        assert [part.shape for part in crossing] == [(*tokens.shape, 16), *means]
        logits, features = program.upper(tokens.numpy(), crossing)
        with torch.no_grad():
            np.testing.assert_allclose(logits, plain(tokens).numpy(), rtol=1e-5, atol=1e-5)
        again = program.forward(tokens.numpy())
        assert features is not None and np.array_equal(again[0], logits)
        assert again[1] is not None and np.array_equal(again[1], features)


def test_what_is_above_the_cut_reads_nothing_behind_an_examples_tokens() -> None:
    """So what a batch has there may be anything: kept activations have zeros."""
    for family in FAMILIES:
        module, layout, graph, constants = exported(family)
        program = Program(graph, layout, flatten(module, layout), constants=constants)
        tokens = sample(module, SHAPE, 3).numpy()
        activations, means = program.lower(tokens)
        cleared = activations * (tokens != PADDING)[:, :, None].astype(np.float32)
        assert not np.array_equal(cleared, activations)
        found = [program.upper(tokens, (held, means))[0] for held in (activations, cleared)]
        np.testing.assert_allclose(found[0], found[1], rtol=1e-6, atol=1e-7)


def test_a_move_of_the_vector_moves_the_part_that_it_belongs_to() -> None:
    module, layout, graph, constants = exported("bert")
    weights = flatten(module, layout)
    program, tokens = Program(graph, layout, weights, constants=constants), sample(module, SHAPE, 2).numpy()
    before = program.lower(tokens)
    logits = program.upper(tokens, before)[0]
    upper, lower = layout.block("upper"), layout.block("lower")
    weights[upper.start : upper.stop] += 0.1
    assert all(map(np.array_equal, program.lower(tokens), before))
    moved = program.upper(tokens, before)[0]
    assert not np.array_equal(moved, logits)
    weights[lower.start : lower.stop] += 0.1
    assert not np.array_equal(program.lower(tokens)[0], before[0])
    np.testing.assert_array_equal(program.upper(tokens, before)[0], moved)


@pytest.mark.parametrize("train", ["norm", "all", "layers:*attention*", "lora:r=2,modules=q,v"])
def test_what_moves_below_comes_before_what_moves_above(train: str) -> None:
    module = made("bert", train=train)
    layout = describe(module, SHAPE, train=train, pretrained=True)
    assert layout.cut == Cut(1, 3, 16, 32)
    lower, upper = layout.block("lower"), layout.block("upper")
    assert (lower.start, lower.stop, upper.stop) == (0, upper.start, layout.block("head").start)
    for tensor in layout.tensors:
        below = "embeddings" in tensor.name or ".layer.0." in tensor.name
        assert below is (tensor.stop <= lower.stop), tensor.name
    alone = describe(made("bert", train=train), SHAPE, train=train, pretrained=True, only_above=True)
    assert [block.name for block in alone.blocks] == ["all", "trunk", "head", "upper"]
    assert {tensor.name for tensor in alone.tensors} == {
        tensor.name for tensor in layout.tensors if tensor.start >= lower.stop
    }
    assert Layout.from_json(layout.to_json()) == layout


def test_nothing_below_moves_where_train_leaves_it_out() -> None:
    layout = describe(made("bert"), SHAPE, train="layers:*.layer.[12].*", pretrained=True)
    assert layout.block("upper") == Block("upper", 0, layout.block("head").start)
    with pytest.raises(ModelError, match=r"moves nothing above the cut but the head: lower zeroth_order\.cut"):
        describe(made("bert", 2), SHAPE, train="layers:*.layer.[01].*", pretrained=True)


def test_a_model_is_cut_where_it_has_a_layer() -> None:
    with pytest.raises(ModelError, match=r"cut = 3: model hf:bert has 3 layers, and the first .* must be 0 to 2"):
        made("bert", 3)


class _Small(nn.Module):
    """Two layers, of which the first is below the cut, and a tensor that both read."""

    def __init__(self, shared: bool = False) -> None:
        super().__init__()
        self.below, self.above = nn.Linear(4, 4), nn.Linear(4, 4)
        self.gain, self.shared = nn.Parameter(torch.ones(4)), shared
        self.boundary = Boundary(1, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.below(inputs) * self.gain
        hidden, means = self.boundary(hidden, hidden.mean(1))
        hidden = self.above(hidden)
        if self.shared:
            hidden = hidden * self.gain
        found: torch.Tensor = hidden.mean(1) + means
        return found


def test_back_propagation_says_what_lies_below() -> None:
    module = _Small()
    crossed = crossing(module, torch.ones(2, 3, 4))
    assert [tuple(part.shape) for part in crossed] == [(2, 3, 4), (2, 4)]
    assert cut_of(module, crossed) == Cut(1, 2, 4, 4)
    assert lies_below(crossed, dict(module.named_parameters())) == {"below.weight", "below.bias", "gain"}
    assert lies_below(crossed, {}) == set()
    assert boundary_of(module) is module.boundary and boundary_of(module.below) is None
    assert not module.boundary._forward_hooks


def graph_of() -> tuple[Layout, onnx.ModelProto, dict[str, Constant]]:
    _, layout, graph, constants = exported("bert")
    return layout, onnx.load_from_string(graph), constants


def test_each_half_reads_what_it_needs_and_no_more() -> None:
    layout, graph, constants = graph_of()
    lower, upper = (onnx.load_from_string(part) for part in halves(graph.SerializeToString(), layout))
    read = [{value.name for value in part.graph.input} for part in (lower, upper)]
    everything = {tensor.name for tensor in layout.tensors} | constants.keys() | {"inputs"}
    assert read[0] | read[1] == everything | {"activations", "means"}
    assert read[0] & read[1] == {"inputs"}
    assert [value.name for value in upper.graph.output] == ["logits", "features"]
    assert len(lower.graph.node) + len(upper.graph.node) < len(graph.graph.node) + 20, "little is computed twice"


def test_a_program_that_reads_a_tensor_on_the_wrong_side_is_refused() -> None:
    layout, graph, constants = graph_of()
    names = {
        block: next(t.name for t in layout.tensors if t.start == layout.block(block).start)
        for block in ("lower", "upper")
    }
    for here, there, side in (("lower", "upper", "below"), ("upper", "lower", "above")):
        changed = onnx.ModelProto()
        changed.CopyFrom(graph)
        for node in changed.graph.node:
            for place, name in enumerate(node.input):
                if name == names[here]:
                    node.input[place] = names[there]
        with pytest.raises(ProgramRefused, match=f"it reads tensor {names[there]} {side} the cut"):
            Program(changed.SerializeToString(), layout, np.zeros(layout.size, np.float32), constants=constants)


def test_a_program_without_what_crosses_the_cut_is_refused() -> None:
    layout, graph, constants = graph_of()
    for change, sentence in (
        (lambda outputs: outputs.pop(), "its outputs are logits, features, activations, it should give"),
        (lambda outputs: setattr(outputs[2].type.tensor_type.shape.dim[2], "dim_value", 17), r"must be \(n, t, 16\)"),
        (
            lambda outputs: outputs[2].type.tensor_type.shape.dim.pop(),
            r"output activations has shape .*must be \(n, t, 16\)",
        ),
        (lambda outputs: setattr(outputs[3].type.tensor_type.shape.dim[1], "dim_value", 3), r"must be \(n, 32\)"),
    ):
        changed = onnx.ModelProto()
        changed.CopyFrom(graph)
        change(changed.graph.output)
        with pytest.raises(ProgramRefused, match=sentence):
            checked(changed.SerializeToString(), layout, constants)


def test_something_else_that_crosses_the_cut_is_refused() -> None:
    layout, graph, _ = graph_of()
    made_by = next(node for node in graph.graph.node if "activations" in node.output)
    made_by.output.append("more")
    last = next(node for node in graph.graph.node if "logits" in node.output)
    last.input.append("more")
    with pytest.raises(ProgramRefused, match="makes what crosses the cut, and more that is read above it"):
        halves(graph.SerializeToString(), layout)
