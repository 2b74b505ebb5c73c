r"""Regression: the model predicts numbers, and is trained by their squared error. A task outside zowarmup.

The loss of an example is half the squared distance between prediction and target, which is the negative
log-likelihood, in nats, of a Gaussian of unit variance, but for a constant: so store targets in a unit in which an error
of 1 is a usual one. The metrics are the mean absolute error, in the targets' unit, and R squared.

regression.toml is a run of it, for tables with the same columns, of which `load` is to be predicted. In three terminals at
the top of the repository, where held-out.csv, one.csv and two.csv are, each after `. .venv/bin/activate` and
`export PYTHONPATH=examples/plugins`:

    zowarmup-server examples/plugins/regression.toml --data-dir load

    zowarmup-client --server 127.0.0.1:7070 --data csv:one.csv,target=load --name one --state-dir load-one \
        --allow-model regression:Regression

    zowarmup-client --server 127.0.0.1:7070 --data csv:two.csv,target=load --name two --state-dir load-two --tier low \
        --allow-model regression:Regression
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from zowarmup import Baseline, Batch, Metric, TargetKind, Task

if TYPE_CHECKING:
    from torch import Tensor


class Regression(Task):
    """Targets are numbers, float32 (n, k), and the model has as many outputs."""

    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("mean_absolute_error", best=0.0, higher_is_better=False),
        Metric("r_squared", best=1.0, higher_is_better=True),
    )

    def __init__(self, data: TargetKind) -> None:
        if not data.target_size:
            raise ValueError("regression needs data whose targets are numbers, and this data has classes")
        self._size = data.target_size

    @property
    def outputs(self) -> int:
        return self._size

    def check(self, targets: NDArray[Any]) -> None:
        if targets.dtype != np.float32 or targets.shape[1:] != (self._size,):
            raise ValueError(f"the targets are {targets.dtype} {targets.shape}: must be float32 (n, {self._size})")

    def losses(self, outputs: NDArray[np.float32], batch: Batch) -> NDArray[np.float64]:
        return _squared(_errors(outputs, batch)) / 2

    def loss_and_output_gradient(self, outputs: NDArray[np.float32], batch: Batch) -> tuple[float, NDArray[np.float64]]:
        errors = _errors(outputs, batch)
        return float((_squared(errors) / 2).sum()), errors

    def measure(self, outputs: NDArray[np.float32], batch: Batch) -> Mapping[str, float]:
        errors, targets = _errors(outputs, batch), batch.targets.astype(np.float64)
        return {
            "absolute": float(np.abs(errors).mean(axis=1).sum()),
            "error": float(_squared(errors).sum()),
            "target": float(targets.sum()),
            "square": float(np.square(targets).sum()),
        }

    def evaluate(self, sums: Mapping[str, float], examples: int) -> dict[str, float]:
        spread = sums["square"] - sums["target"] ** 2 / (examples * self._size)
        r_squared = 1 - sums["error"] / spread if spread > 0 else 0.0
        return {"mean_absolute_error": sums["absolute"] / examples, "r_squared": r_squared}

    def baseline(self, targets: NDArray[Any]) -> Baseline:
        """Of a model that always predicts the mean."""
        away = targets.astype(np.float64) - targets.mean(axis=0, dtype=np.float64)
        return Baseline(float(_squared(away).mean()) / 2, float(np.abs(away).mean()))

    def torch_loss(self, outputs: "Tensor", targets: "Tensor", reduction: Literal["mean", "sum"]) -> "Tensor":
        losses = (outputs - targets).square().sum(dim=1) / 2
        return losses.mean() if reduction == "mean" else losses.sum()


def _errors(outputs: NDArray[np.float32], batch: Batch) -> NDArray[np.float64]:
    errors: NDArray[np.float64] = outputs.astype(np.float64) - batch.targets
    return errors


def _squared(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(over="ignore", invalid="ignore"):  # outputs that are not finite make such a loss
        summed: NDArray[np.float64] = np.square(errors).sum(axis=1)
    return summed
