"""Export of the forward pass as an ONNX graph whose weights are inputs, for devices without torch.

The module is exported as a function of its weights: they are arguments of what the exporter traces, so it can neither
fold them into constants nor merge tensors that happen to be equal, as it does with weights that belong to a module.
The graph is then run beside the module, at other weights than the exported ones, before anything is shipped.
"""

import logging
import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from zowarmup.common.exact.layout import Layout
from zowarmup.common.lora import UP
from zowarmup.common.models.base import Constant
from zowarmup.common.models.construction import ModelError, sample, vocabulary_of
from zowarmup.common.models.cutting import boundary_of
from zowarmup.common.models.description import constants_of, everywhere, flatten, head_module, tensors_of
from zowarmup.common.models.graph import OPSET, outputs_of
from zowarmup.common.models.late_weights import with_late_weights
from zowarmup.common.models.narrow import narrow_kinds
from zowarmup.common.models.program import Program
from zowarmup.common.prefix import PREFIX_ENDS
from zowarmup.common.system.garbage import uncollected
from zowarmup.common.text import in_words, where

_TRACED = 2  # examples in the traced batch; the axis is dynamic
_TOLERANCE = 1e-4


def export_program(
    module: nn.Module, layout: Layout, input_shape: tuple[int, ...], base: Mapping[str, Constant] | None = None
) -> bytes:
    """Export the forward pass, in eval mode, as an ONNX graph for `Program`. Equal modules give equal bytes.

    Args:
        module: The model; left in eval mode.
        layout: Its layout.
        input_shape: Of one example, without the batch's axis.
        base: The module's constants as devices have them, some in fewer bits, of the values that the module has; None: as float32.

    Returns:
        The graph. Its inputs are "inputs", float32 (n, *input_shape) or tokens, int64 (n, t) or (n, choices, t), the layout's tensors and the
        module's constants by name, those of adapters and prefixes with an axis more, for each example or 1; its outputs "logits" and, where the
        layout has a head, "features", float32; and where the model is cut, "activations" and, where any do, "means", which cross
        the cut.

    Raises:
        ModelError: The module cannot be exported, or its graph gives other logits than it does.
    """
    module.eval()
    function = _Function(module, layout)
    tensors = tensors_of(module, layout) | constants_of(module)
    weights = tuple(_traced(name, tensors[name].detach()) for name in function.names)
    batch = torch.export.Dim("n")
    varying = {0: batch} | ({len(input_shape): torch.export.Dim("t")} if vocabulary_of(module) else {})
    own = tuple({0: batch} if _is_own(name) else {} for name in function.names)
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns of torchvision's absence, which does not matter here
    try:
        with warnings.catch_warnings(), torch.no_grad(), uncollected():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                function,
                (sample(module, input_shape, _TRACED), *weights),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=["inputs", *function.names],
                output_names=outputs_of(layout),
                dynamic_shapes={"inputs": varying, "weights": own},
            )
    except (Exception, SystemExit) as error:  # the exporter's errors share no base
        raise ModelError(f"the model cannot be exported to ONNX: {_cause(error)}") from error
    finally:
        log.setLevel(level)
    assert program is not None
    own_names = {name for name in function.names if _is_own(name)}
    if base is None:
        base = {name: Constant("F32", tensor.detach().numpy()) for name, tensor in constants_of(module).items()}
    matrices = [name for name, tensor in constants_of(module).items() if tensor.ndim == 2]
    onnx = _bare(with_late_weights(_with_own(program.model_proto, own_names), matrices, narrow_kinds(base)))
    _verify(onnx, function, layout, input_shape, base)
    return onnx


def _is_own(name: str) -> bool:
    """Whether each example may have a tensor of that name of its own: those of adapters and prefixes, which are small."""
    return name.endswith((f".{UP}", *PREFIX_ENDS))


def _traced(name: str, tensor: torch.Tensor) -> torch.Tensor:
    return tensor.expand(_TRACED, *tensor.shape) if _is_own(name) else tensor


