"""The interface of a task to the rest of the system: what is trained for.

A task says what a model's outputs mean: the loss of an example, the metrics of an evaluation, the gradient of the head, the
loss that local training descends. Everything else (probes, rounds, the guard, what is shown) asks for what stands here,
and knows of no labels and no accuracy. Losses are in nats and float64, so that a difference of two of them keeps the
digits that a probe lives on. They are at least 0: a model is good where its loss is small.

A forward-only client uses a task without torch; `torch_loss` is the only method that may import it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.exact.layout import Head

if TYPE_CHECKING:
    from torch import Tensor

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


@dataclass(frozen=True, slots=True)
class Metric:
    """A number that an evaluation gives beside the loss.

    Args:
        name: Of small letters, digits and underscores: a label of a time series, a column of a table.
        best: The best value there can be; infinite where there is none.
        higher_is_better: Else lower is.
        share: Whether it goes from 0 to 1, and is shown in per cent.
    """

    name: str
    best: float
    higher_is_better: bool
    share: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name == "loss":
            raise ValueError(f"metric {self.name!r}: must be small letters, digits and underscores, and not loss")

    @property
    def title(self) -> str:
        """The name for people: mean absolute error."""
        return self.name.replace("_", " ")

    def shown(self, value: float) -> str:
        """A value for people: 95.8 %, or 0.1234."""
        return f"{100 * value:.1f} %" if self.share else f"{value:.4g}"

    def better(self, value: float, than: float) -> bool:
        """Whether a value is better than another.

        Args:
            value: Of this metric.
            than: The other, in the same unit; of two equal ones neither is better.
        """
        return value > than if self.higher_is_better else value < than

    def keeps(self, value: float, share: float, of: float) -> bool:
        """Whether a value is nearly as good as another.

        Args:
            value: Of this metric.
            share: How much of the other must be left, 0 to 1.
            of: The other, in the same unit.

        Returns:
            Whether `value` is at least `share` times `of`; where lower is better, whether `of` is at least `share`
            times `value`.
        """
        return value >= share * of if self.higher_is_better else share * value <= of


@dataclass(frozen=True, slots=True)
class Baseline:
    """What the best model gets that says the same of every example: the mean loss, nats, and the primary metric."""

    loss: float
    metric: float


class Batch(NamedTuple):
    """Some examples.

    Args:
        inputs: As the model reads them, (n, ...): NumPy's, or a tensor where the model is on an accelerator.
        targets: What is to be said of them, (n, ...), NumPy's: int64 labels (n,), float32 numbers (n, k), tokens
            (n, t) of which some are masked, or what else the task takes.
    """

    inputs: Any
    targets: NDArray[Any]


class Examples(Protocol):
    """A data set, of which batches are taken."""

    def __len__(self) -> int: ...

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """Take some of the examples.

        Args:
            indices: Places in the data set, int64 (n,).
        """
        ...


class TargetKind(Protocol):
    """What a task is told of the data's targets: each is one of `classes`, or `target_size` numbers; the other is 0."""

    @property
    def classes(self) -> int: ...

    @property
    def target_size(self) -> int: ...


