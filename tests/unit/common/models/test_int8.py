"""Constants in 8 bits: what is lost, and graphs that read them."""

import json
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tests.language import DECODER, ENCODER
from zowarmup.common.lora import Lora
from zowarmup.common.models import int8
from zowarmup.common.models.base import BaseError, Constant
from zowarmup.common.models.construction import build, sample
from zowarmup.common.models.description import constants_of, describe, flatten, load_constants
from zowarmup.common.models.export import export_program
from zowarmup.common.models.int8 import SCALE_OF, int8_names, quantised, widened
from zowarmup.common.models.language import causal
from zowarmup.common.models.late_weights import with_late_weights
from zowarmup.common.models.program import Program
from zowarmup.common.settings.architecture import Architecture
from zowarmup.common.settings.language import Language
from zowarmup.common.settings.run import Model


def test_a_matrix_is_off_by_half_a_step_of_its_row_at_most() -> None:
    random = np.random.default_rng(0)
    tensors = {
        "large": (random.normal(size=(70, 80)) * np.exp(random.normal(0, 3, (70, 1)))).astype(np.float32),
        "small": random.normal(size=(7, 8)).astype(np.float32),
        "bias": random.normal(size=9000).astype(np.float32),
    }
    tensors["large"][3] = 0
    base = quantised(tensors)
    assert int8_names(base) == ["large"]
    assert base["large"].values.nbytes == tensors["large"].size
    found = widened(base)
    assert found.keys() == tensors.keys()
    assert np.array_equal(found["small"], tensors["small"])
    step = np.abs(tensors["large"]).max(axis=1, keepdims=True) / 127
    assert (np.abs(found["large"] - tensors["large"]) <= 0.501 * step).all()
    assert quantised(found)["large"].values.tobytes() == base["large"].values.tobytes(), "what is rounded stays"
    with pytest.raises(BaseError, match="no floating-point numbers"):
        widened({"alone": base["large"]})


@pytest.mark.parametrize("config", [ENCODER, DECODER, {**DECODER, "tie_word_embeddings": False}])
def test_a_program_computes_with_8_bits_what_the_module_does(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "LEAST", 64)
    monkeypatch.setattr(causal, "ROWS", 10)
    train, made = "lora:r=2,modules=q,v", Architecture.from_config(json.dumps(config))
    language = Language(architecture=made, lora=Lora.of(train), completes=made.decoder)
    module = build(Model(name="hf:model"), (12,), 2, 0, logits=not made.decoder, language=language)
    layout = describe(module, (12,), not made.decoder, train, pretrained=True)
    base = quantised({name: tensor.detach().numpy() for name, tensor in constants_of(module).items()})
    load_constants(module, base)
    exported = export_program(module, layout, (12,), base)
    program = Program(exported, layout, flatten(module, layout), constants=base)
    tokens = sample(module, (12,), 3)
    with torch.no_grad():
        assert np.allclose(program.forward(tokens.numpy())[0], module(tokens).numpy(), atol=1e-5)
    graph = onnx.load_from_string(exported).graph
    narrow = set(int8_names(base))
    assert len(narrow) >= 14
    assert {value.name for value in graph.input} >= narrow | {name + SCALE_OF for name in narrow}
    (embedding,) = (name for name in narrow if "embed_tokens" in name or "word_embeddings" in name)
    assert {node.op_type for node in graph.node if embedding in node.input} <= {"Gather", "Slice"}, (
        "none makes all of it float32"
    )
    makers = {node.output[0]: node for node in graph.node}
    for node in graph.node:
        if node.op_type == "DequantizeLinear":
            above, left = set[str](), list(node.input)
            while left:
                if (name := left.pop()) in makers and name not in above:
                    above.add(name)
                    left += makers[name].input
            assert any(makers[name].op_type == "Gather" for name in above), "not before the pass has come as far"


def test_a_part_of_a_matrix_is_cut_out_when_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "LEAST", 12)
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    value = helper.make_tensor_value_info
    numbers = [numpy_helper.from_array(np.array([n]), name) for n, name in ((0, "rows"), (1, "columns"), (2, "two"))]
    nodes = [
        helper.make_node("Slice", ["w", "rows", "two", "rows"], ["first"]),
        helper.make_node("Slice", ["w", "rows", "two", "columns"], ["left"]),
        helper.make_node("Gemm", ["x", "first"], ["a"], transB=1),
        helper.make_node("MatMul", ["a", "left"], ["out"]),
    ]
    w, x = np.arange(12, dtype=np.float32).reshape(3, 4), np.ones((5, 4), np.float32)
    for int8_matrices in ((), ("w",)):
        inputs = [value("x", 1, [None, 4]), value("w", 1, [3, 4])]
        graph = helper.make_graph([nodes[0], nodes[2]], "g", inputs, [value("a", 1, [None, None])], numbers)
        model = with_late_weights(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), ["w"], int8_matrices
        )
        order = [node.op_type for node in model.graph.node]
        assert order.index("Size") < order.index("Slice"), "the size of what is read beside it"
        base = quantised({"w": w}) if int8_matrices else {"w": Constant("F32", w)}
        model.ir_version = 10
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        given = {name: constant.values for name, constant in base.items()}
        (found,) = session.run(None, {"x": x} | given)
        assert np.allclose(found, x @ widened(base)["w"][:2].T)
    columns = helper.make_model(
        helper.make_graph(nodes[1:2], "g", [value("w", 1, [3, 4])], [value("left", 1, None)], numbers)
    )
    assert [node.op_type for node in with_late_weights(columns, ["w"], ()).graph.node] == ["Slice"]
