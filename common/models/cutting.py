"""A module that is cut in two: what its forward pass hands across, and which of its tensors lie below."""

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from zowarmup.common.exact.layout import Cut
from zowarmup.common.models.language.boundary import Boundary


def boundary_of(module: nn.Module) -> Boundary | None:
    """Where a module is cut; None where it is in one piece."""
    return next((part for part in module.modules() if isinstance(part, Boundary)), None)


def crossing(module: nn.Module, inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What crosses the cut of a module for some inputs.

    Args:
        module: It has a boundary.
        inputs: As its forward pass takes them.
    """
    boundary, seen = boundary_of(module), list[tuple[torch.Tensor, ...]]()
    assert boundary is not None
    handle = boundary.register_forward_hook(lambda _, args, __: seen.append(args))
    try:
        module(inputs)
    finally:
        handle.remove()
    return seen[0]


def lies_below(crossed: Iterable[torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> set[str]:
    """Which tensors what crosses a cut depends on: back-propagation knows.

    Args:
        crossed: As `crossing` gives it, with gradients.
        tensors: By name, each of which requires a gradient.
    """
    together = sum((part.sum() for part in crossed if part.requires_grad), torch.zeros(()))
    if not tensors or not together.requires_grad:
        return set()
    found = torch.autograd.grad(together, list(tensors.values()), allow_unused=True)
    return {name for name, gradient in zip(tensors, found, strict=True) if gradient is not None}


def cut_of(module: nn.Module, crossed: tuple[torch.Tensor, ...]) -> Cut:
    """What a layout says of the cut.

    Args:
        module: It has a boundary.
        crossed: As `crossing` gives it.
    """
    boundary = boundary_of(module)
    assert boundary is not None
    activations, *means = crossed
    return Cut(boundary.below, boundary.layers, activations.shape[-1], means[0].shape[-1] if means else 0)
