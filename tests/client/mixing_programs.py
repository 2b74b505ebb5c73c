"""Programs by which a coordinator would have one example's pass tell of it, or of others: made of the exporter's own."""

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from zowarmup.common.exact.layout import Block, Layout, Tensor
from zowarmup.common.models.graph import OPSET

STRANGE = 1e4
"""A value of an example's inputs that makes `failing` fail, and an honest one has none of."""
MEMORY = Layout((Tensor("w", (4,), 0),), 4, 4, (Block("all", 0, 4),))
"""Of `demanding`."""


def _before(program: bytes, nodes: list[NodeProto], *constants: TensorProto) -> bytes:
    """The same program with nodes before it, which make "read" of "inputs"."""
    model = ModelProto.FromString(program)
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name == "inputs":
                node.input[place] = "read"
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    model.graph.initializer.extend(constants)
    return model.SerializeToString()


def mixing(program: bytes) -> bytes:
    """Adds the largest of each place of a batch's examples to each example."""
    first = numpy_helper.from_array(np.array([0], np.int64), "mixed_axes")
    largest = helper.make_node("ReduceMax", ["inputs", "mixed_axes"], ["largest"], keepdims=1)
    return _before(program, [largest, helper.make_node("Add", ["inputs", "largest"], ["read"])], first)


def failing(program: bytes, strange: float = STRANGE) -> bytes:
    """Reads beyond the end of a list where an input is as large as `strange`."""
    constants = [
        numpy_helper.from_array(np.array([0.0], np.float32), "short"),
        numpy_helper.from_array(np.array(1 / strange, np.float32), "less"),
    ]
    nodes = [
        helper.make_node("ReduceMax", ["inputs"], ["largest"], keepdims=0),
        helper.make_node("Mul", ["largest", "less"], ["small"]),
        helper.make_node("Cast", ["small"], ["place"], to=TensorProto.INT64),
        helper.make_node("Gather", ["short", "place"], ["nothing"]),
        helper.make_node("Add", ["inputs", "nothing"], ["read"]),
    ]
    return _before(program, nodes, *constants)


def demanding() -> bytes:
    """Takes as many float32 numbers of memory as the largest of an example's four inputs says."""
    nodes = [
        helper.make_node("ReduceMax", ["inputs"], ["largest"], keepdims=0),
        helper.make_node("Cast", ["largest"], ["count"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["count", "one"], ["shape"]),
        helper.make_node("Expand", ["zero", "shape"], ["many"]),
        helper.make_node("ReduceSum", ["many"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["w"], ["weight"], keepdims=0),
        helper.make_node("Mul", ["sum", "weight"], ["nothing"]),
        helper.make_node("MatMul", ["inputs", "zeros"], ["blank"]),
        helper.make_node("Add", ["blank", "nothing"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "main_graph",
        [
            helper.make_tensor_value_info("inputs", TensorProto.FLOAT, ["n", 4]),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [4]),
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 10])],
        [
            numpy_helper.from_array(np.array([1], np.int64), "one"),
            numpy_helper.from_array(np.array([0], np.float32), "zero"),
            numpy_helper.from_array(np.zeros((4, 10), np.float32), "zeros"),
        ],
    )
    sets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=sets, ir_version=10, producer_name="pytorch").SerializeToString()
