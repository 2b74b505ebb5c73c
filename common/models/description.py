"""A module and its flat vector: the order of parameters and buffers, and the weights from one to the other.

Trainable parameters come first, among them those that zeroth-order rounds move last, and of these the head's last of
all, so that what is frozen after the pivot lies together; then what is shipped but never stepped: float buffers such as
BatchNorm's running mean and variance. Weights that layers share are listed once.
Buffers that are not persistent follow from the code, not from training, and are no weights. A parameter that requires no gradient is a
*constant*: it is in no vector, but in the base (`models.base`), as is of a pretrained model all that `train` leaves out.
Of a model that is cut in two (`cutting`) what moves below comes before what moves above.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from zowarmup.common.exact.layout import ALL, AUTO, HEAD, LOWER, UPPER, Block, Cut, Head, Layout, Tensor
from zowarmup.common.exact.submodel import Submodel
from zowarmup.common.models.base import Constant
from zowarmup.common.models.construction import ModelError, build, sample
from zowarmup.common.models.cutting import boundary_of, crossing, cut_of, lies_below
from zowarmup.common.models.narrow import widened
from zowarmup.common.models.trained import trained
from zowarmup.common.models.whitening import add_whitening, rank_of
from zowarmup.common.settings.run import Model

_PROBE = 2


def describe(
    module: nn.Module,
    input_shape: tuple[int, ...],
    exact_head: bool = True,
    train: str = ALL,
    whitening: int = 0,
    pretrained: bool = False,
    only_above: bool = False,
) -> Layout:
    """Lay out the module's tensors in a flat vector, and find its head if it ends in a linear layer.

    It makes a forward pass over two inputs and leaves the module in eval mode, and of a pretrained one what no round trains
    without a gradient.

    Args:
        module: The model.
        input_shape: Of one example.
        exact_head: Whether the head's gradient is wanted exactly; if not, the layout has no head, and where not everything moves
            the head's tensors do, beside those that `train` names.
        train: What zeroth-order rounds move, as `zeroth_order.train` says it.
        whitening: R, how many directions of what the head reads may be scaled apart; the head's layer is given a buffer for
            that, where it has a bias. 0: none is.
        pretrained: Whether no round of either phase moves what `train` leaves out.
        only_above: Whether of a module that is cut zeroth-order rounds move nothing below the cut.

    Raises:
        ModelError: A tensor has no place in such a vector, or nothing is trainable, or nothing is what `train` says, or nothing
            above a cut.
    """
    module.eval()
    tensors = _tensors(module)
    trainable = [name for name, tensor in tensors.items() if tensor.requires_grad]
    if not trainable:
        raise ModelError("the model has no trainable parameters")
    found = _head(module, input_shape, tensors)
    head = found if exact_head else None
    last = [] if head is None else [head.weight_name] + ([head.bias_name] if head.bias_name else [])
    if len(last) == len(trainable) and not constants_of(module):
        head, last = None, []  # nothing but a linear layer: there is no trunk to probe beside it
    rank = rank_of(whitening, head.features) if head is not None and head.bias_name else 0
    if rank and head is not None:
        add_whitening(_layer(module, head), rank)
        tensors = _tensors(module)
    trunk = [name for name in trainable if name not in last]
    if train == AUTO:
        train = ALL if head is None else HEAD
    ends = [name for name in trunk if found and head is None and name in (found.weight_name, found.bias_name)]
    others = {name: tensors[name] for name in trunk if train == ALL or name not in ends}
    probed = trained(train, others, found) + [name for name in ends if name not in others]
    cut, below = _cut(module, input_shape, {name: tensors[name] for name in trunk})
    if cut is not None:
        probed = [name for name in probed if name in below and not only_above] + [n for n in probed if n not in below]
        if not set(probed) - below:
            raise ModelError(
                f"zeroth_order.train = {train!r} moves nothing above the cut but the head: lower zeroth_order.cut, or train more"
            )
    if pretrained:
        for name in trunk:
            tensors[name].requires_grad_(name in probed)
        trunk, trainable = probed, probed + last
        tensors = _tensors(module)
    order = [name for name in trunk if name not in probed] + probed + last
    order += [name for name in tensors if name not in order]
    placed, place = [], 0
    for name in order:
        placed.append(Tensor(name, tuple(tensors[name].shape), place))
        place = placed[-1].stop
    stop = placed[len(trainable) - 1].stop
    edge = placed[len(trainable) - len(last)].start if last else stop
    blocks = [Block("all", 0, stop)]
    if head is not None:
        blocks += ([Block("trunk", 0, edge)] if edge else []) + [Block("head", edge, stop)]
    frozen = placed[len(trunk) - len(probed)].start
    if 0 < frozen < edge:
        blocks.append(Block("probed", frozen, edge))
    if cut is not None:
        middle = next(tensor.start for tensor in placed if tensor.name in probed and tensor.name not in below)
        blocks += ([Block(LOWER, frozen, middle)] if middle > frozen else []) + [Block(UPPER, middle, edge)]
    return Layout(tuple(placed), stop, place, tuple(blocks), head, frozen, cut)


def _cut(
    module: nn.Module, input_shape: tuple[int, ...], tensors: dict[str, torch.Tensor]
) -> tuple[Cut | None, set[str]]:
    """Where the module is cut, and which of some tensors lie below."""
    if boundary_of(module) is None:
        return None, set()
    with torch.enable_grad():
        crossed = crossing(module, sample(module, input_shape, _PROBE))
    return cut_of(module, crossed), lies_below(crossed, tensors)


def constants_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """The module's constants by name: the parameters that require no gradient."""
    return {name: parameter for name, parameter in module.named_parameters() if not parameter.requires_grad}


