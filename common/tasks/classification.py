"""Classification under cross-entropy: the model's outputs are logits, one for each class."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.tasks.protocol import Baseline, Batch, Metric, TargetKind, Task

if TYPE_CHECKING:
    from torch import Tensor


class Classification(Task):
    """Targets are labels, int64 (n,), from 0. The loss of an example is -log softmax(logits)[label]; accuracy is the share
    of examples whose highest logit (the first of equals) is at their label."""

    metrics: ClassVar[tuple[Metric, ...]] = (Metric("accuracy", best=1.0, higher_is_better=True, share=True),)
    logits: ClassVar[bool] = True

    def __init__(self, data: TargetKind) -> None:
        if not data.classes:
            raise ValueError("task classification needs data with classes, and the targets of this data are numbers")
        self._classes = data.classes

    @property
    def outputs(self) -> int:
        return self._classes

    def check(self, targets: NDArray[Any]) -> None:
        if targets.ndim != 1 or targets.dtype != np.int64:
            raise ValueError(
                f"the targets are {targets.dtype} {targets.shape}: must be one int64 label for each example"
            )
        if len(targets) and not 0 <= targets.min() <= targets.max() < self._classes:
            raise ValueError(f"labels go from {targets.min()} to {targets.max()}: must be 0 to {self._classes - 1}")

    def losses(self, outputs: NDArray[np.float32], batch: Batch) -> NDArray[np.float64]:
        chosen, _, totals = _softmax(outputs, batch.targets)
        losses: NDArray[np.float64] = np.log(totals) - chosen
        return losses

    def loss(self, outputs: NDArray[np.float32], batch: Batch) -> float:
        chosen, _, totals = _softmax(outputs, batch.targets)
        return float(np.log(totals).sum() - chosen.sum())

    def loss_and_output_gradient(self, outputs: NDArray[np.float32], batch: Batch) -> tuple[float, NDArray[np.float64]]:
        """The gradient is softmax(logits) - onehot(label)."""
        chosen, residual, totals = _softmax(outputs, batch.targets)
        residual /= totals[:, np.newaxis]
        residual[np.arange(len(residual)), batch.targets] -= 1
        return float(np.log(totals).sum() - chosen.sum()), residual

    def measure(self, outputs: NDArray[np.float32], batch: Batch) -> Mapping[str, float]:
        return {"accuracy": int(np.count_nonzero(outputs.argmax(axis=1) == batch.targets))}

    def baseline(self, targets: NDArray[Any]) -> Baseline:
        """That of guessing: of as many examples of each class nobody who sees none gets more right."""
        return Baseline(math.log(self._classes), 1 / self._classes)

    def predictions(self, outputs: NDArray[np.float32]) -> NDArray[np.float64]:
        """The logits less their mean in each example, which softmax does not depend on."""
        centred = outputs.astype(np.float64)
        centred -= centred.mean(axis=1, keepdims=True)
        return centred

    def torch_loss(self, outputs: "Tensor", targets: "Tensor", reduction: Literal["mean", "sum"]) -> "Tensor":
        from torch.nn.functional import cross_entropy

        return cross_entropy(outputs, targets, reduction=reduction)


def _softmax(
    logits: NDArray[np.float32], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The logit at the label (n,), less the example's largest, which exp can take; and of softmax what is divided
    (n, classes) and by what (n,)."""
    shifted = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):  # logits that are not finite make a loss that is not, which callers refuse
        shifted = shifted - shifted.max(axis=1, keepdims=True)
    chosen = shifted[np.arange(len(labels)), labels]
    exponentials = np.exp(shifted)
    return chosen, exponentials, exponentials.sum(axis=1)
