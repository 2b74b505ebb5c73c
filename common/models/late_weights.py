"""The graph's use of its large matrices, put off until each is needed: those in fewer bits become float32, and parts are cut out, just before they are
read.

A runtime may compute first what depends on inputs alone, and weights are inputs: all of a model's narrow matrices would be float32
at once, and all parts of an output layer be copied, before the first layer has run. So these nodes are made to depend on what the reader reads
beside the matrix, by zeros that are made of its size: a part is cut out from a place that they are added to, and a whole matrix is first given
the shape that it has by them, which copies nothing. What is made is gone once the reader has run. What takes single rows of
a matrix, as an embedding does, takes them of the narrow one and of its scales, and only these become float32.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from zowarmup.common.models.graph import ELEMENT_OF, FLOAT
from zowarmup.common.models.narrow import SCALE_OF

_NOWHERE, _SAME, _LAST = "zowarmup.nowhere", "zowarmup.same", "zowarmup.last"
"""Constants: 0, as a place; two of them, as a shape whose extents stay as they are; -1, as an axis."""


def with_late_weights(model: Any, matrices: Collection[str], narrow: Mapping[str, str]) -> Any:
    """Change a graph in place.

    Args:
        model: ONNX's message of a model.
        matrices: Inputs of it, float32 (rows, columns), of which parts may be cut out.
        narrow: Those of them that are to be inputs of fewer bits, each with its type, BF16 or I8; of the latter the scales, float32 (rows,),
            are a further input.

    Returns:
        The same model.
    """
    graph = model.graph
    axes = {constant.name: numpy_helper.to_array(constant) for constant in graph.initializer}
    for value in list(graph.input):
        if kind := narrow.get(value.name):
            rows = value.type.tensor_type.shape.dim[0].dim_value
            value.type.tensor_type.elem_type = ELEMENT_OF[kind]
            if kind == "I8":
                graph.input.append(helper.make_tensor_value_info(value.name + SCALE_OF, FLOAT, [rows]))
    nodes = list(graph.node)
    del graph.node[:]
    parts = {node.output[0]: node for node in nodes if node.input and _cuts_rows(node, matrices, axes)}
    late = {*narrow, *parts}
    for node in nodes:
        if node.output[0] in parts:
            continue  # made where it is read
        if (
            node.op_type == "Gather"
            and node.input[0] in narrow
            and not any(a.i for a in node.attribute if a.name == "axis")
        ):
            graph.node.extend(_single_rows(node, narrow[node.input[0]]))
            continue
        beside = next((name for name in node.input if name not in {*late, *matrices, *axes}), "")
        for place, name in enumerate(node.input):
            if name in late:
                node.input[place] = f"{node.output[0]}.{place}"
                graph.node.extend(_made(node.input[place], name, parts.get(name), beside, narrow))
        graph.node.append(node)
    constants = ((_NOWHERE, np.zeros(1, np.int64)), (_SAME, np.zeros(2, np.int64)), (_LAST, np.full(1, -1)))
    read = {name for node in graph.node for name in node.input}
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants if name in read)
    return model


def _cuts_rows(node: Any, matrices: Collection[str], axes: dict[str, Any]) -> bool:
    """Whether a node cuts rows out of a matrix."""
    along = axes.get(node.input[3]) if node.op_type == "Slice" and len(node.input) > 3 else None
    return along is not None and node.input[0] in matrices and not along.any()


def _made(late: str, name: str, part: Any, beside: str, narrow: Mapping[str, str]) -> Iterator[Any]:
    """The nodes that make `late`, float32, of the matrix `name` or of the part of one, once `beside` is there."""
    matrix = name if part is None else part.input[0]
    kind, scales = narrow.get(matrix), matrix + SCALE_OF
    if beside:
        yield helper.make_node("Size", [beside], [f"{late}.size"])
        yield helper.make_node("Mul", [f"{late}.size", _SAME if part is None else _NOWHERE], [f"{late}.zeros"])
    if part is not None:
        start, rest = part.input[1], part.input[2:]
        if beside:
            yield helper.make_node("Add", [start, f"{late}.zeros"], [f"{late}.start"])
            start = f"{late}.start"
        if kind is None:
            yield helper.make_node("Slice", [matrix, start, *rest], [late])
            return
        yield helper.make_node("Slice", [matrix, start, *rest], [f"{late}.narrow"])
        if kind == "I8":
            yield helper.make_node("Slice", [scales, start, *rest], [f"{late}.scales"])
        matrix, scales = f"{late}.narrow", f"{late}.scales"
    elif beside:
        yield helper.make_node("Reshape", [matrix, f"{late}.zeros"], [f"{late}.narrow"])
        matrix = f"{late}.narrow"
    if kind == "I8":
        yield helper.make_node("DequantizeLinear", [matrix, scales], [late], axis=0)
    else:
        yield helper.make_node("Cast", [matrix], [late], to=FLOAT)


def _single_rows(node: Any, kind: str) -> Iterator[Any]:
    """The nodes that take single rows of a narrow matrix and make these float32."""
    matrix, places, out = node.input[0], node.input[1], node.output[0]
    yield helper.make_node("Gather", [matrix, places], [f"{out}.rows"], axis=0)
    if kind == "BF16":
        yield helper.make_node("Cast", [f"{out}.rows"], [out], to=FLOAT)
        return
    yield helper.make_node("Gather", [matrix + SCALE_OF, places], [f"{out}.rows{SCALE_OF}"], axis=0)
    yield helper.make_node("Cast", [f"{out}.rows"], [f"{out}.wide"], to=FLOAT)
    yield helper.make_node("Unsqueeze", [f"{out}.rows{SCALE_OF}", _LAST], [f"{out}.scales"])
    yield helper.make_node("Mul", [f"{out}.wide", f"{out}.scales"], [out])
