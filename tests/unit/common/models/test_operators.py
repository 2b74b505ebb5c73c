"""The list of operators is what the exporter takes for the built-in models and the layers in common use: no more, no less.

Without the list a program could ask for anything that the runtime can do; with one that is too short a model of
somebody's own would be refused.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import defs, helper
from torch import nn

from tests.language import DECODER
from zowarmup.common.models.construction import build
from zowarmup.common.models.description import constants_of, describe, load_constants
from zowarmup.common.models.export import export_program
from zowarmup.common.models.graph import OPERATORS, OPSET, WRITTEN_OUT
from zowarmup.common.models.narrow import narrowed
from zowarmup.common.settings.architecture import Architecture
from zowarmup.common.settings.language import Language
from zowarmup.common.settings.run import Model
from zowarmup.v1 import program_pb2 as wire

pytestmark = pytest.mark.timeout(1800)  # an export takes seconds, and many on a busy machine
IMAGE, SEQUENCE, ROW = (3, 8, 8), (4, 12), (12,)
CLASSES = 5


class Net(nn.Module):
    """`way` is its forward, before a linear layer; the rest its layers."""

    def __init__(self, way: Callable[[Any, torch.Tensor], torch.Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.way = way
        self.head = nn.LazyLinear(CLASSES)
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(self.way(self, inputs).flatten(1))  # type: ignore[no-any-return]


def layers(*parts: nn.Module) -> nn.Module:
    return nn.Sequential(*parts, nn.Flatten(), nn.LazyLinear(CLASSES))


def side_by_side(*parts: nn.Module) -> nn.Module:
    """Each over the same inputs."""
    return Net(lambda net, x: torch.cat([part(x).flatten(1) for part in net.parts], 1), parts=nn.ModuleList(parts))


def way(*functions: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    return Net(lambda net, x: torch.cat([function(x).float().flatten(1) for function in functions], 1))


def cells(net: Any, inputs: torch.Tensor) -> torch.Tensor:
    hidden = cell = torch.zeros(inputs.shape[0], 6)
    for time in range(3):
        hidden, cell = net.lstm(inputs[:, :, time], (hidden, cell))
        hidden = net.gru(inputs[:, :, time], hidden)
    return hidden


def causal(net: Any, inputs: torch.Tensor) -> torch.Tensor:
    tokens = inputs.transpose(1, 2)
    mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
    return net.encoder(tokens, mask=mask, is_causal=True)[:, -1]  # type: ignore[no-any-return]


def attention(inputs: torch.Tensor) -> torch.Tensor:
    heads = inputs.transpose(1, 2).reshape(-1, 12, 2, 2).transpose(1, 2)
    return F.scaled_dot_product_attention(heads, heads, heads, is_causal=True)


def tokens(net: Any, inputs: torch.Tensor) -> torch.Tensor:
    """A mean of embeddings in which padding does not count."""
    chosen = (inputs * 9).long().clamp(0, 7)
    there = chosen != 0
    summed = (net.embedding(chosen) * there[..., None].float()).sum(1)
    return summed / there.sum(1, keepdim=True).clamp(min=1)  # type: ignore[no-any-return]


def recurrent(kind: Callable[..., nn.Module], **options: Any) -> nn.Module:
    return Net(lambda net, x: net.layer(x.transpose(1, 2))[0][:, -1], layer=kind(4, 6, batch_first=True, **options))


ACTIVATIONS = (
    *(nn.ReLU(), nn.LeakyReLU(), nn.PReLU(), nn.ELU(), nn.SELU(), nn.CELU(), nn.GELU(), nn.GELU("tanh"), nn.SiLU()),
    *(nn.Mish(), nn.Hardswish(), nn.Hardsigmoid(), nn.Hardtanh(), nn.ReLU6(), nn.Sigmoid(), nn.Tanh(), nn.Softplus()),
    *(nn.Softsign(), nn.Tanhshrink(), nn.Softshrink(), nn.Hardshrink(), nn.LogSigmoid(), nn.Softmin(1), nn.GLU()),
    *(nn.Threshold(0.2, 0.1), nn.Softmax(1), nn.LogSoftmax(1)),
)
CONVOLUTIONS = (
    *(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(3, 6, 3, groups=3, dilation=2), nn.ConvTranspose2d(3, 4, 3, 2)),
    *(nn.Conv2d(3, 4, 3, padding=1, padding_mode=mode) for mode in ("reflect", "replicate", "circular")),
)
POOLS = (
    *(
        nn.MaxPool2d(2),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.AdaptiveAvgPool2d(1),
        nn.AdaptiveAvgPool2d(4),
    ),
    *(nn.AdaptiveMaxPool2d(1), nn.LPPool2d(2, 2), nn.MaxPool2d(3, 2, 1, ceil_mode=True)),
)
NORMS = (
    *(nn.BatchNorm2d(3), nn.BatchNorm2d(3, affine=False), nn.InstanceNorm2d(3, affine=True), nn.GroupNorm(3, 3)),
    *(nn.LayerNorm([3, 8, 8]), nn.RMSNorm([8]), nn.LocalResponseNorm(2), nn.Dropout2d()),
)
SHAPES = (
    *(nn.Upsample(scale_factor=2, mode=mode) for mode in ("nearest", "bilinear", "bicubic")),
    *(nn.ZeroPad2d(1), nn.ReflectionPad2d(1), nn.ReplicationPad2d(1), nn.PixelUnshuffle(2), nn.Unfold(2, stride=2)),
    nn.Sequential(nn.Conv2d(3, 4, 1), nn.PixelShuffle(2), nn.ChannelShuffle(1)),
)

CASES: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    "activations": (ROW, lambda: side_by_side(*ACTIVATIONS)),
    "convolutions": (IMAGE, lambda: side_by_side(*CONVOLUTIONS)),
    "pools": (IMAGE, lambda: side_by_side(*POOLS)),
    "normalisation": (IMAGE, lambda: side_by_side(*NORMS)),
    "shapes": (IMAGE, lambda: side_by_side(*SHAPES)),
    "along a sequence": (SEQUENCE, lambda: layers(nn.Conv1d(4, 4, 3), nn.MaxPool1d(2), nn.ConvTranspose1d(4, 4, 3))),
    "in space": (IMAGE, lambda: layers(nn.Unflatten(1, (1, 3)), nn.Conv3d(1, 2, 2), nn.MaxPool3d(2))),
    "bilinear": (ROW, lambda: Net(lambda net, x: net.layer(x, x), layer=nn.Bilinear(12, 12, 4))),
    "rnn": (SEQUENCE, lambda: recurrent(nn.RNN)),
    "gru": (SEQUENCE, lambda: recurrent(nn.GRU, bidirectional=True)),
    "lstm": (SEQUENCE, lambda: recurrent(nn.LSTM, num_layers=2)),
    "cells": (SEQUENCE, lambda: Net(cells, lstm=nn.LSTMCell(4, 6), gru=nn.GRUCell(4, 6))),
    "transformer": (
        SEQUENCE,
        lambda: Net(
            causal,
            encoder=nn.TransformerEncoder(
                nn.TransformerEncoderLayer(4, 2, 8, activation="gelu", batch_first=True), 1, enable_nested_tensor=False
            ),
        ),
    ),
    "attention": (SEQUENCE, lambda: way(attention)),
    "tokens": (ROW, lambda: Net(tokens, embedding=nn.Embedding(8, 6, padding_idx=0))),
    "arithmetic": (
        IMAGE,
        lambda: way(
            lambda x: (x + 1) / (x * x + 2) - x.abs().sqrt() + x.exp().log1p() - x.pow(3) + x.neg() + x.square(),
            lambda x: x.sin() + x.cos() + x.tan() + x.atan() + x.asin() + x.sinh() + x.cosh(),
            lambda x: x.erf() + x.floor() + x.ceil() + x.round() + x.sign() + (x + 1).reciprocal(),
            lambda x: (x + 1).rsqrt() + (x + 1).log2() + x.expm1() + x.fmod(0.3) + torch.remainder(x, 0.2),
            lambda x: torch.maximum(x, torch.minimum(x * x, x + 1)) + x.clamp(0.1, 0.9) + torch.atan2(x, x + 1),
            lambda x: x.nan_to_num() + torch.where(x.isnan() | x.isinf(), 0.0, x) + (x * 8 // 3),
        ),
    ),
    "comparisons": (
        IMAGE,
        lambda: way(
            lambda x: (x >= 0.5) & (x <= 0.9) | (x == 0) ^ (x < 0.1),
            lambda x: ~(x != 0.5),
            lambda x: torch.where(x > 0.5, x, -x),
            lambda x: x.masked_fill(x < 0.3, -1.0),
            lambda x: (x > 0.5).any(1).float() + (x > 0.5).all(1).float(),
            lambda x: torch.bucketize(x, torch.tensor([0.2, 0.5])),
        ),
    ),
    "reductions": (
        IMAGE,
        lambda: way(
            lambda x: x.mean((2, 3)) + x.sum((2, 3)) + x.amax((2, 3)) + x.amin((2, 3)) + x[:, :, 0, :2].prod(2),
            lambda x: x.logsumexp((2, 3)) + x.var((2, 3)) + x.std((2, 3)) + x.norm(1, dim=(2, 3)),
            lambda x: F.normalize(x.flatten(1)) * F.cosine_similarity(x, x + 1).mean((1, 2))[:, None],
            lambda x: x.flatten(1).argmax(1)[:, None] + F.one_hot(x.flatten(1).argmax(1), 192),
            lambda x: x.flatten(1).topk(5)[0],
            lambda x: x.flatten(1).sort(1)[0].cumsum(1),
        ),
    ),
    "indices": (
        IMAGE,
        lambda: way(
            lambda x: torch.cat([x[:, 1:], x[:, :1]], 1).roll(2, 3).flip(2)[:, :, ::2, 1::2],
            lambda x: x[:, [2, 0, 1]] + x.index_select(2, torch.arange(7, -1, -1)),
            lambda x: x.flatten(1).gather(1, x.flatten(1).argsort(1)[:, :9]),
            lambda x: torch.zeros_like(x.flatten(1)).scatter(1, x.flatten(1).argsort(1)[:, :9], 1.0),
            lambda x: x[:, :1].expand(-1, 3, -1, -1).tile(1, 1, 2, 1) + x.repeat_interleave(2, 2),
            lambda x: torch.cat(torch.split(x, [2, 6], 2)[::-1], 2) + torch.stack(x.unbind(1), 1),
            lambda x: x.tril() + x.triu(1) + torch.arange(8).float(),
            lambda x: x.diagonal(0, 2, 3),
            lambda x: x.view(x.size(0), -1) * x.shape[0],
            lambda x: torch.einsum("nchw,nchv->ncwv", x, x) + x @ x.mT,
            lambda x: F.grid_sample(
                x,
                F.affine_grid(torch.eye(2, 3).expand(x.shape[0], 2, 3), [x.shape[0], 3, 8, 8], False),
                align_corners=False,
            ),
        ),
    ),
}
BUILT_IN = [
    (Model(name="mlp"), (1, 8, 8)),
    (Model(name="cnn"), (1, 8, 8)),
    (Model(name="cnn1d"), (3, 37)),
    (Model(name="resnet8"), (3, 16, 16)),
    (Model(name="resnet18"), (3, 16, 16)),
    (Model(name="resnet18", norm="batch"), (3, 16, 16)),
    (Model(name="vit"), (3, 16, 16)),
]


@pytest.fixture(scope="module")
def taken() -> dict[str, set[str]]:
    """The operators of each case, as the exporter writes it. (`export_program` runs it, too, so each is one that is
    allowed.)"""
    found: dict[str, set[str]] = {}
    for name, (shape, make) in CASES.items():
        torch.manual_seed(0)
        module = make().eval()
        with torch.no_grad():
            module(torch.rand(2, *shape))
        found[name] = operators(export_program(module, describe(module, shape), shape))
    for model, shape in BUILT_IN:
        module = build(model, shape, CLASSES, 0)
        found[f"{model.name} {model.norm}"] = operators(export_program(module, describe(module, shape), shape))
    language = Language(architecture=Architecture.from_config(json.dumps(DECODER)), completes=True)
    module = build(Model(name="hf:model", task="completion"), (12,), 2, 0, logits=False, language=language)
    layout = describe(module, (12,), exact_head=False, train="norm", pretrained=True)
    base = narrowed({name: tensor.detach().numpy() for name, tensor in constants_of(module).items()}, "int8")
    load_constants(module, base)
    found["a decoder in 8 bits"] = operators(export_program(module, layout, (12,), base))
    return found


def operators(onnx: bytes) -> set[str]:
    return {node.op_type for node in wire.ProgramModel.FromString(onnx).graph.node}


def test_the_list_holds_what_is_exported_and_nothing_else(taken: dict[str, set[str]]) -> None:
    exported = set().union(*taken.values())
    assert not OPERATORS - exported, "nothing takes these: leave them out"
    assert not exported - OPERATORS


def test_no_operator_of_the_list_has_a_graph_a_function_or_a_file() -> None:
    for name in ("If", "Loop", "Scan", "SequenceMap", "Constant", "RandomNormal", "StringConcat", "ImageDecoder"):
        assert name not in OPERATORS


def test_what_the_runtime_writes_out_is_known(tmp_path: Path) -> None:
    """By its own word, of the operators that ONNX defines by others."""
    for name in sorted(OPERATORS):
        schema: Any = defs.get_schema(name, OPSET)
        if not (schema.has_function or schema.has_context_dependent_function):
            assert name not in WRITTEN_OUT
            continue
        groups: dict[str, Any] = {"num_groups": 2} if name == "GroupNormalization" else {}
        inputs = ["x", "s", "s"] if groups else ["x"] * schema.min_input
        body = helper.make_graph(
            [helper.make_node(name, inputs, ["y"], **groups)],
            "one",
            [helper.make_tensor_value_info("x", 1, ["n", 2, 3])],
            [helper.make_tensor_value_info("y", 9 if name.endswith("OrEqual") else 1, None)],
            [helper.make_tensor("s", 1, [2], [1.0, 1.0])],
        )
        model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "written_out.onnx")
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        assert len(onnx.load(tmp_path / "written_out.onnx").graph.node) == WRITTEN_OUT.get(name, 1), name
