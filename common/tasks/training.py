"""Local training and the exact gradient, by back-propagation of a task's loss, in torch."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.exact.directions import permutation
from zowarmup.common.tasks.protocol import Examples, Task

if TYPE_CHECKING:
    from torch import Tensor, nn


class Diverging(ArithmeticError):
    """Local training reached a loss that is not finite."""


def train_locally(
    task: Task, module: "nn.Module", examples: Examples, *, epochs: int, batch: int, rate: float, seed: int
) -> float:
    """Train a module in place by plain SGD.

    Epoch e goes through the data in the order permutation(seed, e). Deterministic on one machine with one thread.
    A batch of one that would remain joins the batch before it, since BatchNorm cannot train on one example.

    Args:
        task: Gives the loss.
        module: Float32; left in eval mode, also where this raises.
        examples: The local data, at least one example.
        epochs: Passes over the data, at least 1.
        batch: Examples in a batch, at least 1.
        rate: The learning rate, above 0.
        seed: Of the order of the examples and of what the module draws itself.

    Returns:
        The mean loss of the last epoch, nats per example.

    Raises:
        Diverging: A loss is not finite.
    """
    import torch

    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    module.train()
    try:
        with torch.random.fork_rng(devices=[]):  # what a model draws itself, such as dropout, follows the seed too
            torch.manual_seed(seed)
            for epoch in range(epochs):
                total = 0.0
                for indices in _batches(permutation(seed, epoch, len(examples)), batch):
                    inputs, targets = map(torch.from_numpy, examples.batch(indices))
                    loss = task.torch_loss(module(inputs), targets, "mean")
                    value = float(loss.detach())
                    if not math.isfinite(value):
                        raise Diverging(f"the loss is {value} in local epoch {epoch + 1}")
                    total += value * len(indices)
                    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
                    with torch.no_grad():
                        for parameter, gradient in zip(parameters, gradients, strict=True):
                            if gradient is not None:
                                parameter.sub_(gradient, alpha=rate)
    finally:
        module.eval()
    return total / len(examples)


def mean_gradient(
    task: Task, module: "nn.Module", tensors: "Sequence[Tensor]", examples: Examples, micro_batch: int
) -> NDArray[np.float64]:
    """The gradient of the mean loss over all the data, by back-propagation.

    The module stays in eval mode, as in a probe: buffers are not touched, dropout is off. Memory is that of
    `micro_batch` examples, whatever the size of the data.

    Args:
        task: Gives the loss.
        module: Float32.
        tensors: What the gradient is taken by: parameters of the module.
        examples: The local data, at least one example.
        micro_batch: Examples in a forward pass, at least 1.

    Returns:
        Nats per unit of a weight, float64, flat, one tensor after another; 0 by what the loss does not depend on.
    """
    import torch

    module = module.eval()
    total = np.zeros(sum(tensor.numel() for tensor in tensors))
    for start in range(0, len(examples), micro_batch):
        indices = np.arange(start, min(start + micro_batch, len(examples)))
        inputs, targets = map(torch.from_numpy, examples.batch(indices))
        loss = task.torch_loss(module(inputs), targets, "sum")
        place = 0
        for tensor, gradient in zip(tensors, torch.autograd.grad(loss, tensors, allow_unused=True), strict=True):
            if gradient is not None:
                total[place : place + tensor.numel()] += gradient.reshape(-1).numpy()
            place += tensor.numel()
    total /= len(examples)
    return total


def _batches(order: NDArray[np.int64], batch: int) -> list[NDArray[np.int64]]:
    starts = list(range(0, len(order), batch))
    if batch > 1 and len(starts) > 1 and len(order) - starts[-1] == 1:
        del starts[-1]
    return np.split(order, starts[1:])
