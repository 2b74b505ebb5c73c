"""Constants in fewer bits: what is lost, and graphs that read them."""

import json
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tests.language import DECODER, ENCODER
from zowarmup.common.lora import Lora
from zowarmup.common.models import narrow
from zowarmup.common.models.base import BaseError
from zowarmup.common.models.construction import build, sample
from zowarmup.common.models.description import constants_of, describe, flatten, load_constants
from zowarmup.common.models.export import export_program
from zowarmup.common.models.graph import ELEMENT_OF
from zowarmup.common.models.language import causal
from zowarmup.common.models.late_weights import with_late_weights
from zowarmup.common.models.narrow import SCALE_OF, narrow_kinds, narrowed, widened
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
    base = narrowed(tensors, "int8")
    assert narrow_kinds(base) == {"large": "I8"}
    assert base["large"].values.nbytes == tensors["large"].size
    found = widened(base)
    assert found.keys() == tensors.keys()
    assert np.array_equal(found["small"], tensors["small"])
    step = np.abs(tensors["large"]).max(axis=1, keepdims=True) / 127
    assert (np.abs(found["large"] - tensors["large"]) <= 0.501 * step).all()
    assert narrowed(found, "int8")["large"].values.tobytes() == base["large"].values.tobytes(), "what is rounded stays"
    with pytest.raises(BaseError, match="no floating-point numbers"):
        widened({"alone": base["large"]})


def test_bfloat16_is_the_nearest_and_keeps_what_is_one() -> None:
    random = np.random.default_rng(0)
    large = (random.normal(size=(70, 80)) * np.exp(random.normal(0, 20, (70, 1)))).astype(np.float32)
    large[0, :4] = [0, -0.0, 1 + 2**-8, 1 + 3 * 2**-8]  # the last two are in the middle, and go to the even one
    base = narrowed({"large": large, "bias": large[0]}, "bfloat16")
    assert narrow_kinds(base) == {"large": "BF16"} and base["large"].values.dtype == np.uint16
    found = widened(base)
    assert np.array_equal(found["bias"], large[0])
    wanted = torch.from_numpy(large).to(torch.bfloat16).to(torch.float32).numpy()
    assert found["large"].tobytes() == wanted.tobytes()
    assert narrowed(found, "bfloat16")["large"].values.tobytes() == base["large"].values.tobytes()


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
@pytest.mark.parametrize("config", [ENCODER, DECODER, {**DECODER, "tie_word_embeddings": False}])
def test_a_program_computes_with_fewer_bits_what_the_module_does(
    config: dict[str, Any], kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(narrow, "LEAST", 64)
    monkeypatch.setattr(causal, "ROWS", 10)
    train, made = "lora:r=2,modules=q,v", Architecture.from_config(json.dumps(config))
    language = Language(architecture=made, lora=Lora.of(train), completes=made.decoder)
    module = build(Model(name="hf:model"), (12,), 2, 0, logits=not made.decoder, language=language)
    layout = describe(module, (12,), not made.decoder, train, pretrained=True)
    base = narrowed({name: tensor.detach().numpy() for name, tensor in constants_of(module).items()}, kind)
    load_constants(module, base)
    exported = export_program(module, layout, (12,), base)
    program = Program(exported, layout, flatten(module, layout), constants=base)
    tokens = sample(module, (12,), 3)
    with torch.no_grad():
        assert np.allclose(program.forward(tokens.numpy())[0], module(tokens).numpy(), atol=1e-5)
    graph = onnx.load_from_string(exported).graph
    few = set(narrow_kinds(base))
    assert len(few) >= 14
    scales = {name + SCALE_OF for name in few} if kind == "int8" else set()
    assert {value.name for value in graph.input} >= few | scales
    (embedding,) = (name for name in few if "embed_tokens" in name or "word_embeddings" in name)
    assert {node.op_type for node in graph.node if embedding in node.input} <= {"Gather", "Slice"}, (
        "none makes all of it float32"
    )
    makers = {node.output[0]: node for node in graph.node}
    for node in graph.node:
        if node.op_type in ("DequantizeLinear", "Cast") and few.intersection(
            name for maker in (makers.get(node.input[0]), node) if maker for name in maker.input
        ):
            above, left = set[str](), list(node.input)
            while left:
                if (name := left.pop()) in makers and name not in above:
                    above.add(name)
                    left += makers[name].input
            assert any(makers[name].op_type == "Gather" for name in above), "not before the pass has come as far"


def test_a_part_of_a_matrix_is_cut_out_when_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narrow, "LEAST", 12)
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
    kinds: tuple[Literal["float32", "bfloat16", "int8"], ...] = ("float32", "bfloat16", "int8")
    for kind in kinds:
        base, inputs = narrowed({"w": w}, kind), [value("x", 1, [None, 4]), value("w", 1, [3, 4])]
        graph = helper.make_graph([nodes[0], nodes[2]], "g", inputs, [value("a", 1, [None, None])], numbers)
        model = with_late_weights(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), ["w"], narrow_kinds(base)
        )
        order = [node.op_type for node in model.graph.node]
        assert order.index("Size") < order.index("Slice"), "the size of what is read beside it"
        model.ir_version = 10
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        given = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(constant.values, ELEMENT_OF[constant.kind])
            for name, constant in base.items()
        }
        (found,) = session.run_with_ort_values(None, {"x": onnxruntime.OrtValue.ortvalue_from_numpy(x)} | given)
        found = found.numpy()
        assert np.allclose(found, x @ widened(base)["w"][:2].T)
    columns = helper.make_model(
        helper.make_graph(nodes[1:2], "g", [value("w", 1, [3, 4])], [value("left", 1, None)], numbers)
    )
    assert [node.op_type for node in with_late_weights(columns, ["w"], {}).graph.node] == ["Slice"]
