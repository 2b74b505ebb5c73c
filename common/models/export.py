"""The model's forward pass as an ONNX graph whose weights are inputs, for devices without torch.

The module is exported as a function of its weights: they are arguments of what the exporter traces, so it can neither
fold them into constants nor merge tensors that happen to be equal, as it does with weights that belong to a module.
The graph is then run beside the module, at other weights than the exported ones, before anything is shipped.
"""

import logging
import warnings
from typing import Any

import numpy as np
import torch
from torch import nn

from zowarmup.common.layout import Layout
from zowarmup.common.models import flatten
from zowarmup.common.models.construction import sample
from zowarmup.common.models.description import head_module, tensors_of
from zowarmup.common.models.error import ModelError
from zowarmup.common.program import Program

_OPSET = 21  # the first with group normalisation as an operator
_TRACED = 2  # examples in the traced batch; the axis is dynamic
_TOLERANCE = 1e-4


def export_program(module: nn.Module, layout: Layout, input_shape: tuple[int, ...]) -> bytes:
    """The graph for `Program`: inputs "inputs" (n, *input_shape) and the layout's tensors by name, outputs "logits"
    and, where the layout has a head, "features", all float32, in eval mode. Equal modules give equal bytes.

    Raises ModelError where the module cannot be exported or its graph gives other logits than it does.
    """
    module.eval()
    function = _Function(module, layout)
    tensors = tensors_of(module, layout)
    weights = tuple(tensors[tensor.name].detach() for tensor in layout.tensors)
    outputs = ["logits"] if layout.head is None else ["logits", "features"]
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns of torchvision's absence, which does not matter here
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                function,
                (sample(input_shape, _TRACED), *weights),
                dynamo=True,
                verbose=False,
                opset_version=_OPSET,
                input_names=["inputs", *(tensor.name for tensor in layout.tensors)],
                output_names=outputs,
                dynamic_shapes={"inputs": {0: torch.export.Dim("n")}, "weights": tuple({} for _ in weights)},
            )
    except Exception as error:  # the exporter's errors share no base; what it says first is the cause
        raise ModelError(f"the model cannot be exported to ONNX: {_cause(error)}") from error
    finally:
        log.setLevel(level)
    assert program is not None
    onnx = _bare(program.model_proto)
    _verify(onnx, function, layout, input_shape)
    return onnx


class _Function(nn.Module):
    """The module as a function of its inputs and weights: logits and, where there is a head, features."""

    def __init__(self, module: nn.Module, layout: Layout) -> None:
        super().__init__()
        # Kept out of nn.Module's sight: as a submodule it would bring its own weights into the graph.
        self.__dict__["_module"] = module
        self._names = [tensor.name for tensor in layout.tensors]
        self.__dict__["_head"] = head_module(module, layout) if layout.head else None

    def forward(self, inputs: torch.Tensor, *weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
        module, head = self.__dict__["_module"], self.__dict__["_head"]
        named = dict(zip(self._names, weights, strict=True))
        if head is None:
            return (torch.func.functional_call(module, named, (inputs,)),)
        features: list[torch.Tensor] = []
        handle = head.register_forward_pre_hook(lambda _, args: features.append(args[0]))
        try:
            logits = torch.func.functional_call(module, named, (inputs,))
        finally:
            handle.remove()
        return (logits, features[0])


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no reason given'}"


def _bare(model: Any) -> bytes:
    """Without the traces of the source code, which are most of the bytes and differ between machines."""
    for node in model.graph.node:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    for values in (model.graph.input, model.graph.output, model.graph.initializer):
        for value in values:
            value.ClearField("doc_string")
            value.ClearField("metadata_props")
    model.graph.ClearField("value_info")
    model.graph.ClearField("metadata_props")
    model.ClearField("metadata_props")
    return bytes(model.SerializeToString(deterministic=True))


def _verify(onnx: bytes, function: nn.Module, layout: Layout, input_shape: tuple[int, ...]) -> None:
    """The graph against the module at weights of its own, so that every tensor is seen to be read from the vector."""
    weights = np.empty(layout.size, dtype=np.float32)
    module: nn.Module = function.__dict__["_module"]
    weights[:] = flatten(module, layout)
    nudge = np.random.Generator(np.random.Philox(key=0)).random(layout.size, dtype=np.float32)
    weights += 0.1 * np.abs(weights) * nudge + 0.01 * nudge  # upwards: a variance must stay positive
    try:
        program = Program(onnx, layout, weights)
    except ValueError as error:
        raise ModelError(f"the exported model is not what was asked for: {error}") from error
    views = layout.views(weights)
    named = [torch.from_numpy(views[tensor.name]) for tensor in layout.tensors]
    for count in (1, 3):
        inputs = sample(input_shape, count)
        with torch.no_grad():
            wanted = [output.numpy() for output in function(inputs, *named)]
        found = program.forward(inputs.numpy())
        for want, get in zip(wanted, found, strict=False):
            worst = float(np.abs(want - get).max()) if get is not None else np.inf
            if not worst <= _TOLERANCE * (1 + float(np.abs(want).max())):
                raise ModelError(f"the exported model gives other outputs than the module: they differ by {worst:.1e}")
