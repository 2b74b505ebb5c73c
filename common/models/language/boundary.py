"""The place where a module is cut in two.

A module that can be cut has a `Boundary` among its parts and calls it, once in a forward pass, with what crosses. So
whoever exports the module knows these values, and what lies below the cut is what they depend on (`models.cutting`).
"""

import torch
from torch import nn

from zowarmup.common.settings.language import Language


class Boundary(nn.Module):
    """It computes nothing.

    Args:
        below: How many layers lie below the cut, at least 0.
        layers: Of how many, more than `below`.
    """

    def __init__(self, below: int, layers: int) -> None:
        super().__init__()
        self.below, self.layers = below, layers

    def forward(self, *crossing: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What crosses: activations (n, t, h), which the layer above reads, and perhaps means of the layers below (n, k)."""
        return crossing


def boundary_in(language: Language) -> Boundary | None:
    """Where a language model is cut; None where it is in one piece."""
    return None if language.cut is None else Boundary(language.cut, language.architecture.layers)