def load_constants(module: nn.Module, constants: Mapping[str, Constant]) -> None:
    """Copy the tensors of a base into the module's constants.

    Args:
        module: The model, changed in place.
        constants: The base.

    Raises:
        ModelError: They are not those of the module.
    """
    mine, theirs = constants_of(module), widened(constants)
    for name in sorted(mine.keys() ^ theirs.keys()):
        raise ModelError(f"the model's constant {name} is in {'it' if name in mine else 'the base'} alone")
    with torch.no_grad():
        for name, values in theirs.items():
            if tuple(mine[name].shape) != values.shape:
                raise ModelError(
                    f"the model's constant {name} has shape {tuple(mine[name].shape)}, in the base {values.shape}"
                )
            mine[name].copy_(torch.from_numpy(values.copy()))


def tensors_of(module: nn.Module, layout: Layout) -> dict[str, torch.Tensor]:
    """The module's tensors by name.

    Args:
        module: The model.
        layout: Its layout.

    Raises:
        ModelError: They are not those of the layout.
    """
    tensors = _tensors(module)
    for wanted in layout.tensors:
        if wanted.name not in tensors:
            raise ModelError(f"the model has no tensor {wanted.name}, which the layout lists: is it the same code?")
        if tuple(tensors[wanted.name].shape) != wanted.shape:
            found = tuple(tensors[wanted.name].shape)
            raise ModelError(f"the model's {wanted.name} has shape {found}, in the layout it has {wanted.shape}")
    if extra := set(tensors) - {wanted.name for wanted in layout.tensors}:
        raise ModelError(f"the model's tensor {min(extra)} is not in the layout: is it the same code?")
    return tensors


def flatten(module: nn.Module, layout: Layout) -> NDArray[np.float32]:
    """Copy the module's weights into a new flat vector.

    Args:
        module: The model.
        layout: Its layout.

    Returns:
        Float32 (layout.size,).

    Raises:
        ModelError: The module's tensors are not those of the layout.
    """
    weights = np.empty(layout.size, dtype=np.float32)
    tensors = tensors_of(module, layout)
    for name, view in layout.views(weights).items():
        view[...] = tensors[name].detach().cpu().numpy()
    return weights


def trainable(module: nn.Module, layout: Layout) -> list[torch.Tensor]:
    """The module's trainable parameters, in the order in which they fill [0, layout.trainable) of the flat vector.

    Args:
        module: The model.
        layout: Its layout.

    Raises:
        ModelError: The module's tensors are not those of the layout.
    """
    tensors = tensors_of(module, layout)
    return [tensors[tensor.name] for tensor in layout.tensors if tensor.stop <= layout.trainable]


def load_into(module: nn.Module, layout: Layout, weights: NDArray[np.float32]) -> None:
    """Copy a flat vector into the module's parameters and buffers.

    Args:
        module: The model, changed in place.
        layout: Its layout.
        weights: Float32 (layout.size,).

    Raises:
        ModelError: The module's tensors are not those of the layout.
    """
    tensors = tensors_of(module, layout)
    with torch.no_grad():
        for name, view in layout.views(weights).items():
            tensors[name].copy_(torch.from_numpy(view))


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """All of the vector: trainable parameters, then buffers."""
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in module.named_parameters():
        if parameter.dtype != torch.float32:
            raise ModelError(f"parameter {name} is {parameter.dtype}: all parameters must be float32")
        if parameter.requires_grad:
            tensors[name] = parameter
    for prefix, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._NormBase) and part.track_running_stats and part.momentum is None:
            raise ModelError(
                f"{prefix} averages its statistics over all batches it ever saw: give BatchNorm a momentum, such as 0.1"
            )
    kept = set(module.state_dict())
    for name, buffer in module.named_buffers():
        if name not in kept or name.endswith("num_batches_tracked"):
            continue  # BatchNorm's counter has no effect where there is a momentum
        if buffer.dtype != torch.float32:
            raise ModelError(f"buffer {name} is {buffer.dtype}: register it as float32, or with persistent=False")
        tensors[name] = buffer
    if empty := [name for name, tensor in tensors.items() if tensor.numel() == 0]:
        raise ModelError(f"tensor {empty[0]} of the model is empty: leave it out")
    return tensors


