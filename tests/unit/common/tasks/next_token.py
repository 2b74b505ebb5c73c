"""A causal language model's task in small, on which the contract of tasks is tried: outputs for each place of an example,
targets of which some do not count, and a metric that is no mean of examples."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.tasks.protocol import Baseline, Batch, Metric, TargetKind, Task

if TYPE_CHECKING:
    from torch import Tensor

MASKED = -1


class NextToken(Task):
    """Targets are int32 (n, t), the next token at each place or MASKED; outputs are logits (n, t, vocabulary). The loss of an
    example is the mean over its tokens; perplexity is of all tokens alike, so long examples count for more."""

    metrics: ClassVar[tuple[Metric, ...]] = (Metric("perplexity", best=1.0, higher_is_better=False),)
    logits: ClassVar[bool] = True

    def __init__(self, data: TargetKind) -> None:
        if not data.classes:
            raise ValueError("next token needs data with a vocabulary")
        self._vocabulary = data.classes

    @property
    def outputs(self) -> int:
        return self._vocabulary

    def check(self, targets: NDArray[Any]) -> None:
        if targets.ndim != 2 or targets.dtype != np.int32:
            raise ValueError(f"the targets are {targets.dtype} {targets.shape}: must be int32 (n, t)")
        if targets.min() < MASKED or targets.max() >= self._vocabulary:
            raise ValueError(f"tokens must be below {self._vocabulary}")
        if (targets == MASKED).all(axis=1).any():
            raise ValueError("each example must be left a token")

    def losses(self, outputs: NDArray[np.float32], batch: Batch) -> NDArray[np.float64]:
        nats, _, counted = _nats(outputs, batch.targets)
        losses: NDArray[np.float64] = nats.sum(axis=1) / counted.sum(axis=1)
        return losses

    def loss_and_output_gradient(self, outputs: NDArray[np.float32], batch: Batch) -> tuple[float, NDArray[np.float64]]:
        _, gradient, counted = _nats(outputs, batch.targets)
        np.put_along_axis(
            gradient,
            (tokens := np.maximum(batch.targets, 0)[..., np.newaxis]),
            np.take_along_axis(gradient, tokens, -1) - 1,
            -1,
        )
        gradient *= (counted / counted.sum(axis=1, keepdims=True))[..., np.newaxis]
        return self.loss(outputs, batch), gradient

    def measure(self, outputs: NDArray[np.float32], batch: Batch) -> Mapping[str, float]:
        nats, _, counted = _nats(outputs, batch.targets)
        return {"nats": float(nats.sum()), "tokens": int(counted.sum())}

    def evaluate(self, sums: Mapping[str, float], examples: int) -> dict[str, float]:
        return {"perplexity": math.exp(sums["nats"] / sums["tokens"])}

    def baseline(self, targets: NDArray[Any]) -> Baseline:
        return Baseline(math.log(self._vocabulary), float(self._vocabulary))

    def predictions(self, outputs: NDArray[np.float32]) -> NDArray[np.float64]:
        centred = outputs.astype(np.float64)
        centred -= centred.mean(axis=-1, keepdims=True)
        return centred

    def torch_loss(self, outputs: "Tensor", targets: "Tensor", reduction: Literal["mean", "sum"]) -> "Tensor":
        from torch.nn.functional import cross_entropy

        nats = cross_entropy(outputs.transpose(1, 2), targets.long(), ignore_index=MASKED, reduction="none")
        losses = nats.sum(dim=1) / (targets != MASKED).sum(dim=1)
        return losses.mean() if reduction == "mean" else losses.sum()


def _nats(
    outputs: NDArray[np.float32], targets: NDArray[np.int32]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """The loss at each place (n, t), 0 where it is masked; the softmax (n, t, vocabulary); and which places count."""
    with np.errstate(invalid="ignore"):
        wide = outputs.astype(np.float64) - outputs.max(axis=-1, keepdims=True)
    exponentials = np.exp(wide)
    totals, counted = exponentials.sum(axis=-1), targets != MASKED
    chosen = np.take_along_axis(wide, np.maximum(targets, 0)[..., np.newaxis], -1)[..., 0]
    return np.where(counted, np.log(totals) - chosen, 0), exponentials / totals[..., np.newaxis], counted
