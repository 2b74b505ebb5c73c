"""The half-width submodel as a torch module, as a low-tier client trains it in HeteroFL (`algorithms.heterofl`).

It comes from the constructor of the whole with half the width, so it is the same code, and its tensors are those of
`submodel.half_width`. The first half of the channels, flattened, is the first half of the flattened features. GroupNorm
keeps the size of its groups: of resnet18's two the part has the first, so both normalise over the same channels.

A layer that reads half as many units sums to half as much, so in the part what it reads is scaled by the width that is
missing, and what has been learnt fits when the other half is there. The paper's Scaler stands behind a layer and not in
front of the next. Where ReLU and pooling alone are between the two that is the same; where a norm is, it undoes the
paper's, and a scaled input of the next layer is what remains.
"""

from functools import partial
from typing import Any

import torch
from torch import nn

from zowarmup.common.exact.submodel import Submodel
from zowarmup.common.models.construction import construct
from zowarmup.common.models.description import layout_of
from zowarmup.common.models.errors import ModelError
from zowarmup.common.settings.run import Model


def narrow(model: Model, input_shape: tuple[int, ...], outputs: int, part: Submodel, logits: bool = True) -> nn.Module:
    """See zowarmup.common.models.build_part."""
    module = construct(model, input_shape, outputs, 0, logits, half_width=True)
    if layout_of(module, input_shape) != part.layout:
        raise ModelError(f"model {model.name} at half its width is not the run's: is it the same code?")
    for whole, mine in zip(part.whole.tensors, part.layout.tensors, strict=True):
        if len(mine.shape) > 1 and mine.shape[1] < whole.shape[1]:
            layer = module.get_submodule(mine.name.rpartition(".")[0])
            layer.register_forward_pre_hook(partial(_scaled, by=whole.shape[1] / mine.shape[1]))
    return module


def _scaled(layer: nn.Module, inputs: tuple[Any, ...], by: float) -> torch.Tensor:
    scaled: torch.Tensor = inputs[0] * by
    return scaled