def _head(module: nn.Module, input_shape: tuple[int, ...], tensors: dict[str, torch.Tensor]) -> Head | None:
    """The linear layer whose output is the model's, found by watching every linear layer in a forward pass.

    Its gradient has the closed form r^T features, with r that in the outputs, only if the weight is used there and nowhere
    else, so back-propagation is asked whether it has.
    """
    names = {id(tensor): name for name, tensor in tensors.items() if tensor.requires_grad}
    seen: list[tuple[nn.Linear, torch.Tensor, torch.Tensor]] = []

    def watch(layer: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        assert isinstance(layer, nn.Linear)
        seen.append((layer, args[0], output))

    handles = [part.register_forward_hook(watch) for part in module.modules() if type(part) is nn.Linear]
    try:
        with torch.enable_grad():
            logits = module(sample(module, input_shape, _PROBE))
    finally:
        for handle in handles:
            handle.remove()
    for layer, features, output in seen:
        if output.shape != logits.shape or features.ndim != 2 or not torch.equal(output, logits):
            continue
        weight, bias = names.get(id(layer.weight)), names.get(id(layer.bias))
        if weight is None or (layer.bias is not None and bias is None):
            continue
        cotangent = torch.linspace(-1, 1, logits.numel()).reshape(logits.shape)
        wanted = [layer.weight] + ([layer.bias] if layer.bias is not None else [])
        # Of a sum: asked about a tensor and a cotangent, torch loads its symbolic algebra, for seconds and tens of megabytes.
        found = torch.autograd.grad((logits * cotangent).sum(), wanted)
        closed = [cotangent.T @ features.detach(), cotangent.sum(0)]
        if all(torch.allclose(f, c, rtol=1e-3, atol=1e-5) for f, c in zip(found, closed, strict=False)):
            return Head(weight, bias, layer.in_features, layer.out_features)
    return None


def everywhere(module: nn.Module, named: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Values for the module's tensors, also under the further names of those that several layers share.

    A layer that is there under several names is taken once: torch, asked to replace its tensors twice, does not put
    them back.

    Args:
        module: The model.
        named: A value for each tensor, by the first of its names in torch's order.

    Returns:
        The values by every name that torch needs.
    """
    values: dict[int, torch.Tensor | None] = {}
    found: dict[str, torch.Tensor] = {}
    for prefix, layer in module.named_modules():
        own = (*layer.named_parameters("", False, False), *layer.named_buffers("", False, False))
        for name, tensor in own:
            path = f"{prefix}.{name}" if prefix else name
            value = values.setdefault(id(tensor), named.get(path))
            if value is not None:
                found[path] = value
    return found


def head_module(module: nn.Module, layout: Layout) -> nn.Linear:
    """The layer that the layout's head is.

    Args:
        module: The model.
        layout: Its layout, which has a head.
    """
    assert layout.head is not None
    return _layer(module, layout.head)


def _layer(module: nn.Module, head: Head) -> nn.Linear:
    layer = module.get_submodule(head.weight_name.rpartition(".")[0])
    assert isinstance(layer, nn.Linear)
    return layer


def build_part(
    model: Model,
    input_shape: tuple[int, ...],
    outputs: int,
    part: Submodel,
    logits: bool = True,
    exact_head: bool = True,
    train: str = ALL,
) -> nn.Module:
    """Build the half-width part of the named model, which a low-tier client of HeteroFL trains at weights of its own.

    It comes from the constructor of the whole with half the width, so it is the same code, and its tensors are those of
    `layout.half_width`. The first half of the channels, flattened, is the first half of the flattened features.
    GroupNorm keeps the size of its groups: of a residual network's two the part has the first, so both normalise over the same
    channels.

    A layer that reads half as many units sums to half as much, so in the part what it reads is scaled by the width that
    is missing, and what has been learnt fits when the other half is there. The Scaler of the paper (Diao, Ding, Tarokh,
    arXiv 2010.01264) stands behind a layer and not in front of the next. Where ReLU and pooling alone are between the
    two that is the same; where a norm is, it undoes the paper's, and a scaled input of the next layer is what remains.

    Args:
        model: Its name, and how it normalises.
        input_shape: Of one example.
        outputs: How many numbers it gives for an example.
        part: The half-width part of the run's layout.
        logits: Whether these must be logits (`construction.check`).
        exact_head: As in `describe`.
        train: As in `describe`.

    Raises:
        ModelError: The model has none, or it is not the run's.
    """
    module = build(model, input_shape, outputs, 0, logits, half_width=True)
    if describe(module, input_shape, exact_head, train) != part.layout:
        raise ModelError(f"model {model.name} at half its width is not the run's: is it the same code?")
    for whole, mine in zip(part.whole.tensors, part.layout.tensors, strict=True):
        if len(mine.shape) > 1 and mine.shape[1] < whole.shape[1]:
            layer = module.get_submodule(mine.name.rpartition(".")[0])
            layer.register_forward_pre_hook(partial(_scaled, by=whole.shape[1] / mine.shape[1]))
    return module


def _scaled(layer: nn.Module, inputs: tuple[Any, ...], by: float) -> torch.Tensor:
    scaled: torch.Tensor = inputs[0] * by
    return scaled
