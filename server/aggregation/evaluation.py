"""Evaluation on the held-out set, by the same forward pass that the fleet runs."""

import logging
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.exact.layout import Layout
from zowarmup.common.exact.replica import Replica
from zowarmup.common.models.program import Program
from zowarmup.common.tasks.classification import correct, cross_entropy
from zowarmup.data import Dataset

log = logging.getLogger(__name__)

BATCH = 128
CONSTANT = 0.02
"""Nats. Where the logits of no class vary by more (standard deviation over the examples; of each example its mean logit taken
off), a model says the same of everything."""


class MeasuredModel(NamedTuple):
    """`accuracy` is 0 to 1, `loss` the mean in nats, of so many `examples`; `constant`: the outputs are all but the same
    for each of them."""

    accuracy: float
    loss: float
    examples: int
    constant: bool = False


class Evaluator:
    """`dataset` is the held-out set; `program` the ONNX forward pass."""

    def __init__(self, program: bytes, layout: Layout, dataset: Dataset) -> None:
        self._onnx, self._layout, self._dataset = program, layout, dataset
        self._bound: tuple[int, Program] | None = None

    def evaluate(self, weights: NDArray[np.float32]) -> MeasuredModel:
        """The model at these weights, in batches."""
        program = self._program(weights)
        examples, right, loss = len(self._dataset), 0, 0.0
        total, squares = np.zeros(self._dataset.classes), np.zeros(self._dataset.classes)
        for start in range(0, examples, BATCH):
            indices = np.arange(start, min(start + BATCH, examples))
            logits, _ = program.forward(self._dataset.batch(indices))
            labels = self._dataset.labels[indices]
            right += correct(logits, labels)
            loss += cross_entropy(logits, labels)
            with np.errstate(all="ignore"):  # where logits are not finite, neither is the loss
                centred = logits.astype(np.float64)
                centred -= centred.mean(axis=1, keepdims=True)
                total += centred.sum(axis=0)
                squares += np.square(centred).sum(axis=0)
        with np.errstate(all="ignore"):
            variances = squares / examples - np.square(total / examples)
        return MeasuredModel(right / examples, loss / examples, examples, bool(variances.max() < CONSTANT**2))

    def _program(self, weights: NDArray[np.float32]) -> Program:
        """The forward pass over this very array, loaded when it is first needed."""
        if self._bound is None or self._bound[0] != weights.ctypes.data:
            self._bound = (weights.ctypes.data, Program(self._onnx, self._layout, weights))
        return self._bound[1]


def measured(evaluator: Evaluator, replica: Replica) -> MeasuredModel:
    """The replica's model; accuracy 0, a loss that is not a number and 0 examples where the model cannot be evaluated at these weights."""
    try:
        return evaluator.evaluate(replica.weights)
    except (MemoryError, OSError):
        raise  # which says nothing about the model
    except Exception as error:  # noqa: BLE001  whatever a runtime makes of such weights
        log.error("version %d cannot be evaluated: %s", replica.version, error)
        return MeasuredModel(0.0, math.nan, 0)
