"""The ONNX graphs that a device runs: the forward passes that the exporter writes, and no others.

A graph can do more than compute. Its tensors can name files, whose bytes the runtime then reads, and its operators can
come from libraries. So a program is parsed by the few messages of `program.proto`, where there is no field for any of
that, and refused before that if anything would be left over, or if it has so many parts that they take much more memory
than their bytes. The runtime is given the parsed message serialized again: it reads what was checked, whatever its own
parser makes of the bytes that came.
"""

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError

from zowarmup.common.exact.layout import Layout
from zowarmup.common.models.base import Constant
from zowarmup.common.text import printable
from zowarmup.v1 import program_pb2 as wire

OPSET = 21
"""The version of ONNX's operators that programs are exported to: the first with group normalisation as an operator."""

_NAMES = """
Abs Add And ArgMax Asin Atan AveragePool BatchNormalization Cast Ceil Celu Clip Concat ConstantOfShape Conv
ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Einsum Elu Equal Erf Exp Expand EyeLike Floor GRU Gather
GatherElements GatherND Gelu Gemm Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid HardSwish
InstanceNormalization IsInf IsNaN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax MatMul Max
MaxPool Min Mish Mod Mul Neg Not Or PRelu Pad Pow Range Reciprocal ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax
ReduceMean ReduceMin ReduceProd ReduceSum Relu Reshape Resize Round ScatterElements Selu Shape Sigmoid Sign
Sin Sinh Size Slice Softmax Softplus Split Sqrt Squeeze Sub Tan Tanh Tile TopK Transpose Trilu Unsqueeze Where Xor
"""
OPERATORS = frozenset(_NAMES.split())
WRITTEN_OUT = {"GroupNormalization": 29, "HardSwish": 2, "Mish": 3}
"""Operators for which the runtime has no code: it writes each out, as it loads a graph, as this many nodes of others."""


FLOAT = 1
"""float32, by ONNX's number for types of elements."""
INT64 = 7
"""The type of tokens, likewise."""
ELEMENT_OF = {"F32": 1, "U8": 2, "I8": 3, "F16": 10, "BF16": 16}
"""By the type of a constant of the base, as safetensors names it."""
ELEMENT_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8}
"""By type of element: the numbers and booleans that a constant may hold."""
VALUE_OF = {1: "f", 2: "i", 3: "s", 4: "t", 6: "floats", 7: "ints"}
"""By type of attribute: the field with its value."""
MOST_NODES = 10_000
MOST_FIELDS = 200_000
"""Of all messages together. A vision transformer of 12 layers has 2,000."""
MOST_AXES = 8
MOST_NUMBER = 1 << 20
"""Of the whole numbers among settings, either way: extents, counts, places. A runtime takes memory and time by some of them as
it loads a graph."""
LONGEST_NAME = 60

ACTIVATIONS, MEANS = "activations", "means"
"""The outputs of a program that is cut which cross the cut: float32 (n, t, hidden) and (n, means)."""
NO_GRAPH = "program: it is not an ONNX graph"
_VARINT, _EIGHT, _LENGTH, _FIXED = 0, 1, 2, 5
_WRITTEN = {
    FieldDescriptor.TYPE_INT64: _VARINT,
    FieldDescriptor.TYPE_INT32: _VARINT,
    FieldDescriptor.TYPE_FLOAT: _FIXED,
}
"""How a field is written, by its type; others with their length before them."""
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


class ProgramRefused(ValueError):
    """A device does not run this program. The sentence begins with "program:" and says why."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A program that may be run, and what it declares.

    Args:
        onnx: What to give to the runtime.
        example: The shape of one example, without the batch's axis; an extent is None where it varies.
        tokens: Whether an example is tokens, int64 (t,), and not float32 numbers.
        outputs: By name, how many numbers each output has for an example.
        own: Which of the layout's tensors each example may have one of its own of: their inputs have an axis of examples before
            the tensor's, of the batch's length or 1.
    """

    onnx: bytes
    example: tuple[int | None, ...]
    tokens: bool
    outputs: dict[str, int]
    own: frozenset[str]


def checked(program: bytes, layout: Layout, constants: Mapping[str, Constant] | None = None) -> Checked:
    """The graph to give to the runtime, equal to `program` but for how it is serialized.

    Args:
        program: An ONNX model, from whomever.
        layout: The tensors that must be its inputs, beside the batch.
        constants: Those of the base, which must be, too.

    Returns:
        An ONNX model that has nothing but a graph of the exporter's operators over these inputs, and what it declares
        of inputs and outputs. (The runtime may find others, to which nothing holds it.)

    Raises:
        ProgramRefused: It has anything else.
    """
    _Form(program).check(wire.ProgramModel.DESCRIPTOR, len(program))
    model = wire.ProgramModel()
    try:
        model.MergeFromString(program)
    except DecodeError:
        raise ProgramRefused(NO_GRAPH) from None
    model.DiscardUnknownFields()  # there are none
    sets = [(used.domain, used.version) for used in model.opset_import]
    if sets != [("", OPSET)]:
        raise ProgramRefused(
            f"program: its operators are those of {_listed(sets)}, a device runs ONNX's version {OPSET}"
        )
    graph = model.graph
    nodes = sum(WRITTEN_OUT.get(node.op_type, 1) for node in graph.node)
    if nodes > MOST_NODES:
        raise ProgramRefused(f"program: it has {nodes} nodes as a runtime writes it out, at most {MOST_NODES} are run")
    for constant in graph.initializer:
        _check_tensor(constant)
    for node in graph.node:
        _check_node(node)
    _check_names(graph)
    example, tokens, own = _inputs(graph.input, layout, constants or {})
    outputs = _outputs(graph.output, layout)
    return Checked(model.SerializeToString(deterministic=True), example, tokens, outputs, own)


