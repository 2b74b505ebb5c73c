"""A linear layer that reads whitened features: a buffer of it, and what stands before it.

The buffer is the identity until the first zeroth-order round sets it (`algorithms.whitening`); until then the model computes the
same bits as without it.
"""

import torch
from torch import nn

from zowarmup.common.exact.layout import WHITENING, no_whitening

MOST_VALUES = 8192
"""That a client sends in the round that whitens: half of what a message may have."""


def rank_of(asked: int, features: int) -> int:
    """How many directions are scaled apart where so many are asked for: fewer where there are so many features that a client would
    send more than MOST_VALUES numbers, (R + 1) h + 1, and 0 where there is nothing to tell apart.

    Args:
        asked: R, at least 0.
        features: h, at least 1.
    """
    return max(0, min(asked, features - 1, (MOST_VALUES - 1) // features - 1))


def add_whitening(layer: nn.Linear, rank: int) -> None:
    """Let a layer read whitened features.

    Args:
        layer: The model's last, changed in place; with at least two inputs. Asked again, it stays as it is.
        rank: How many directions are scaled apart, as `rank_of` says, at least 1.
    """
    if any(name == WHITENING for name, _ in layer.named_buffers()):
        return
    rows = no_whitening(rank, layer.in_features)
    layer.register_buffer(WHITENING, torch.from_numpy(rows))
    layer.register_forward_pre_hook(_whiten)


def _whiten(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    rows = layer.get_buffer(WHITENING)
    centred = (inputs[0] - rows[0]) * rows[1]
    return centred - (centred @ rows[2:].T) @ rows[2:]
