"""A linear layer that reads whitened features: a buffer of it, and what stands before it.

The buffer is the identity until the first zeroth-order round sets it (`algorithms.whitening`); until then the model computes the
same bits as without it.
"""

import torch
from torch import nn

from zowarmup.common.exact.layout import WHITENING, no_whitening


def add_whitening(layer: nn.Linear, rank: int) -> None:
    """Let a layer read whitened features.

    Args:
        layer: The model's last, changed in place; with at least two inputs. Asked again, it stays as it is.
        rank: How many directions are scaled apart, at least 1; no more than there are inputs, less one.
    """
    if any(name == WHITENING for name, _ in layer.named_buffers()):
        return
    rows = no_whitening(min(rank, layer.in_features - 1), layer.in_features)
    layer.register_buffer(WHITENING, torch.from_numpy(rows))
    layer.register_forward_pre_hook(_whiten)


def _whiten(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    rows = layer.get_buffer(WHITENING)
    centred = (inputs[0] - rows[0]) * rows[1]
    return centred - (centred @ rows[2:].T) @ rows[2:]