class _Form:
    """A serialized message, read field by field before it is parsed."""

    def __init__(self, data: bytes) -> None:
        self._data, self._place, self._left = data, 0, MOST_FIELDS

    def check(self, kind: Any, stop: int) -> None:
        """That each field up to `stop`, and of the messages within, is one of `kind`, of its type. Raises ProgramRefused."""
        known = _fields(kind)
        while self._place < stop:
            tag = self._number(stop)
            self._left -= 1
            if self._left < 0:
                raise ProgramRefused(f"program: it has more than {MOST_FIELDS} parts")
            type_on_wire, inner = known.get(tag >> 3, (-1, None))
            if tag & 7 not in (_VARINT, _EIGHT, _LENGTH, _FIXED) or not tag >> 3:
                raise ProgramRefused(NO_GRAPH)
            if tag & 7 != type_on_wire:
                raise ProgramRefused(f"program: it has {_field_in_words(kind.name, tag >> 3)}")
            if type_on_wire == _VARINT:
                self._number(stop)
                continue
            size = 4 if type_on_wire == _FIXED else self._number(stop)
            end = self._place + size
            if end > stop:
                raise ProgramRefused(NO_GRAPH)
            if inner is not None:
                self.check(inner, end)
            self._place = end

    def _number(self, stop: int) -> int:
        number = shift = 0
        while self._place < stop and shift < 70:
            byte = self._data[self._place]
            self._place += 1
            number |= (byte & 127) << shift
            if byte < 128:
                return number
            shift += 7
        raise ProgramRefused(NO_GRAPH)


@functools.cache
def _fields(kind: Any) -> dict[int, tuple[int, Any]]:
    """By number: how the field is written, and the messages that it holds."""
    return {field.number: (_WRITTEN.get(field.type, _LENGTH), field.message_type) for field in kind.fields}


def _field_in_words(kind: str, number: int) -> str:
    """A field that a message of that type may not have."""
    known = _FIELDS.get((kind, number))
    what = kind.removeprefix("Program").lower()
    article = "an" if what[0] in "aeiou" else "a"
    return known or f"field {number} of {article} {what}, which no exporter writes"


def _check_tensor(tensor: Any) -> None:
    name = _named(tensor.name)
    if tensor.data_type not in ELEMENT_BYTES:
        raise ProgramRefused(f"program: constant {name} has elements of type {tensor.data_type}, which are not numbers")
    if len(tensor.dims) > MOST_AXES or any(extent < 0 for extent in tensor.dims):
        raise ProgramRefused(f"program: constant {name} has a shape that no tensor has")
    size = math.prod(tensor.dims) * ELEMENT_BYTES[tensor.data_type]
    if size != len(tensor.raw_data):
        raise ProgramRefused(f"program: constant {name} has {len(tensor.raw_data)} bytes, its shape takes {size}")


def _check_node(node: Any) -> None:
    if node.domain or node.op_type not in OPERATORS:
        kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        raise ProgramRefused(f"program: operator {_named(kind)} is not one of those that a device runs")
    for attribute in node.attribute:
        name, field = f"{node.op_type}'s {_named(attribute.name)}", VALUE_OF.get(attribute.type)
        if field is None:
            raise ProgramRefused(f"program: {name} is a setting of type {attribute.type}, which no exporter writes")
        others = [held.name for held, _ in attribute.ListFields() if held.name not in ("name", "type", field)]
        if others:
            raise ProgramRefused(f"program: {name} has two values")
        if field == "t":
            _check_tensor(attribute.t)
        if any(abs(number) > MOST_NUMBER for number in (attribute.i, *attribute.ints)):
            raise ProgramRefused(f"program: {name} has a number beyond {MOST_NUMBER}")
        if attribute.name == "num_outputs" and attribute.i != len(node.output):
            raise ProgramRefused(f"program: {name} is {attribute.i}, it makes {len(node.output)} values")
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i not in ELEMENT_BYTES:
            raise ProgramRefused(f"program: {name} is type {attribute.i}, which is not a number")


def _check_names(graph: Any) -> None:
    """Each value is made once, and before it is read: the runtime need not decide which of two is meant."""
    known: set[str] = set()

    def make(names: Iterable[str]) -> None:
        for name in names:
            if name in known:
                raise ProgramRefused(f"program: two of its values are called {_named(name)}")
            known.add(name)

    make(value.name for value in graph.input)
    make(constant.name for constant in graph.initializer)
    for node in graph.node:
        for name in node.input:
            if name and name not in known:
                raise ProgramRefused(f"program: {node.op_type} reads {_named(name)}, which nothing has made")
        make(name for name in node.output if name)
    for value in graph.output:
        if value.name not in known:
            raise ProgramRefused(f"program: nothing makes its output {_named(value.name)}")