class _Function(nn.Module):
    """The module as a function of its inputs and weights: logits, features where there is a head, and what crosses the cut where it has
    one."""

    def __init__(self, module: nn.Module, layout: Layout) -> None:
        super().__init__()
        # Kept out of nn.Module's sight: as a submodule it would bring its own weights into the graph.
        self.__dict__["_module"] = module
        self.names = [tensor.name for tensor in layout.tensors] + list(constants_of(module))
        self.__dict__["_head"] = head_module(module, layout) if layout.head else None
        self.__dict__["_boundary"] = boundary_of(module)

    def forward(self, inputs: torch.Tensor, *weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
        module, head, boundary = (self.__dict__[name] for name in ("_module", "_head", "_boundary"))
        named = everywhere(module, dict(zip(self.names, weights, strict=True)))
        seen: list[torch.Tensor] = []
        # The head's first, so before they are whitened.
        handles = [
            part.register_forward_pre_hook(lambda _, args: seen.extend(args), prepend=True)
            for part in (boundary, head)
            if part is not None
        ]
        try:
            logits = torch.func.functional_call(module, named, (inputs,), tie_weights=False)
        finally:
            for handle in handles:
                handle.remove()
        count = len(seen) - (head is not None)
        return (logits, *seen[count:], *seen[:count])


def _cause(error: BaseException) -> str:
    """What the exporter stumbled on, where in the model's code, and what to do about it."""
    causes, around = _chain(error, False), _chain(error, True)
    place = next((found for link in reversed(around) if (found := where(link))), "")
    at = f" at {place}" if place else ""
    names, said = {type(link).__name__ for link in around}, in_words(causes[-1])
    if "GuardOnDataDependentSymNode" in names:
        return (
            f"its forward decides by the values of its inputs{at}, as `if x.sum() > 0` or .item() does: compute both ways "
            "and choose with torch.where, or decide by shapes"
        )
    if missing := re.search(r"No ONNX function found for .*?(aten\.\w+)", str(causes[-1])):
        return f"ONNX has no operator for torch's {missing[1]}: use another layer in its place"
    return f"{said if place in said else said + at}; only torch's own operations on tensors can be exported"


def _chain(error: BaseException, contexts: bool) -> list[BaseException]:
    """An error and what caused it; with `contexts`, also what it was raised in the handling of."""
    links = [error]
    while (link := links[-1].__cause__ or (links[-1].__context__ if contexts else None)) and link not in links:
        links.append(link)
    return links


def _with_own(model: Any, names: set[str]) -> Any:
    """With another length of the axis of examples in the inputs of those names than in the batch: 1, which products repeat for every
    example. So nothing may take the batch's length from them."""
    for value in model.graph.input:
        if value.name in names:
            value.type.tensor_type.shape.dim[0].dim_param = "m"
    for node in model.graph.node:
        if node.op_type == "Shape" and node.input[0] in names:
            first = {attribute.name: attribute.i for attribute in node.attribute}
            if (first.get("start", 0), first.get("end", 0)) != (0, 1):
                raise ModelError(
                    "the exporter reads the shape of an adapter: use the version of torch in constraints.txt"
                )
            node.input[0] = "inputs"
    return model


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


def _verify(
    onnx: bytes, function: _Function, layout: Layout, input_shape: tuple[int, ...], constants: Mapping[str, Constant]
) -> None:
    """The graph against the module at weights of its own, so that every tensor is seen to be read from the vector."""
    weights = np.empty(layout.size, dtype=np.float32)
    module: nn.Module = function.__dict__["_module"]
    weights[:] = flatten(module, layout)
    random = np.random.Generator(np.random.Philox(key=0))
    for piece in np.array_split(
        weights, max(1, layout.size >> 16)
    ):  # a second copy of the weights would take longer than this
        piece += (0.1 * np.abs(piece) + 0.01) * random.random(
            piece.size, np.float32
        )  # upwards: a variance must stay positive
    try:
        program = Program(onnx, layout, weights, constants=constants)
    except ValueError as error:
        raise ModelError(f"the exported model is not what was asked for: {error}") from error
    views = layout.views(weights)
    named = [torch.from_numpy(values) for values in views.values()] + list(constants_of(module).values())
    own = {name for name in views if _is_own(name)}
    if own != program.own:
        raise ModelError(
            f"the exported model is not what was asked for: of {sorted(own ^ program.own)} examples have their own"
        )
    for count in (1, 3):
        inputs = sample(module, input_shape, count)
        with torch.no_grad():
            wanted = [output.numpy() for output in function(inputs, *named)]
        found = program.forward(inputs.numpy())
        for want, get in zip(wanted, found, strict=False):
            worst = float(np.abs(want - get).max()) if get is not None else np.inf
            if not worst <= _TOLERANCE * (1 + float(np.abs(want).max())):
                raise ModelError(f"the exported model gives other outputs than the module: they differ by {worst:.1e}")
