"""What a program may be, for a device that does not trust who sends it."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.client.hostile_programs import HOSTILE, LAYOUT, constant, cumbersome, graph, model
from zowarmup.common.exact.layout import Layout
from zowarmup.common.models.construction import build
from zowarmup.common.models.description import describe
from zowarmup.common.models.export import export_program
from zowarmup.common.models.graph import ProgramRefused, checked
from zowarmup.common.models.program import Halt, Program, _session
from zowarmup.common.settings.run import Model
from zowarmup.v1 import program_pb2 as wire

SHAPE = (1, 8, 8)
Change = Callable[[onnx.ModelProto], object]


@pytest.fixture(scope="module")
def mlp() -> tuple[Layout, bytes]:
    module = build(Model(name="mlp"), SHAPE, 10, 0)
    layout = describe(module, SHAPE)
    return layout, export_program(module, layout, SHAPE)


def harmless() -> onnx.ModelProto:
    return model(graph(constant("secret", *[0] * 32, kind="uint8")))


def test_an_exported_program_is_the_same_after_the_check(mlp: tuple[Layout, bytes]) -> None:
    layout, program = mlp
    assert onnx.load_from_string(checked(program, layout).onnx) == onnx.load_from_string(program)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_program_that_reads_a_file_is_refused_before_there_is_a_session(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_bytes(bytes(32))
    make, reason = HOSTILE[name]
    with pytest.raises(ProgramRefused, match=re.escape(f"program: {reason}")):
        Program(make("secret").SerializeToString(), LAYOUT, np.zeros(LAYOUT.size, np.float32))


@pytest.mark.parametrize("name", HOSTILE)
def test_the_runtime_itself_finds_no_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the check were not there. (What has no use for the tensor loads.)"""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_bytes(bytes(range(100, 132)))
    for location in ("secret", f"../{tmp_path.name}/secret", f"{tmp_path}/secret"):
        try:
            session = _session(HOSTILE[name][0](location).SerializeToString(), 1, Halt())
        except ValueError:
            continue
        inputs = {"inputs": np.ones((1, *SHAPE), np.float32), "w": np.ones(32, np.float32)}
        assert session.run(["logits"], inputs)[0][0, 0] == 0


def renamed(program: onnx.ModelProto, old: str, new: str) -> None:
    for node in program.graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = new if name == old else name


