"""Models: what a run may train, as torch modules and as flat vectors.

The low tier uses `program` alone; torch is imported when a function of this module is called. Every function raises ModelError where a
model cannot be used.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.exact.layout import Layout
from zowarmup.common.exact.submodel import Submodel
from zowarmup.common.models.errors import ModelError
from zowarmup.common.settings.run import Model

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["ModelError", "build", "build_part", "describe", "flatten", "load_into", "trainable"]


def build(model: Model, input_shape: tuple[int, ...], outputs: int, seed: int, logits: bool = True) -> "nn.Module":
    """The named model for inputs (n, *input_shape) and outputs (n, outputs), in eval mode, with initial weights drawn
    from `seed`. `logits`: whether these must be logits (`outputs`). torch's global generator is left as it was."""
    from zowarmup.common.models.construction import construct

    return construct(model, input_shape, outputs, seed, logits)


def build_part(
    model: Model, input_shape: tuple[int, ...], outputs: int, part: Submodel, logits: bool = True
) -> "nn.Module":
    """The half-width part of the named model, to be trained at weights of its own: see zowarmup.common.models.narrow."""
    from zowarmup.common.models.narrow import narrow

    return narrow(model, input_shape, outputs, part, logits)


def describe(module: "nn.Module", input_shape: tuple[int, ...], exact_head: bool = True) -> Layout:
    """Where each of the module's tensors lies in the flat vector, and its head if it ends in a linear layer whose gradient
    is wanted exactly.

    It makes a forward pass over two inputs of `input_shape` and leaves the module in eval mode."""
    from zowarmup.common.models.description import layout_of

    return layout_of(module, input_shape, exact_head)


def flatten(module: "nn.Module", layout: Layout) -> NDArray[np.float32]:
    """The module's weights as a new flat vector, float32 (layout.size,)."""
    from zowarmup.common.models.description import tensors_of

    weights = np.empty(layout.size, dtype=np.float32)
    tensors = tensors_of(module, layout)
    for name, view in layout.views(weights).items():
        view[...] = tensors[name].detach().cpu().numpy()
    return weights


def trainable(module: "nn.Module", layout: Layout) -> "list[Tensor]":
    """The module's trainable parameters, in the order in which they fill [0, layout.trainable) of the flat vector."""
    from zowarmup.common.models.description import tensors_of

    tensors = tensors_of(module, layout)
    return [tensors[tensor.name] for tensor in layout.tensors if tensor.stop <= layout.trainable]


def load_into(module: "nn.Module", layout: Layout, weights: NDArray[np.float32]) -> None:
    """Copy the flat vector, float32 (layout.size,), into the module's parameters and buffers."""
    import torch

    from zowarmup.common.models.description import tensors_of

    tensors = tensors_of(module, layout)
    with torch.no_grad():
        for name, view in layout.views(weights).items():
            tensors[name].copy_(torch.from_numpy(view))
