"""Hostile programs without end: programs of the exporter changed as a graph and as bytes, and graphs made from nothing.

A number is a program, the same one each time. Most are refused by the check of their form; those that pass it are what an
attacker is left with: any graph of the allowed operators, with any attributes, constants and shapes.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    TrainingInfoProto,
    defs,
    helper,
    numpy_helper,
)

from tests.client.hostile_programs import BYTES, CLASSES, HOSTILE, LAYOUT, SHAPE, external
from zowarmup.common.exact.layout import Layout
from zowarmup.common.models.graph import OPERATORS, OPSET

INTEGERS = (0, 1, 2, 3, 7, 8, 64, 65536, -1, -2, 10**6, 2**31 - 1, 2**31, -(2**31), 2**32, 10**9, 2**62, 2**63 - 1)
FLOATS = (0.0, 1.0, -1.0, 0.5, 1e-45, 3.4e38, -3.4e38, float("inf"), float("-inf"), float("nan"), 1e9)
TEXTS = (b"", b"linear", b"nearest", b"cubic", b"reflect", b"SAME_UPPER", b"mul", b"max", b"bidirectional", b"tanh")
EQUATIONS = (b"ij,jk->ik", b"i,j->ij", b"i,j,k->", b"...i->...", b"ii->i", b"a,b,c,d->abcd", b"->", b"i" * 300)
KINDS = tuple(range(-1, 27))
ALLOWED = tuple(sorted(OPERATORS))
SCHEMAS = {name: defs.get_schema(name, OPSET) for name in ALLOWED}
FOREIGN = tuple(sorted({schema.name for schema in defs.get_all_schemas()} - OPERATORS))
DOMAINS = ("", "", "ai.onnx", "ai.onnx.ml", "com.microsoft", "local", "com.example")
LONGEST = 200_000
"""What a program of the generator has at most, bytes, but for repetitions."""


@dataclass(frozen=True)
class Seed:
    """A program that is as it should be, and the layout that it is for."""

    program: bytes
    layout: Layout


class Attacker:
    """`canary`: paths of files that no device may open."""

    def __init__(self, seeds: tuple[Seed, ...], canary: tuple[str, ...]) -> None:
        self._seeds, self._canary = seeds, canary

    def program(self, number: int) -> Seed:
        """The program of that number, and the layout of the run that sends it."""
        chance = random.Random(number)
        if chance.random() < 0.3:
            made, layout = _from_nothing(chance), LAYOUT
        elif chance.random() < 0.05:
            make, _ = HOSTILE[chance.choice(sorted(HOSTILE))]
            made, layout = make(chance.choice(self._canary)), LAYOUT
        else:
            seed = chance.choice(self._seeds)
            made, layout = ModelProto.FromString(seed.program), seed.layout
        for _ in range(chance.choice((0, 1, 1, 2, 3, 8))):
            change = chance.choice(GENTLE if chance.random() < 0.75 else ROUGH)
            change(made, chance, self._canary)
        data = made.SerializeToString()
        return Seed(_bytes(data, chance) if chance.random() < 0.15 else data, layout)


Change = Callable[[ModelProto, random.Random, tuple[str, ...]], None]


def _integer(chance: random.Random) -> int:
    return chance.choice(INTEGERS) if chance.random() < 0.4 else chance.randrange(-3, 12)


def _float(chance: random.Random) -> float:
    return chance.choice(FLOATS)


def _array(chance: random.Random) -> np.ndarray[Any, Any]:
    """A constant: a shape, places, factors."""
    shape = tuple(chance.choice((0, 1, 1, 2, 3, 8)) for _ in range(chance.choice((0, 1, 1, 1, 2, 3, 4))))
    count = int(np.prod(shape, dtype=int))
    kind = chance.choice((np.int64, np.int64, np.float32, np.float32, np.int32, np.bool_, np.uint8, np.float64))
    values = [_float(chance) if np.issubdtype(kind, np.floating) else _integer(chance) for _ in range(count)]
    with np.errstate(all="ignore"):
        made = np.array(values, np.float64 if np.issubdtype(kind, np.floating) else object).astype(np.float64)
        if kind is np.int64:
            return np.array([int(value) for value in values], np.int64).reshape(shape)
        return (
            np.nan_to_num(made).clip(-3e38, 3e38).astype(kind).reshape(shape)
            if kind is not np.float32
            else np.array(values, np.float32).reshape(shape)
        )


def _tensor(chance: random.Random, name: str) -> TensorProto:
    return numpy_helper.from_array(_array(chance), name)


def _attribute(chance: random.Random, op_type: str) -> AttributeProto:
    """One that the operator has, of its type most often."""
    schema = SCHEMAS.get(op_type)
    known = sorted(schema.attributes) if schema else []
    name = chance.choice(known) if known and chance.random() < 0.95 else chance.choice(("axis", "axes", "to", "value"))
    attribute = AttributeProto(name=name)
    declared: Any = schema.attributes[name].type if schema and name in schema.attributes else None
    kind = int(declared.value) if declared is not None else chance.randrange(1, 9)
    if chance.random() < 0.05:
        kind = chance.randrange(0, 15)
    attribute.type = kind  # type: ignore[assignment]
    match kind:
        case AttributeProto.FLOAT:
            attribute.f = _float(chance)
        case AttributeProto.INT:
            attribute.i = _integer(chance)
        case AttributeProto.STRING:
            attribute.s = chance.choice(EQUATIONS if name == "equation" else TEXTS)
        case AttributeProto.TENSOR:
            attribute.t.CopyFrom(_tensor(chance, ""))
        case AttributeProto.FLOATS:
            attribute.floats.extend(_float(chance) for _ in range(chance.choice((0, 1, 2, 4, 9))))
        case AttributeProto.INTS:
            attribute.ints.extend(_integer(chance) for _ in range(chance.choice((0, 1, 2, 2, 4, 4, 9))))
        case AttributeProto.STRINGS:
            attribute.strings.extend(chance.choice(TEXTS) for _ in range(2))
        case AttributeProto.GRAPH:
            attribute.g.CopyFrom(GraphProto(name="inner"))
        case _:
            pass
    return attribute


def _node(chance: random.Random, available: list[str], name: str) -> NodeProto:
    """An allowed operator with as many inputs as it takes, most often."""
    op_type = chance.choice(ALLOWED)
    schema = SCHEMAS[op_type]
    most = min(schema.max_input, schema.min_input + 3, 8)
    count = chance.randint(schema.min_input, max(most, schema.min_input))
    node = helper.make_node(op_type, [chance.choice(available) for _ in range(count)], [name])
    for attribute in schema.attributes.values():
        if attribute.required or chance.random() < 0.4:
            made = _attribute(chance, op_type)
            if made.name not in {held.name for held in node.attribute}:
                node.attribute.append(made)
    for more in range(1, min(schema.max_output, 3)):
        if chance.random() < 0.3:
            node.output.append(f"{name} {more}")
    return node


def _from_nothing(chance: random.Random) -> ModelProto:
    """A graph of some random operators over the inputs, the weights and some constants, from which the logits follow."""
    constants = [_tensor(chance, f"constant {place}") for place in range(chance.randrange(1, 7))]
    constants += [
        numpy_helper.from_array(np.array([-1, 64], np.int64), "flat"),
        numpy_helper.from_array(np.zeros((64, CLASSES), np.float32), "zeros"),
        numpy_helper.from_array(np.zeros(1, np.float32), "zero"),
    ]
    available = ["inputs", "w", *(tensor.name for tensor in constants)]
    nodes: list[NodeProto] = []
    for place in range(chance.choice((1, 2, 3, 5, 9))):
        recent = available if chance.random() < 0.5 else [*available[-3:], "inputs"]
        nodes.append(_node(chance, recent, f"value {place}"))
        available.append(f"value {place}")
    last = available[-1]
    nodes += [
        helper.make_node("Cast", [last], ["as float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["as float"], ["single"], keepdims=0),
        helper.make_node("Reshape", ["inputs", "flat"], ["rows"]),
        helper.make_node("MatMul", ["rows", "zeros"], ["blank"]),
        helper.make_node("Add", ["blank", "single"], ["logits"]),
    ]
    if chance.random() < 0.1:  # of whatever shape
        nodes[-1].input[0] = last
    float32 = TensorProto.FLOAT
    body = helper.make_graph(
        nodes,
        "main_graph",
        [
            helper.make_tensor_value_info("inputs", float32, ["n", *SHAPE]),
            helper.make_tensor_value_info("w", float32, [BYTES]),
        ],
        [helper.make_tensor_value_info("logits", float32, ["n", CLASSES])],
        constants,
    )
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def _some(items: Any, chance: random.Random) -> Any:
    """One of a repeated field, or None."""
    return items[chance.randrange(len(items))] if len(items) else None


def another_operator(model: ModelProto, chance: random.Random, canary: tuple[str, ...]) -> None:
    if (node := _some(model.graph.node, chance)) is not None:
        node.op_type = chance.choice(ALLOWED)


def another_input(model: ModelProto, chance: random.Random, canary: tuple[str, ...]) -> None:
    place = chance.randrange(max(1, len(model.graph.node)))
    before = [name for node in model.graph.node[:place] for name in node.output]
    before += [value.name for value in model.graph.input] + [tensor.name for tensor in model.graph.initializer]
    if not len(model.graph.node) or not before:
        return
    node = model.graph.node[place]
    match chance.randrange(4):
        case 0 if node.input:
            node.input[chance.randrange(len(node.input))] = chance.choice(before)
        case 1:
            node.input.append(chance.choice(before))
        case 2 if node.input:
            del node.input[chance.randrange(len(node.input))]
        case _ if node.input:
            node.input[chance.randrange(len(node.input))] = ""


def another_attribute(model: ModelProto, chance: random.Random, canary: tuple[str, ...]) -> None:
    if (node := _some(model.graph.node, chance)) is None:
        return
    made = _attribute(chance, node.op_type)
    kept = [held for held in node.attribute if held.name != made.name]
    del node.attribute[:]
    node.attribute.extend([*kept, made] if chance.random() < 0.85 else kept)


def another_setting(model: ModelProto, chance: random.Random, canary: tuple[str, ...]) -> None:
    """One number of an attribute that is there."""
    node = _some(model.graph.node, chance)
    attribute = _some(node.attribute, chance) if node is not None else None
    if attribute is None:
        return
    if attribute.ints:
        attribute.ints[chance.randrange(len(attribute.ints))] = _integer(chance)
    elif attribute.type == AttributeProto.INT:
        attribute.i = _integer(chance)
    elif attribute.type == AttributeProto.FLOAT:
        attribute.f = _float(chance)
    elif attribute.type == AttributeProto.STRING:
        attribute.s = chance.choice((*TEXTS, *EQUATIONS))


def another_constant(model: ModelProto, chance: random.Random, canary: tuple[str, ...]) -> None:
    if (tensor := _some(model.graph.initializer, chance)) is None:
        return
    size = {TensorProto.FLOAT: 4, TensorProto.INT64: 8}.get(tensor.data_type, 0)
    whole = size and not len(tensor.raw_data) % size and len(tensor.raw_data) < LONGEST
    if chance.random() < 0.5 and whole:
        array = np.frombuffer(tensor.raw_data, np.float32 if tensor.data_type == TensorProto.FLOAT else np.int64).copy()
        if array.size:
            value = _float(chance) if size == 4 else _integer(chance)
            array.flat[chance.randrange(array.size)] = value
        tensor.raw_data = array.tobytes()
    else:
        tensor.CopyFrom(_tensor(chance, tensor.name))


def more_nodes(model: ModelProto, chance: random.Random, canary: tuple[str, ...]) -> None:
    """One in the midst, of which what reads one of its inputs may then read the output."""
    place = chance.randrange(len(model.graph.node) + 1)
    before = [name for node in model.graph.node[:place] for name in node.output]
    before += [value.name for value in model.graph.input] + [tensor.name for tensor in model.graph.initializer]
    if not before:
        return
    made = _node(chance, before, f"more {chance.getrandbits(32)}")
    model.graph.node.insert(place, made)
    if made.input and len(model.graph.node) > place + 1:
        for node in model.graph.node[place + 1 :]:
            for at, name in enumerate(node.input):
                if name == made.input[0] and chance.random() < 0.7:
                    node.input[at] = made.output[0]


def fewer_nodes(model: ModelProto, chance: random.Random, canary: tuple[str, ...]) -> None:
    if model.graph.node:
        place = chance.randrange(len(model.graph.node))
        if chance.random() < 0.5:
            del model.graph.node[place]
        else:
            model.graph.node.append(model.graph.node[place])


def a_bomb(model: ModelProto, chance: random.Random, canary: tuple[str, ...]) -> None:
    """Something large made of something small, in the way of one of the values."""
    places = [place for place, node in enumerate(model.graph.node) if node.input]
    if not places:
        return
    place = chance.choice(places)
    node, mark = model.graph.node[place], f"bomb {chance.getrandbits(32)}"
    extents = [chance.choice((1, 3, 1000, 30_000, 10**6, 10**8, 2**31, 2**40)) for _ in range(chance.randrange(1, 4))]
    model.graph.initializer.append(numpy_helper.from_array(np.array(extents, np.int64), f"{mark} shape"))
    kinds = ("Expand", "Tile", "Reshape", "ConstantOfShape", "EyeLike", "Pad")
    kind = chance.choice(kinds)
    inputs = {"ConstantOfShape": [f"{mark} shape"], "EyeLike": [f"{mark} shape"]}.get(
        kind, [node.input[0], f"{mark} shape"]
    )
    added = [helper.make_node(kind, inputs, [f"{mark} large"])]
    follow = chance.choice(("Exp", "CumSum", "MatMul", "Softmax", "TopK", "Einsum", "ReduceMax", "Transpose"))
    if follow == "MatMul":
        added.append(helper.make_node("MatMul", [f"{mark} large", f"{mark} large"], [f"{mark} then"]))
    elif follow == "Einsum":
        added.append(helper.make_node("Einsum", [f"{mark} large"] * 2, [f"{mark} then"], equation="...i,...j->...ij"))
    elif follow in ("CumSum", "TopK"):
        added.append(helper.make_node(follow, [f"{mark} large", f"{mark} shape"], [f"{mark} then"]))
    else:
        added.append(helper.make_node(follow, [f"{mark} large"], [f"{mark} then"]))
    added += [
        helper.make_node("Cast", [f"{mark} then"], [f"{mark} cast"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", [f"{mark} cast"], [f"{mark} one"], keepdims=0),
        helper.make_node("Add", [node.input[0], f"{mark} one"], [f"{mark} out"]),
    ]
    node.input[0] = f"{mark} out"
    for made in reversed(added):
        model.graph.node.insert(place, made)


def repeated(model: ModelProto, chance: random.Random, canary: tuple[str, ...]) -> None:
    """Much of the same: nodes in a chain or beside each other, constants, inputs of one node, numbers of an attribute."""
    body, count, mark = model.graph, chance.choice((10, 300, 3_000)), f"many {chance.getrandbits(32)}"
    if not body.node or not body.node[0].input:
        return
    source = body.node[0].input[0]
    match chance.randrange(5):
        case 0:
            names = [source, *(f"{mark} {place}" for place in range(count))]
            kind = chance.choice(("Abs", "Gelu", "Mish", "HardSwish", "Sigmoid", "Erf", "Not", "Softmax"))
            for place in range(count):
                body.node.append(helper.make_node(kind, [names[place]], [names[place + 1]]))
        case 1:
            kind = chance.choice(("Shape", "Relu", "Transpose", "Celu"))
            for place in range(count):
                body.node.append(helper.make_node(kind, [source], [f"{mark} {place}"]))
        case 2:
            for place in range(count):
                body.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), f"{mark} {place}"))
        case 3:
            kind = chance.choice(("Concat", "Max", "Einsum"))
            body.node.append(helper.make_node(kind, [source] * (10 * count), [mark], axis=0))
        case _:
            body.node[-1].attribute.append(helper.make_attribute(mark, [1] * (10 * count)))


GENTLE: tuple[Change, ...] = (
    *(another_operator, another_input, another_attribute, another_attribute, another_setting, another_setting),
    *(another_constant, another_constant, more_nodes, more_nodes, fewer_nodes, a_bomb, repeated),
)
"""What leaves the form of a program as it is."""


def a_file(model: ModelProto, chance: random.Random, canary: tuple[str, ...]) -> None:
    """Elements that are in a file, wherever a tensor may be."""
    path = chance.choice(canary)
    tensor = external(f"file {chance.getrandbits(32)}", path, kind=chance.choice(KINDS))
    if chance.random() < 0.3:
        tensor.ClearField("data_location")
    if chance.random() < 0.3:
        tensor.raw_data = bytes(BYTES)
    body = model.graph
    match chance.randrange(8):
        case 0:
            body.initializer.append(tensor)
        case 1 if body.initializer:
            place = body.initializer[chance.randrange(len(body.initializer))]
            tensor.name = place.name
            place.MergeFrom(tensor)
        case 2 if body.node:
            attribute = AttributeProto(name="value", type=AttributeProto.TENSOR, t=tensor)
            body.node[chance.randrange(len(body.node))].attribute.append(attribute)
        case 3:
            body.sparse_initializer.append(SparseTensorProto(values=tensor, indices=tensor, dims=[BYTES]))
        case 4:
            inner = GraphProto(name="inner", initializer=[tensor])
            attribute = AttributeProto(name="body", type=AttributeProto.GRAPH, g=inner)
            if body.node:
                body.node[chance.randrange(len(body.node))].attribute.append(attribute)
        case 5:
            node = helper.make_node("Constant", [], ["found"], value=tensor)
            sets = [helper.make_opsetid("", OPSET)]
            model.functions.append(
                FunctionProto(name="Read", domain="local", output=["found"], node=[node], opset_import=sets)
            )
        case 6:
            inner = GraphProto(name="inner", initializer=[tensor])
            model.training_info.append(TrainingInfoProto(initialization=inner, algorithm=inner))
        case _:
            if body.node:
                attribute = AttributeProto(name="values", type=AttributeProto.TENSORS, tensors=[tensor])
                body.node[chance.randrange(len(body.node))].attribute.append(attribute)


def a_foreign_operator(model: ModelProto, chance: random.Random, canary: tuple[str, ...]) -> None:
    if (node := _some(model.graph.node, chance)) is not None:
        node.op_type = chance.choice(("EPContext", "ReadFile", "", "add", "Add ", "Ädd", "x" * 3000, *FOREIGN))
        node.domain = chance.choice(DOMAINS)


def a_loop(model: ModelProto, chance: random.Random, canary: tuple[str, ...]) -> None:
    inner = GraphProto(name="inner")
    for _ in range(chance.choice((0, 1, 25))):  # protobuf itself has a limit
        inner = GraphProto(name="inner", node=[helper.make_node("Loop", ["", ""], ["out"], body=inner)])
    kind = chance.choice(("Loop", "If", "Scan", "SequenceMap"))
    names = {"If": ("then_branch", "else_branch")}.get(kind, ("body",))
    node = helper.make_node(kind, ["", ""], [f"loop {chance.getrandbits(32)}"])
    node.attribute.extend(helper.make_attribute(name, inner) for name in names)
    model.graph.node.insert(0, node)


def other_sets(model: ModelProto, chance: random.Random, canary: tuple[str, ...]) -> None:
    made = helper.make_opsetid(chance.choice(DOMAINS), abs(_integer(chance)))
    if chance.random() < 0.5 and model.opset_import:
        model.opset_import[0].CopyFrom(made)
    else:
        model.opset_import.append(made)


def other_tensors(model: ModelProto, chance: random.Random, canary: tuple[str, ...]) -> None:
    """Constants whose parts contradict each other."""
    if (tensor := _some(model.graph.initializer, chance)) is None:
        return
    match chance.randrange(6):
        case 0:
            tensor.data_type = chance.choice(KINDS)
        case 1:
            tensor.dims.append(chance.choice(INTEGERS))
        case 2 if tensor.dims:
            tensor.dims[chance.randrange(len(tensor.dims))] = chance.choice(INTEGERS)
        case 3:
            tensor.raw_data = tensor.raw_data[: chance.randrange(len(tensor.raw_data) + 1)]
        case 4:
            tensor.float_data.extend([1.0] * 5)
        case _:
            tensor.string_data.append(b"x")


def other_values(model: ModelProto, chance: random.Random, canary: tuple[str, ...]) -> None:
    """Inputs and outputs of other names, types and shapes."""
    value = _some(chance.choice((model.graph.input, model.graph.output, model.graph.value_info)), chance)
    if value is None:
        model.graph.value_info.append(helper.make_tensor_value_info("inputs", TensorProto.FLOAT, [_integer(chance)]))
        return
    kind = value.type.tensor_type
    match chance.randrange(6):
        case 0:
            kind.elem_type = chance.choice(KINDS)
        case 1 if kind.shape.dim:
            kind.shape.dim[chance.randrange(len(kind.shape.dim))].dim_value = _integer(chance)
        case 2:
            kind.shape.dim.add().dim_param = chance.choice(("n", "", "m", "inputs"))
        case 3:
            value.name = chance.choice(("inputs", "logits", "", "w", "x" * 5000, "\x1b[2J"))
        case 4:
            value.type.sequence_type.elem_type.tensor_type.elem_type = 1
        case _:
            model.graph.input.append(value)


def other_names(model: ModelProto, chance: random.Random, canary: tuple[str, ...]) -> None:
    node = _some(model.graph.node, chance)
    if node is None or not node.output:
        return
    name = chance.choice(("", "inputs", "w", "logits", "x" * 50_000, "\x1b[2J\n", model.graph.node[0].output[0]))
    node.output[chance.randrange(len(node.output))] = name
    node.name = name


def more_words(model: ModelProto, chance: random.Random, canary: tuple[str, ...]) -> None:
    """Words for people, which some part of a runtime may read."""
    holders: list[Any] = [model, model.graph, *model.graph.node[:1]]
    entry = chance.choice(holders).metadata_props.add()
    entry.key, entry.value = chance.choice(("location", "ep_context", "x")), chance.choice(canary)
    model.doc_string = model.graph.doc_string = "x" * chance.choice((0, 0, 5000))
    model.ir_version = chance.choice((10, 10, 3, 4, 11, 99, -1))


ROUGH: tuple[Change, ...] = (
    *(a_file, a_file, a_foreign_operator, a_loop, other_sets, other_tensors, other_values, other_names, more_words),
)
"""What no exporter would write."""


def _bytes(data: bytes, chance: random.Random) -> bytes:
    """The same with some bytes changed; or with something tiny, very often."""
    made = bytearray(data)
    if chance.random() < 0.1:
        tiny = chance.choice(
            (b"\x3a\x02\x0a\x00", b"\x3a\x02\x2a\x00", b"\x42\x00", b"\x3a\x04\x0a\x02\x0a\x00", b"\x0b\x0c")
        )
        return bytes(made) + tiny * chance.choice((10, 10_000, 200_000))
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(made) + 1)
        match chance.randrange(4):
            case 0 if at < len(made):
                made[at] ^= 1 << chance.randrange(8)
            case 1:
                made[at:at] = chance.randbytes(chance.randrange(1, 9))
            case 2:
                del made[at : at + chance.randrange(1, 9)]
            case _:
                made[at:at] = chance.choice((b"\xff" * 9 + b"\x01", b"\x80" * 11, b"\x0b", b"\x0c", b"\x07", b"\x00"))
    return bytes(made)
