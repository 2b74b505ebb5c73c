"""Classification under cross-entropy: the loss and the head's gradient in NumPy, local training in torch.

Losses are summed in float64, so that a difference of two of them keeps the digits that a probe lives on.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.exact.directions import permutation
from zowarmup.common.exact.layout import Head

if TYPE_CHECKING:
    from torch import Tensor, nn


class Examples(Protocol):
    """Labelled examples: labels int64 (n,), batches of inputs float32 (len(indices), *shape)."""

    @property
    def labels(self) -> NDArray[np.int64]: ...

    def batch(self, indices: NDArray[np.int64]) -> NDArray[np.float32]: ...


class Diverging(ArithmeticError):
    """Local training reached a loss that is not finite."""


def cross_entropy(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """The sum over examples of -log softmax(logits)[label], in nats; logits (n, classes), labels (n,)."""
    return _loss(logits, labels)[0]


def correct(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> int:
    """How many examples have their highest logit (the first of equals) at their label."""
    return int(np.count_nonzero(logits.argmax(axis=1) == labels))


def loss_and_head_gradient(
    logits: NDArray[np.float32], features: NDArray[np.float32], labels: NDArray[np.int64], head: Head
) -> tuple[float, NDArray[np.float64]]:
    """`cross_entropy`, and its gradient (of a sum, not a mean) in the head's parameters: float64, the weight
    (classes, features) row-major and then, where there is one, the bias (classes,).

    For logits = features W^T + b it is (softmax(logits) - onehot(labels))^T features, which the forward pass holds.
    """
    loss, residual, totals = _loss(logits, labels)
    residual /= totals[:, np.newaxis]
    residual[np.arange(len(labels)), labels] -= 1
    parts: list[NDArray[np.float64]] = [(residual.T @ features.astype(np.float64)).ravel()]
    if head.bias_name is not None:
        parts.append(residual.sum(axis=0))
    return loss, np.concatenate(parts)


def train_locally(module: "nn.Module", dataset: Examples, *, epochs: int, batch: int, rate: float, seed: int) -> float:
    """Train the module in place by plain SGD at `rate`, `epochs` times over the data in batches of `batch`, and return
    the mean loss of the last epoch, nats per example. The module is left in eval mode.

    Epoch e goes through the data in the order permutation(seed, e). Deterministic on one machine with one thread.
    A batch of one that would remain joins the batch before it, since BatchNorm cannot train on one example.
    Raises Diverging at the first loss that is not finite.
    """
    import torch

    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    labels = torch.from_numpy(dataset.labels)
    examples = len(labels)
    module.train()
    try:
        with torch.random.fork_rng(devices=[]):  # what a model draws itself, such as dropout, follows the seed too
            torch.manual_seed(seed)
            for epoch in range(epochs):
                total = 0.0
                for indices in _batches(permutation(seed, epoch, examples), batch):
                    logits = module(torch.from_numpy(dataset.batch(indices)))
                    loss = torch.nn.functional.cross_entropy(logits, labels[torch.from_numpy(indices)])
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
    return total / examples


def mean_gradient(
    module: "nn.Module", tensors: "Sequence[Tensor]", dataset: Examples, micro_batch: int
) -> NDArray[np.float64]:
    """The gradient, by back-propagation, of the mean cross-entropy over all the data in `tensors`, one after another:
    flat, float64. The module stays in eval mode, as in a probe: buffers are not touched, dropout is off. What the loss
    does not depend on has a zero gradient. Memory is that of `micro_batch` examples, whatever the size of the data.
    """
    import torch

    labels, module = torch.from_numpy(dataset.labels), module.eval()
    total = np.zeros(sum(tensor.numel() for tensor in tensors))
    for start in range(0, len(labels), micro_batch):
        indices = np.arange(start, min(start + micro_batch, len(labels)))
        logits = module(torch.from_numpy(dataset.batch(indices)))
        loss = torch.nn.functional.cross_entropy(logits, labels[start : start + micro_batch], reduction="sum")
        place = 0
        for tensor, gradient in zip(tensors, torch.autograd.grad(loss, tensors, allow_unused=True), strict=True):
            if gradient is not None:
                total[place : place + tensor.numel()] += gradient.reshape(-1).numpy()
            place += tensor.numel()
    total /= len(labels)
    return total


def _batches(order: NDArray[np.int64], batch: int) -> list[NDArray[np.int64]]:
    starts = list(range(0, len(order), batch))
    if batch > 1 and len(starts) > 1 and len(order) - starts[-1] == 1:
        del starts[-1]
    return np.split(order, starts[1:])


def _loss(
    logits: NDArray[np.float32], labels: NDArray[np.int64]
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """The cross-entropy, and of softmax what is divided (n, classes) and by what (n,)."""
    shifted = _shifted(logits)
    chosen = shifted[np.arange(len(labels)), labels]
    exponentials = np.exp(shifted)
    totals = exponentials.sum(axis=1)
    return float(np.log(totals).sum() - chosen.sum()), exponentials, totals


def _shifted(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Each example's logits minus their largest, which exp can take."""
    wide = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):  # logits that are not finite make a loss that is not, which callers refuse
        shifted: NDArray[np.float64] = wide - wide.max(axis=1, keepdims=True)
    return shifted
