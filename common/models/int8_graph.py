"""A graph whose matrices are inputs in 8 bits, made from one whose matrices are float32.

Each reader of a matrix gets its own copy of it in float32, which is gone once it has been read: of a linear layer that is the one matrix. What
takes rows of a matrix, as an embedding does, or a part of the output layer, takes rows of the 8-bit one and of its scales, and only
these become float32.
"""

from collections.abc import Collection
from typing import Any

from zowarmup.common.models.graph import ELEMENT_OF, FLOAT
from zowarmup.common.models.int8 import SCALE_OF

_ROWS = ("Gather", "Slice")
"""What takes rows, where it is along the first axis."""


def with_int8(model: Any, names: Collection[str]) -> Any:
    """Change a graph in place.

    Args:
        model: ONNX's message of a model, in which each of `names` is an input, float32 (rows, columns).
        names: The matrices that are to be int8, each with its scales, float32 (rows, 1), as a further input.

    Returns:
        The same model.
    """
    from onnx import helper

    graph = model.graph
    for value in list(graph.input):
        if value.name in names:
            rows = value.type.tensor_type.shape.dim[0].dim_value
            value.type.tensor_type.elem_type = ELEMENT_OF["I8"]
            graph.input.append(helper.make_tensor_value_info(value.name + SCALE_OF, FLOAT, [rows, 1]))
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        read = {place: name for place, name in enumerate(node.input) if name in names}
        if read and _takes_rows(node, graph):
            graph.node.extend(_by_rows(node, helper))
            continue
        for place, name in read.items():
            narrow = f"{node.output[0]}.{place}"
            graph.node.extend(_wide(name, name + SCALE_OF, narrow, helper))
            node.input[place] = narrow
        graph.node.append(node)
    return model


def _wide(narrow: str, scale: str, name: str, helper: Any) -> list[Any]:
    """The nodes that make `name` of 8-bit values and their scales."""
    return [
        helper.make_node("Cast", [narrow], [f"{name}.cast"], to=FLOAT),
        helper.make_node("Mul", [f"{name}.cast", scale], [name]),
    ]


def _by_rows(node: Any, helper: Any) -> list[Any]:
    """The nodes that take rows of the 8-bit matrix and of its scales in place of `node`."""
    found, (wide,) = [], node.output
    for suffix in ("", SCALE_OF):
        part = type(node)()
        part.CopyFrom(node)
        part.input[0], part.output[0] = node.input[0] + suffix, f"{wide}.rows{suffix}"
        part.name = f"{node.name}{suffix}" if node.name else ""
        found.append(part)
    return [*found, *_wide(f"{wide}.rows", f"{wide}.rows{SCALE_OF}", wide, helper)]


def _takes_rows(node: Any, graph: Any) -> bool:
    """Whether a node's first input is a matrix of which it takes rows."""
    if node.op_type not in _ROWS:
        return False
    if node.op_type == "Gather":
        return all(attribute.i == 0 for attribute in node.attribute if attribute.name == "axis")
    axes = next(
        (constant for constant in graph.initializer if len(node.input) > 3 and constant.name == node.input[3]), None
    )
    if axes is None:
        return False
    from onnx import numpy_helper

    return bool((numpy_helper.to_array(axes) == 0).all())
