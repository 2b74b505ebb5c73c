"""Programs by which a coordinator would read a device's files.

Each computes logits (n, 10) of which the first is the sum of 32 weights, each times one byte of a file: the derivatives of
the loss along enough directions are then that file.
"""

from collections.abc import Callable

import numpy as np
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    TrainingInfoProto,
    helper,
    numpy_helper,
)

from zowarmup.common.exact.layout import Block, Layout, Tensor
from zowarmup.common.models.graph import OPSET

BYTES, CLASSES = 32, 10
LAYOUT = Layout((Tensor("w", (BYTES,), 0),), BYTES, BYTES, (Block("all", 0, BYTES),))
SHAPE = (1, 8, 8)


def external(name: str, location: str, shape: tuple[int, ...] = (BYTES,), kind: int = TensorProto.UINT8) -> TensorProto:
    """A tensor whose elements are in a file."""
    tensor = TensorProto(name=name, data_type=kind, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", str(BYTES))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return tensor


def constant(name: str, *values: float, kind: str = "float32", shape: tuple[int, ...] | None = None) -> TensorProto:
    array = np.array(values, kind)
    return numpy_helper.from_array(array if shape is None else array.reshape(shape), name)


def graph(secret: TensorProto | None, *before: NodeProto) -> GraphProto:
    """The graph over the bytes called "secret", which are a constant or what the nodes `before` make."""
    nodes = [
        *before,
        # By indices that depend on the input, so that nothing is computed before it is there.
        helper.make_node("ReduceMax", ["inputs"], ["largest"], keepdims=0),
        helper.make_node("Mul", ["largest", "zero"], ["nothing"]),
        helper.make_node("Cast", ["nothing"], ["first"], to=TensorProto.INT64),
        helper.make_node("Add", ["first", "indices"], ["places"]),
        helper.make_node("Gather", ["secret", "places"], ["bytes"]),
        helper.make_node("Cast", ["bytes"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["values", "w"], ["products"]),
        helper.make_node("ReduceSum", ["products"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "one_hot"], ["row"]),
        helper.make_node("Reshape", ["inputs", "flat"], ["rows"]),
        helper.make_node("MatMul", ["rows", "zeros"], ["blank"]),
        helper.make_node("Add", ["blank", "row"], ["logits"]),
    ]
    constants = [
        constant("zero", 0),
        constant("indices", *range(BYTES), kind="int64"),
        constant("one_hot", 1 / 255, *[0] * (CLASSES - 1), shape=(1, CLASSES)),
        constant("flat", -1, 64, kind="int64"),
        constant("zeros", *[0] * 64 * CLASSES, shape=(64, CLASSES)),
    ]
    float32 = TensorProto.FLOAT
    return helper.make_graph(
        nodes,
        "main_graph",
        [
            helper.make_tensor_value_info("inputs", float32, ["n", *SHAPE]),
            helper.make_tensor_value_info("w", float32, [BYTES]),
        ],
        [helper.make_tensor_value_info("logits", float32, ["n", CLASSES])],
        [*constants, *([secret] if secret is not None else [])],
    )


def model(body: GraphProto, *more_sets: str) -> ModelProto:
    sets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(domain, 1) for domain in more_sets)]
    return helper.make_model(body, opset_imports=sets, ir_version=10, producer_name="pytorch")


def initializer(location: str) -> ModelProto:
    return model(graph(external("secret", location)))


def location_alone(location: str) -> ModelProto:
    """The file is named, though the flag says that there is none."""
    secret = external("secret", location)
    secret.ClearField("data_location")
    return model(graph(secret))


def attribute(location: str) -> ModelProto:
    return model(graph(None, helper.make_node("Constant", [], ["secret"], value=external("", location))))


def shape_attribute(location: str) -> ModelProto:
    """In an operator that the exporter writes."""
    node = helper.make_node("ConstantOfShape", ["shape"], ["secret"], value=external("", location))
    body = graph(None, node)
    body.initializer.append(constant("shape", BYTES, kind="int64"))
    return model(body)


def inner(location: str) -> GraphProto:
    out = helper.make_tensor_value_info("chosen", TensorProto.UINT8, [BYTES])
    node = helper.make_node("Identity", ["within"], ["chosen"])
    return helper.make_graph([node], "inner", [], [out], [external("within", location)])


def branch(location: str) -> ModelProto:
    node = helper.make_node("If", ["yes"], ["secret"], then_branch=inner(location), else_branch=inner(location))
    body = graph(None, node)
    body.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    return model(body)


def graph_of_an_allowed_operator(location: str) -> ModelProto:
    """Where no operator asks for one, a runtime may all the same read its constants."""
    secret = constant("secret", *[0] * BYTES, kind="uint8")
    body = graph(secret)
    body.node[0].attribute.append(helper.make_attribute("body", inner(location)))
    return model(body)


def graphs_attribute(location: str) -> ModelProto:
    body = graph(constant("secret", *[0] * BYTES, kind="uint8"))
    body.node[0].attribute.append(AttributeProto(name="bodies", type=AttributeProto.GRAPHS, graphs=[inner(location)]))
    return model(body)


def function(location: str) -> ModelProto:
    made = model(graph(None, helper.make_node("Read", [], ["secret"], domain="local")), "local")
    body = helper.make_node("Constant", [], ["found"], value=external("", location))
    made.functions.append(
        helper.make_function("local", "Read", [], ["found"], [body], [helper.make_opsetid("", OPSET)])
    )
    return made