def _inputs(
    values: Iterable[Any], layout: Layout, constants: Mapping[str, Constant]
) -> tuple[tuple[int | None, ...], bool, frozenset[str]]:
    """The shape of an example, whether it is of tokens, and what each may have of its own, where the inputs are a batch of examples, the
    layout's tensors and those of the base."""
    own = set[str]()
    inputs = {value.name: value for value in values}
    batch = inputs.pop("inputs", None)
    tokens = batch is not None and batch.type.tensor_type.elem_type == INT64
    shape = () if batch is None else _shape(batch, INT64 if tokens else FLOAT)
    if not 2 <= len(shape) <= MOST_AXES or shape[0] is not None or (tokens and not _of_tokens(*shape[1:])):
        raise ProgramRefused(
            'program: it has no input "inputs" of float32 (n, ...), or of tokens, int64 (n, [choices,] t)'
        )
    if not tokens and not all(extent is not None and extent >= 1 for extent in shape[1:]):
        raise ProgramRefused('program: its input "inputs" has an example of no fixed shape')
    tensors = {tensor.name: (FLOAT, tensor.shape) for tensor in layout.tensors}
    if both := tensors.keys() & constants.keys():
        raise ProgramRefused(f"program: tensor {_named(min(both))} is in the layout and in the base")
    tensors |= {name: (ELEMENT_OF[constant.kind], constant.shape) for name, constant in constants.items()}
    for name in sorted(inputs.keys() ^ tensors.keys()):
        where = "it" if name in inputs else "the base" if name in constants else "the layout"
        raise ProgramRefused(f"program: tensor {_named(name)} is in {where} alone")
    for name, (element, extents) in tensors.items():
        found = _shape(inputs[name], element)
        if found == (None, *extents) and name not in constants:
            own.add(name)
        elif found != extents:
            where = "base" if name in constants else "layout float32"
            raise ProgramRefused(f"program: tensor {name} has shape {found}, in the {where} {extents}")
    return shape[1:], tokens, frozenset(own)


def _of_tokens(*shape: int | None) -> bool:
    return shape[-1] is None and len(shape) <= 2 and all(shape[:-1])


def _outputs(values: Iterable[Any], layout: Layout) -> dict[str, int]:
    wanted = outputs_of(layout)
    outputs = [(value.name, _shape(value)) for value in values]
    if [name for name, _ in outputs] != wanted:
        names = ", ".join(_named(name) for name, _ in outputs)
        raise ProgramRefused(f"program: its outputs are {names or 'none'}, it should give {', '.join(wanted)}")
    known = {} if layout.head is None else {"logits": layout.head.classes, "features": layout.head.features}
    if layout.cut is not None:
        known |= {ACTIVATIONS: layout.cut.hidden, MEANS: layout.cut.means}
    found = dict[str, int]()
    for name, shape in outputs:
        *varying, width = shape or (0,)
        axes = 2 if name == ACTIVATIONS else 1
        if varying != [None] * axes or not width or width != known.get(name, width):
            wanted_shape = f"({'n, t' if axes == 2 else 'n'}, {known.get(name, 'classes')})"
            raise ProgramRefused(f"program: its output {name} has shape {shape}, it must be {wanted_shape}")
        found[name] = width
    return found


def outputs_of(layout: Layout) -> list[str]:
    """What a program of a layout gives, in this order."""
    return ["logits"] + ([] if layout.head is None else ["features"]) + crossing_of(layout)


def crossing_of(layout: Layout) -> list[str]:
    """What of it crosses the cut; nothing where there is none."""
    if layout.cut is None:
        return []
    return [ACTIVATIONS] + ([MEANS] if layout.cut.means else [])


def _shape(value: Any, element: int = FLOAT) -> tuple[int | None, ...]:
    """Of an input or output of that type; None for an axis whose length varies."""
    tensor = value.type.tensor_type
    if tensor.elem_type != element:
        wanted = "float32" if element == FLOAT else f"of type {element}"
        raise ProgramRefused(
            f"program: {_named(value.name)} has elements of type {tensor.elem_type}, it must be {wanted}"
        )
    if len(tensor.shape.dim) > MOST_AXES:
        raise ProgramRefused(
            f"program: {_named(value.name)} has {len(tensor.shape.dim)} axes, at most {MOST_AXES} are run"
        )
    return tuple(axis.dim_value if axis.HasField("dim_value") else None for axis in tensor.shape.dim)


def _listed(sets: list[tuple[str, int]]) -> str:
    return ", ".join(f"{_named(domain or 'ONNX')} version {version}" for domain, version in sets[:3]) or "no set"


def _named(name: str) -> str:
    """A name from a program, for a sentence."""
    return printable(name, LONGEST_NAME) or "(no name)"