CHANGES: dict[str, tuple[Change, str]] = {
    "an operator with a graph": (lambda m: setattr(m.graph.node[0], "op_type", "Loop"), "operator Loop is not one"),
    "an operator of chance": (lambda m: setattr(m.graph.node[0], "op_type", "RandomNormalLike"), "RandomNormalLike"),
    "another domain": (lambda m: setattr(m.graph.node[0], "domain", "ai.onnx.ml"), "operator ai.onnx.ml.ReduceMax"),
    "a terminal's commands": (
        lambda m: setattr(m.graph.node[0], "op_type", "\x1b[2J" * 90),
        r"operator \\x1b\[2J.*more characters\) is",
    ),
    "another version of the operators": (lambda m: setattr(m.opset_import[0], "version", 22), "ONNX version 22"),
    "no operators": (lambda m: m.ClearField("opset_import"), "those of no set"),
    "metadata": (lambda m: onnx.helper.set_model_props(m, {"ort_config": "{}"}), "it has metadata"),
    "a text": (lambda m: setattr(m, "doc_string", "x"), "field 6 of a model"),
    "types of values": (
        lambda m: m.graph.value_info.append(onnx.helper.make_tensor_value_info("row", 1, [1])),
        "field 13 of a graph",
    ),
    "strings": (lambda m: setattr(m.graph.initializer[0], "data_type", 8), "elements of type 8, which are not numbers"),
    "a huge shape": (lambda m: m.graph.initializer[1].dims.append(1 << 40), r"has 256 bytes, its shape takes 28147"),
    "a negative shape": (lambda m: m.graph.initializer[1].dims.append(-1), "has a shape that no tensor has"),
    "too many axes": (lambda m: m.graph.initializer[1].dims.extend([1] * 9), "has a shape that no tensor has"),
    "elements beside the bytes": (lambda m: m.graph.initializer[1].int64_data.append(1), "field 7 of a tensor"),
    "a value twice": (lambda m: renamed(m, "rows", "row"), "two of its values are called row"),
    "a value over a weight": (lambda m: m.graph.initializer.append(constant("w", 1)), "two of its values are called w"),
    "a value from nowhere": (lambda m: m.graph.node[-1].input.append("thin air"), "reads thin air, which nothing has"),
    "an input of its own": (
        lambda m: m.graph.input.append(onnx.helper.make_tensor_value_info("more", 1, [1])),
        "tensor more is in it alone",
    ),
    "no weights": (lambda m: m.graph.input.pop(), "reads w, which nothing has made"),
    "weights of another type": (
        lambda m: setattr(m.graph.input[1].type.tensor_type, "elem_type", 8),
        "w has elements of type 8, it must be float32",
    ),
    "weights of another shape": (
        lambda m: setattr(m.graph.input[1].type.tensor_type.shape.dim[0], "dim_value", 31),
        r"tensor w has shape \(31,\), in the layout float32 \(32,\)",
    ),
    "another batch": (
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 2),
        'no input "inputs"',
    ),
    "a varying example": (
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_param", "c"),
        "no fixed shape",
    ),
    "outputs twice": (lambda m: m.graph.output.append(m.graph.output[0]), "its outputs are logits, logits"),
    "no outputs": (lambda m: m.graph.ClearField("output"), "its outputs are none"),
    "outputs that nothing makes": (lambda m: m.graph.node.pop(), "nothing makes its output logits"),
    "outputs of one axis": (
        lambda m: m.graph.output[0].type.tensor_type.shape.dim.pop(),
        "its output logits has shape",
    ),
    "a setting of two values": (lambda m: setattr(m.graph.node[0].attribute[0], "f", 1.0), "keepdims has two values"),
    "a huge setting": (
        lambda m: setattr(m.graph.node[2].attribute[0], "i", -(1 << 63)),
        "Cast's to has a number beyond",
    ),
    "huge settings": (
        lambda m: m.graph.node[0].attribute.append(onnx.helper.make_attribute("axes", [0, 1 << 21])),
        "ReduceMax's axes has a number beyond 1048576",
    ),
    "outputs that are not there": (
        lambda m: m.graph.node[4].attribute.append(onnx.helper.make_attribute("num_outputs", 100_000)),
        "num_outputs is 100000, it makes 1 values",
    ),
    "a cast to text": (lambda m: setattr(m.graph.node[2].attribute[0], "i", 8), "Cast's to is type 8"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_no_exporter_writes_is_refused(name: str) -> None:
    program = harmless()
    checked(program.SerializeToString(), LAYOUT)
    change, words = CHANGES[name]
    change(program)
    with pytest.raises(ProgramRefused, match=words) as refused:
        checked(program.SerializeToString(), LAYOUT)
    assert str(refused.value).isprintable()


def test_operators_count_as_the_runtime_writes_them_out() -> None:
    checked(cumbersome(300).SerializeToString(), LAYOUT)
    with pytest.raises(ProgramRefused, match=r"it has 116\d\d nodes as a runtime writes it out, at most 10000 are run"):
        checked(cumbersome(400).SerializeToString(), LAYOUT)


TINY = {"constants": b"\x3a\x02\x2a\x00", "nodes": b"\x3a\x02\x0a\x00", "inputs of a node": b"\x3a\x04\x0a\x02\x0a\x00"}


@pytest.mark.parametrize("name", TINY)
def test_what_takes_far_more_memory_than_its_bytes_is_refused_before_it_is_parsed(name: str) -> None:
    with pytest.raises(ProgramRefused, match="more than 200000 parts"):
        checked(harmless().SerializeToString() + TINY[name] * 200_000, LAYOUT)


def test_numbers_are_written_one_by_one() -> None:
    """Packed ones take eight times their bytes."""
    packed = wire.ProgramModel()
    node = packed.graph.node.add(op_type="Abs")
    node.attribute.add(name="axes", type=7)
    inner = b"\x42\x03\x01\x01\x01" + node.attribute[0].SerializeToString()
    for number in (5, 1, 7):
        inner = bytes([number << 3 | 2, len(inner)]) + inner
    with pytest.raises(ProgramRefused, match="field 8 of an attribute"):
        checked(inner, LAYOUT)


@pytest.mark.parametrize("data", [b"not a graph", b"ORTM" + bytes(64), b"\x08\x00\x00\x00ORTM" + bytes(64)])
def test_what_is_no_onnx_is_refused(data: bytes) -> None:
    with pytest.raises(ProgramRefused):
        checked(data, LAYOUT)


def test_a_field_that_comes_twice_is_read_once() -> None:
    """Where two parsers could read different things, the runtime is given what was checked."""
    one = harmless()
    two = one.SerializeToString() + wire.ProgramModel(producer_name="other").SerializeToString()
    again = onnx.load_from_string(checked(two, LAYOUT).onnx)
    one.producer_name = "other"
    assert again == one
    appended = onnx.ModelProto(graph=HOSTILE["initializer"][0]("secret").graph)
    with pytest.raises(ProgramRefused, match="external data"):
        checked(harmless().SerializeToString() + appended.SerializeToString(), LAYOUT)