def sparse(location: str, values: bool) -> ModelProto:
    held = constant("secret", *[1] * BYTES, kind="uint8")
    places = constant("", *range(BYTES), kind="int64")
    tensor = SparseTensorProto(
        values=external("secret", location) if values else held,
        indices=places if values else external("", location, (4,), TensorProto.INT64),
        dims=[BYTES],
    )
    body = graph(None)
    body.sparse_initializer.append(tensor)
    return model(body)


def sparse_attribute(location: str) -> ModelProto:
    node = helper.make_node("Constant", [], ["secret"])
    tensor = SparseTensorProto(
        values=external("secret", location), indices=constant("", *range(BYTES), kind="int64"), dims=[BYTES]
    )
    node.attribute.append(AttributeProto(name="sparse_value", type=AttributeProto.SPARSE_TENSOR, sparse_tensor=tensor))
    return model(graph(None, node))


def training(location: str) -> ModelProto:
    made = model(graph(constant("secret", *[0] * BYTES, kind="uint8")))
    made.training_info.append(TrainingInfoProto(algorithm=inner(location)))
    return made


def custom(location: str) -> ModelProto:
    node = helper.make_node("ReadFile", [], ["secret"], domain="com.example", path=location)
    return model(graph(None, node), "com.example")


def compiled(location: str) -> ModelProto:
    """The runtime's own way to a file: a context that an accelerator compiled."""
    node = helper.make_node(
        "EPContext", [], ["secret"], domain="com.microsoft", embed_mode=0, ep_cache_context=location
    )
    return model(graph(None, node), "com.microsoft")


def greedy(elements: int) -> ModelProto:
    """A pass over tensors of so many elements, of which nothing comes of."""
    body = graph(constant("secret", *[0] * BYTES, kind="uint8"))
    body.initializer.append(constant("huge", elements, kind="int64"))
    last = body.node.pop()
    more = [
        helper.make_node("Expand", ["largest", "huge"], ["wide"]),
        helper.make_node("Exp", ["wide"], ["wider"]),
        helper.make_node("ReduceMax", ["wider"], ["most"], keepdims=0),
        helper.make_node("Mul", ["most", "zero"], ["none"]),
        helper.make_node("Add", ["row", "none"], ["same"]),
        helper.make_node("Add", ["blank", "same"], ["logits"]),
    ]
    assert list(last.output) == ["logits"]
    body.node.extend(more)
    return model(body)


def endless(nodes: int, side: int = 512) -> ModelProto:
    """A pass of so many products of square matrices, one after the other."""
    body = graph(constant("secret", *[0] * BYTES, kind="uint8"))
    body.initializer.append(constant("square", side, side, kind="int64"))
    body.node.pop()
    body.node.append(helper.make_node("Expand", ["nothing", "square"], ["product 0"]))
    for number in range(nodes):
        names = [f"product {number}", f"product {number}"]
        body.node.append(helper.make_node("MatMul", names, [f"product {number + 1}"]))
    body.node.extend(
        [
            helper.make_node("ReduceMax", [f"product {nodes}"], ["most"], keepdims=0),
            helper.make_node("Add", ["row", "most"], ["same"]),
            helper.make_node("Add", ["blank", "same"], ["logits"]),
        ]
    )
    return model(body)


def cumbersome(nodes: int) -> ModelProto:
    """Of operators that the runtime writes out as graphs, one after the other, as it loads them."""
    body = graph(constant("secret", *[0] * BYTES, kind="uint8"))
    body.initializer.extend([constant("scales", 1, 1), constant("groups", 1, 2, 5, kind="int64")])
    body.node.pop()
    body.node.append(helper.make_node("Reshape", ["row", "groups"], ["normal 0"]))
    for number in range(nodes):
        inputs = [f"normal {number}", "scales", "scales"]
        body.node.append(helper.make_node("GroupNormalization", inputs, [f"normal {number + 1}"], num_groups=2))
    body.node.extend(
        [
            helper.make_node("ReduceMax", [f"normal {nodes}"], ["most"], keepdims=0),
            helper.make_node("Add", ["blank", "most"], ["logits"]),
        ]
    )
    return model(body)


HOSTILE: dict[str, tuple[Callable[[str], ModelProto], str]] = {
    "initializer": (initializer, "it has external data"),
    "location alone": (location_alone, "it has external data"),
    "attribute": (attribute, "it has external data"),
    "attribute of an allowed operator": (shape_attribute, "it has external data"),
    "nested graph": (branch, "it has a graph within an attribute"),
    "graph of an allowed operator": (graph_of_an_allowed_operator, "it has a graph within an attribute"),
    "graphs in an attribute": (graphs_attribute, "it has a graph within an attribute"),
    "function": (function, "it has functions of its own"),
    "sparse values": (lambda location: sparse(location, True), "it has sparse constants"),
    "sparse indices": (lambda location: sparse(location, False), "it has sparse constants"),
    "sparse attribute": (sparse_attribute, "it has a sparse tensor in an attribute"),
    "training information": (training, "it has training information"),
    "custom operator": (custom, "its operators are those of ONNX version 21, com.example version 1"),
    "compiled context": (compiled, "its operators are those of ONNX version 21, com.microsoft version 1"),
}
"""By name: the program for a file's location, and how a device refuses it."""
