"""The graph's use of its large matrices, put off until each is needed: 8-bit ones become float32, and parts are cut out, just before they are read.

A runtime may compute first what depends on inputs alone, and weights are inputs: all of an 8-bit model's matrices would be float32
at once, and all parts of an output layer be copied, before the first layer has run. So these nodes are made to depend on what the reader reads
beside the matrix, by a zero that is made of its size, and what they make is gone once the reader has run. What takes single rows of
a matrix, as an embedding does, takes them of the 8-bit one and of its scales, and only these become float32.
"""

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from zowarmup.common.models.graph import ELEMENT_OF, FLOAT
from zowarmup.common.models.int8 import SCALE_OF

_ZERO, _NOWHERE, _LAST = "zowarmup.zero", "zowarmup.nowhere", "zowarmup.last"
"""Constants: 0.0; 0, as a place; -1, as an axis."""


def with_late_weights(model: Any, matrices: Collection[str], int8: Collection[str]) -> Any:
    """Change a graph in place.

    Args:
        model: ONNX's message of a model.
        matrices: Inputs of it, float32 (rows, columns), of which parts may be cut out.
        int8: Those of them that are to be 8-bit inputs, each with its scales, float32 (rows,), as a further input.

    Returns:
        The same model.
    """
    graph = model.graph
    axes = {constant.name: numpy_helper.to_array(constant) for constant in graph.initializer}
    for value in list(graph.input):
        if value.name in int8:
            rows = value.type.tensor_type.shape.dim[0].dim_value
            value.type.tensor_type.elem_type = ELEMENT_OF["I8"]
            graph.input.append(helper.make_tensor_value_info(value.name + SCALE_OF, FLOAT, [rows]))
    nodes = list(graph.node)
    del graph.node[:]
    parts = {node.output[0]: node for node in nodes if node.input and _cuts_rows(node, matrices, axes)}
    late = {*int8, *parts}
    for node in nodes:
        if node.output[0] in parts:
            continue  # made where it is read
        if (
            node.op_type == "Gather"
            and node.input[0] in int8
            and not any(a.i for a in node.attribute if a.name == "axis")
        ):
            graph.node.extend(_single_rows(node))
            continue
        beside = next((name for name in node.input if name not in {*late, *matrices, *axes}), "")
        for place, name in enumerate(node.input):
            if name in late:
                node.input[place] = f"{node.output[0]}.{place}"
                graph.node.extend(_made(node.input[place], name, parts.get(name), beside, int8))
        graph.node.append(node)
    constants = ((_ZERO, np.zeros((), np.float32)), (_NOWHERE, np.zeros(1, np.int64)), (_LAST, np.full(1, -1)))
    read = {name for node in graph.node for name in node.input}
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants if name in read)
    return model


def _cuts_rows(node: Any, matrices: Collection[str], axes: dict[str, Any]) -> bool:
    """Whether a node cuts rows out of a matrix."""
    along = axes.get(node.input[3]) if node.op_type == "Slice" and len(node.input) > 3 else None
    return along is not None and node.input[0] in matrices and not along.any()


def _made(late: str, name: str, part: Any, beside: str, int8: Collection[str]) -> Iterator[Any]:
    """The nodes that make `late`, float32, of the matrix `name` or of the part of one, once `beside` is there."""
    matrix = name if part is None else part.input[0]
    scales = matrix + SCALE_OF
    if beside:
        yield helper.make_node("Size", [beside], [f"{late}.size"])
    if part is not None:
        start, rest = part.input[1], part.input[2:]
        if beside:
            yield helper.make_node("Mul", [f"{late}.size", _NOWHERE], [f"{late}.nowhere"])
            yield helper.make_node("Add", [start, f"{late}.nowhere"], [f"{late}.start"])
            start = f"{late}.start"
        if matrix not in int8:
            yield helper.make_node("Slice", [matrix, start, *rest], [late])
            return
        yield helper.make_node("Slice", [matrix, start, *rest], [f"{late}.narrow"])
        yield helper.make_node("Slice", [scales, start, *rest], [f"{late}.scales"])
        matrix, scales = f"{late}.narrow", f"{late}.scales"
    elif beside:
        yield helper.make_node("Cast", [f"{late}.size"], [f"{late}.count"], to=FLOAT)
        yield helper.make_node("Mul", [f"{late}.count", _ZERO], [f"{late}.zero"])
        yield helper.make_node("Add", [scales, f"{late}.zero"], [f"{late}.scales"])
        scales = f"{late}.scales"
    yield helper.make_node("DequantizeLinear", [matrix, scales], [late], axis=0)


def _single_rows(node: Any) -> Iterator[Any]:
    """The nodes that take single rows of an 8-bit matrix and make these float32."""
    matrix, places, out = node.input[0], node.input[1], node.output[0]
    for suffix in ("", SCALE_OF):
        yield helper.make_node("Gather", [matrix + suffix, places], [f"{out}.rows{suffix}"], axis=0)
    yield helper.make_node("Cast", [f"{out}.rows"], [f"{out}.wide"], to=FLOAT)
    yield helper.make_node("Unsqueeze", [f"{out}.rows{SCALE_OF}", _LAST], [f"{out}.scales"])
    yield helper.make_node("Mul", [f"{out}.wide", f"{out}.scales"], [out])
