"""Which ONNX graphs a device runs: the forward passes that the exporter writes, and no others.

A graph can do more than compute. Its tensors can name files, whose bytes the runtime then reads, and its operators can
come from libraries. So a program is parsed by the few messages of `program.proto`, where there is no field for any of
that, and refused if anything is left over. The runtime is given the parsed message serialized again: it reads what was
checked, whatever its own parser makes of the bytes that came.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any

from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from zowarmup.common.layout import Layout
from zowarmup.common.operators import OPERATORS, OPSET
from zowarmup.common.printable import printable
from zowarmup.v1 import program_pb2 as wire

FLOAT = 1
"""float32, by ONNX's number for types of elements."""
ELEMENT_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8}
"""By type of element: the numbers and booleans that a constant may hold."""
VALUE_OF = {1: "f", 2: "i", 3: "s", 4: "t", 6: "floats", 7: "ints"}
"""By type of attribute: the field with its value."""
MOST_NODES = 100_000
MOST_AXES = 8
LONGEST_NAME = 60

_EXTERNAL = "external data: its elements are in a file, which no device opens for a coordinator"
_NESTED = "a graph within an attribute"
_FIELDS = {
    ("ProgramTensor", 13): _EXTERNAL,
    ("ProgramTensor", 14): _EXTERNAL,
    ("ProgramGraph", 15): "sparse constants",
    ("ProgramAttribute", 6): _NESTED,
    ("ProgramAttribute", 11): _NESTED,
    ("ProgramAttribute", 22): "a sparse tensor in an attribute",
    ("ProgramAttribute", 23): "a sparse tensor in an attribute",
    ("ProgramModel", 14): "metadata",
    ("ProgramModel", 20): "training information",
    ("ProgramModel", 25): "functions of its own",
}
"""What of ONNX a program may not hold, for a sentence, by message and number of the field."""


class Refused(ValueError):
    """A device does not run this program. The sentence begins with "program:" and says why."""


def checked(program: bytes, layout: Layout) -> bytes:
    """The graph to give to the runtime, equal to `program` but for how it is serialized.

    Args:
        program: an ONNX model, from whomever.
        layout: the tensors that must be its inputs, beside the batch.

    Returns:
        An ONNX model that has nothing but a graph of the exporter's operators over these inputs.

    Raises:
        Refused: it has anything else.
    """
    model = wire.ProgramModel()
    try:
        model.MergeFromString(program)
    except DecodeError:
        raise Refused("program: it is not an ONNX graph") from None
    known = wire.ProgramModel()
    known.CopyFrom(model)
    known.DiscardUnknownFields()
    if known.ByteSize() != model.ByteSize():
        raise Refused(f"program: it has {next(_left_over(model), 'fields that no exporter writes')}")
    sets = [(used.domain, used.version) for used in known.opset_import]
    if sets != [("", OPSET)]:
        raise Refused(f"program: its operators are those of {_listed(sets)}, a device runs ONNX's version {OPSET}")
    graph = known.graph
    if len(graph.node) > MOST_NODES:
        raise Refused(f"program: it has {len(graph.node)} nodes, at most {MOST_NODES} are run")
    for constant in graph.initializer:
        _check_tensor(constant)
    for node in graph.node:
        _check_node(node)
    _check_names(graph)
    _check_inputs(graph.input, layout)
    _check_outputs(graph.output, layout)
    return known.SerializeToString(deterministic=True)


def _left_over(message: Message) -> Iterator[str]:
    """What a message holds, or one in it, for which its type has no field."""
    kind = message.DESCRIPTOR.name
    unknown: Any = UnknownFieldSet(message)  # an iterable, which its stubs do not say
    for field in unknown:
        found = _FIELDS.get((kind, field.field_number))
        yield (
            found or f"field {field.field_number} of a {kind.removeprefix('Program').lower()}, which no exporter writes"
        )
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else [value]:
                yield from _left_over(part)