class Task(Protocol):
    """What a run trains for. Made of what is known of the data's targets; raises ValueError, in one sentence, where the
    task cannot be trained on such data.

    `outputs` below are the model's, float32 (n, self.outputs), or (n, t, self.outputs) where each of t places of an example is
    predicted.
    """

    metrics: ClassVar[tuple[Metric, ...]]
    """What an evaluation gives beside the loss, the primary one first; at least one."""
    exact_head: ClassVar[bool] = True
    """Whether `loss_and_output_gradient` is there, from which the gradient of a linear head is exact."""
    logits: ClassVar[bool] = False
    """Whether the loss applies a softmax or sigmoid to the outputs, so that a model must not end in one."""

    def __init__(self, data: TargetKind) -> None: ...

    @property
    def outputs(self) -> int:
        """How many numbers the model gives for an example, or for a place of one: the extent of the last axis."""
        ...

    def check(self, targets: NDArray[Any]) -> None:
        """Refuse targets that a model with such outputs cannot be asked for.

        Args:
            targets: Of the whole data set, (n, ...), as in a `Batch`.

        Raises:
            ValueError: The sentence says what they must be.
        """
        ...

    def losses(self, outputs: NDArray[np.float32], batch: Batch) -> NDArray[np.float64]:
        """The loss of each example.

        Args:
            outputs: The model's, float32 (n, self.outputs) or (n, t, self.outputs).
            batch: The examples that they are for.

        Returns:
            Nats, at least 0, float64 (n,); not finite where an output is not.
        """
        ...

    def loss(self, outputs: NDArray[np.float32], batch: Batch) -> float:
        """The sum of the losses.

        Args:
            outputs: As `losses` takes them.
            batch: The examples that they are for.

        Returns:
            Nats.
        """
        return float(self.losses(outputs, batch).sum())

    def loss_and_output_gradient(self, outputs: NDArray[np.float32], batch: Batch) -> tuple[float, NDArray[np.float64]]:
        """The sum of the losses, and its gradient by the outputs.

        Args:
            outputs: As `losses` takes them.
            batch: The examples that they are for.

        Returns:
            What `loss` gives, nats; and nats per unit of an output, float64, of the outputs' shape.
        """
        raise NotImplementedError

    def loss_and_head_gradient(
        self, outputs: NDArray[np.float32], features: NDArray[np.float32], batch: Batch, head: Head
    ) -> tuple[float, NDArray[np.float64]]:
        """The sum of the losses, and its gradient by the parameters of the linear layer that gives the outputs.

        Args:
            outputs: As `losses` takes them.
            features: What that layer reads, float32 (n, features) or (n, t, features).
            batch: The examples that they are for.
            head: That layer.

        Returns:
            What `loss` gives, nats; and nats per unit of a weight, float64, flat: by the weight (outputs, features)
            row-major and then, where there is one, by the bias (outputs,).
        """
        loss, gradient = self.loss_and_output_gradient(outputs, batch)
        residual, features = gradient.reshape(-1, gradient.shape[-1]), features.reshape(-1, features.shape[-1])
        parts: list[NDArray[np.float64]] = [(residual.T @ features.astype(np.float64)).ravel()]
        if head.bias_name is not None:
            parts.append(residual.sum(axis=0))
        return loss, np.concatenate(parts)

    def head_gradients(
        self, outputs: NDArray[np.float32], features: NDArray[np.float32], batch: Batch, head: Head
    ) -> NDArray[np.float64]:
        """The gradient of the loss of each example, where `loss_and_head_gradient` has their sum.

        Args:
            outputs: As `losses` takes them.
            features: What that layer reads, float32 (n, features) or (n, t, features).
            batch: The examples that they are for.
            head: That layer.

        Returns:
            Nats per unit of a weight, float64 (n, head's size), each in the order there.
        """
        _, gradient = self.loss_and_output_gradient(outputs, batch)
        count = len(gradient)
        places, outputs_each = gradient.reshape(count, -1, gradient.shape[-1]), gradient.shape[-1]
        read = features.reshape(count, -1, features.shape[-1]).astype(np.float64)
        weights = (places.transpose(0, 2, 1) @ read).reshape(count, outputs_each * read.shape[-1])
        if head.bias_name is None:
            return weights
        return np.concatenate([weights, places.sum(axis=1)], axis=1)

    def measure(self, outputs: NDArray[np.float32], batch: Batch) -> Mapping[str, float]:
        """What `evaluate` needs of a batch.

        Args:
            outputs: As `losses` takes them.
            batch: The examples that they are for.

        Returns:
            Sums over the examples, by name.
        """
        ...

    def evaluate(self, sums: Mapping[str, float], examples: int) -> dict[str, float]:
        """The metrics of a whole data set.

        Args:
            sums: Those of `measure`, added up over all batches.
            examples: How many there are, at least 1.

        Returns:
            A value for each of `metrics`, by name; by default the mean of the sum of that name.
        """
        return {metric.name: sums[metric.name] / examples for metric in self.metrics}

    def baseline(self, targets: NDArray[Any]) -> Baseline:
        """The best that a model gets which says the same of every example.

        Args:
            targets: Of the whole data set, (n, ...), as in a `Batch`.
        """
        ...

    def predictions(self, outputs: NDArray[np.float32]) -> NDArray[np.float64]:
        """What the model predicts, without what of the outputs does not matter.

        Args:
            outputs: As `losses` takes them.

        Returns:
            Float64 (n, ...), in a unit of which a fiftieth is next to nothing: where all of it varies by less over the
            examples, the model says the same of each.
        """
        return outputs.astype(np.float64)

    def torch_loss(self, outputs: "Tensor", targets: "Tensor", reduction: Literal["mean", "sum"]) -> "Tensor":
        """The loss that training descends.

        Args:
            outputs: As `losses` takes them, a tensor.
            targets: Those of a `Batch`, a tensor.
            reduction: Whether the mean or the sum of `losses` is wanted.

        Returns:
            Nats, a differentiable float32 scalar.
        """
        ...
