"""Evaluation on the held-out set, by the same forward pass that the fleet runs."""

import logging
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.exact.layout import Layout
from zowarmup.common.exact.replica import Replica
from zowarmup.common.models.base import Constant
from zowarmup.common.models.program import Program
from zowarmup.common.tasks.protocol import Task
from zowarmup.data import Dataset
from zowarmup.data.dataset import micro_batches

log = logging.getLogger(__name__)

BATCH = 128
CONSTANT = 0.02
"""In the unit of the task's predictions. Where none of these varies by more (standard deviation over the examples), a model
says the same of everything."""


class MeasuredModel(NamedTuple):
    """The task's `metrics` by name, and the mean `loss` in nats, of so many `examples`; `constant`: the model says all but
    the same of each of them."""

    metrics: Mapping[str, float]
    loss: float
    examples: int
    constant: bool = False


class Evaluator:
    """`dataset` is the held-out set; `program` the ONNX forward pass; `constants` the tensors of its base."""

    def __init__(
        self,
        program: bytes,
        layout: Layout,
        task: Task,
        dataset: Dataset,
        constants: Mapping[str, Constant] | None = None,
    ) -> None:
        self._onnx, self._layout, self._task, self._dataset = program, layout, task, dataset
        self._constants = constants
        self._bound: tuple[int, Program] | None = None

    def evaluate(self, weights: NDArray[np.float32]) -> MeasuredModel:
        """The model at these weights, in batches."""
        program = self._program(weights)
        task, examples, loss = self._task, len(self._dataset), 0.0
        sums, total, squares = dict[str, float](), np.zeros(1), np.zeros(1)
        for chosen in micro_batches(self._dataset.lengths, np.arange(examples), BATCH):
            batch = self._dataset.batch(chosen)
            outputs, _ = program.forward(batch.inputs)
            for name, value in task.measure(outputs, batch).items():
                sums[name] = sums.get(name, 0) + value
            loss += task.loss(outputs, batch)
            with np.errstate(all="ignore"):  # where outputs are not finite, neither is the loss
                predicted = task.predictions(outputs)
                total, squares = total + predicted.sum(axis=0), squares + np.square(predicted).sum(axis=0)
        with np.errstate(all="ignore"):
            variances = squares / examples - np.square(total / examples)
        constant = bool(variances.max() < CONSTANT**2)
        return MeasuredModel(task.evaluate(sums, examples), loss / examples, examples, constant)

    def nothing(self) -> MeasuredModel:
        """That the model cannot be evaluated."""
        return MeasuredModel({metric.name: math.nan for metric in self._task.metrics}, math.nan, 0)

    def _program(self, weights: NDArray[np.float32]) -> Program:
        """The forward pass over this very array, loaded when it is first needed."""
        if self._bound is None or self._bound[0] != weights.ctypes.data:
            self._bound = (weights.ctypes.data, Program(self._onnx, self._layout, weights, constants=self._constants))
        return self._bound[1]


def measured(evaluator: Evaluator, replica: Replica) -> MeasuredModel:
    """The replica's model; metrics and a loss that are not numbers, and 0 examples, where the model cannot be evaluated
    at these weights."""
    try:
        return evaluator.evaluate(replica.weights)
    except (MemoryError, OSError):
        raise  # which says nothing about the model
    except Exception as error:  # noqa: BLE001  whatever a runtime makes of such weights
        log.error("version %d cannot be evaluated: %s", replica.version, error)
        return evaluator.nothing()