def _check_tensor(tensor: Any) -> None:
    name = _named(tensor.name)
    if tensor.data_type not in ELEMENT_BYTES:
        raise Refused(f"program: constant {name} has elements of type {tensor.data_type}, which are not numbers")
    if len(tensor.dims) > MOST_AXES or any(extent < 0 for extent in tensor.dims):
        raise Refused(f"program: constant {name} has a shape that no tensor has")
    size = math.prod(tensor.dims) * ELEMENT_BYTES[tensor.data_type]
    if size != len(tensor.raw_data):
        raise Refused(f"program: constant {name} has {len(tensor.raw_data)} bytes, its shape takes {size}")


def _check_node(node: Any) -> None:
    if node.domain or node.op_type not in OPERATORS:
        kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        raise Refused(f"program: operator {_named(kind)} is not one of those that a device runs")
    for attribute in node.attribute:
        name, field = f"{node.op_type}'s {_named(attribute.name)}", VALUE_OF.get(attribute.type)
        if field is None:
            raise Refused(f"program: {name} is a setting of type {attribute.type}, which no exporter writes")
        others = [held.name for held, _ in attribute.ListFields() if held.name not in ("name", "type", field)]
        if others:
            raise Refused(f"program: {name} has two values")
        if field == "t":
            _check_tensor(attribute.t)
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i not in ELEMENT_BYTES:
            raise Refused(f"program: {name} is type {attribute.i}, which is not a number")


def _check_names(graph: Any) -> None:
    """Each value is made once, and before it is read: the runtime need not decide which of two is meant."""
    known: set[str] = set()

    def make(names: Iterable[str]) -> None:
        for name in names:
            if name in known:
                raise Refused(f"program: two of its values are called {_named(name)}")
            known.add(name)

    make(value.name for value in graph.input)
    make(constant.name for constant in graph.initializer)
    for node in graph.node:
        for name in node.input:
            if name and name not in known:
                raise Refused(f"program: {node.op_type} reads {_named(name)}, which nothing has made")
        make(name for name in node.output if name)
    for value in graph.output:
        if value.name not in known:
            raise Refused(f"program: nothing makes its output {_named(value.name)}")


def _check_inputs(values: Iterable[Any], layout: Layout) -> None:
    inputs = {value.name: _shape(value) for value in values}
    batch = inputs.pop("inputs", None)
    if batch is None or not 2 <= len(batch) <= MOST_AXES or batch[0] is not None:
        raise Refused('program: it has no input "inputs" of float32 (n, ...)')
    if not all(extent is not None and extent >= 1 for extent in batch[1:]):
        raise Refused('program: its input "inputs" has an example of no fixed shape')
    tensors = {tensor.name: tensor.shape for tensor in layout.tensors}
    for name in sorted(inputs.keys() ^ tensors.keys()):
        raise Refused(f"program: tensor {_named(name)} is in {'it' if name in inputs else 'the layout'} alone")
    for name, shape in tensors.items():
        if inputs[name] != shape:
            raise Refused(f"program: tensor {name} has shape {inputs[name]}, in the layout float32 {shape}")


def _check_outputs(values: Iterable[Any], layout: Layout) -> None:
    wanted = ["logits"] if layout.head is None else ["logits", "features"]
    outputs = [(value.name, _shape(value)) for value in values]
    if [name for name, _ in outputs] != wanted:
        names = ", ".join(_named(name) for name, _ in outputs)
        raise Refused(f"program: its outputs are {names or 'none'}, it should give {', '.join(wanted)}")
    if any(len(shape) != 2 for _, shape in outputs):
        raise Refused(f"program: its outputs {', '.join(wanted)} are not (n, ...) of two axes")


def _shape(value: Any) -> tuple[int | None, ...]:
    """Of a float32 input or output; None for an axis whose length varies."""
    tensor = value.type.tensor_type
    if tensor.elem_type != FLOAT:
        raise Refused(f"program: {_named(value.name)} has elements of type {tensor.elem_type}, it must be float32")
    return tuple(axis.dim_value if axis.HasField("dim_value") else None for axis in tensor.shape.dim)


def _listed(sets: list[tuple[str, int]]) -> str:
    return ", ".join(f"{_named(domain or 'ONNX')} version {version}" for domain, version in sets[:3]) or "no set"


def _named(name: str) -> str:
    """A name from a program, for a sentence."""
    return printable(name, LONGEST_NAME) or "(no name)"
