"""A program that is cut, taken apart: the graph of what lies below the cut, and that of what lies above it.

What crosses the cut are outputs of the whole program. The lower graph is what they are made by; the upper one what the other
outputs are made by where they are given. What both need of the inputs, such as which tokens are there, both compute. So the two, one
after the other, are the program, by construction.
"""

from typing import Any

from zowarmup.common.exact.layout import UPPER, Layout
from zowarmup.common.models.graph import LONGEST_NAME, ProgramRefused, crossing_of
from zowarmup.common.text import printable
from zowarmup.v1 import program_pb2 as wire


def halves(onnx: bytes, layout: Layout) -> tuple[bytes, bytes]:
    """Take a program apart.

    Args:
        onnx: It, as `graph.checked` gives it.
        layout: Of the model, which is cut.

    Returns:
        The lower graph, whose outputs are what crosses the cut, and the upper one, of which that is an input and whose outputs are the
        program's others. Each has the inputs that it reads.

    Raises:
        ProgramRefused: What moves above the cut is read below it, or the reverse; or something else crosses the cut.
    """
    crossing = set(crossing_of(layout))
    lower, upper = (_part(onnx, names, crossing) for names in (crossing, set[str]()))
    above = layout.block(UPPER).start
    moved = {
        tensor.name: tensor.start >= above
        for tensor in layout.tensors
        if layout.frozen <= tensor.start < layout.trainable
    }
    for part, is_upper in ((lower, False), (upper, True)):
        for value in part.graph.input:
            if moved.get(value.name, is_upper) is not is_upper:
                sides = ("above", "below") if is_upper else ("below", "above")
                name = printable(value.name, LONGEST_NAME)
                raise ProgramRefused(
                    f"program: it reads tensor {name} {sides[0]} the cut, and the layout has it {sides[1]}"
                )
    return lower.SerializeToString(deterministic=True), upper.SerializeToString(deterministic=True)


def _part(onnx: bytes, wanted: set[str], crossing: set[str]) -> Any:
    """The part of a program that makes what is wanted of what crosses the cut or, where nothing is, the other outputs from that."""
    model = wire.ProgramModel()
    model.ParseFromString(onnx)
    graph = model.graph
    given = [value for value in graph.output if value.name in crossing and not wanted]
    outputs = [value for value in graph.output if (value.name in crossing) == bool(wanted)]
    known, needed, nodes = {value.name for value in given}, {value.name for value in outputs}, list[Any]()
    for node in reversed(graph.node):
        made = needed.intersection(node.output) - known
        if made and known.intersection(node.output):
            raise ProgramRefused(f"program: {node.op_type} makes what crosses the cut, and more that is read above it")
        if made:
            needed.update(node.input)
            nodes.append(node)
    inputs = [value for value in graph.input if value.name in needed] + given
    constants = [constant for constant in graph.initializer if constant.name in needed]
    part = wire.ProgramModel()
    part.CopyFrom(model)
    for field, values in (("node", nodes[::-1]), ("input", inputs), ("output", outputs), ("initializer", constants)):
        part.graph.ClearField(field)
        getattr(part.graph, field).extend(values)
    return part
