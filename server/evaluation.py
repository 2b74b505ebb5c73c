"""The model against the held-out set, by the same forward pass that the fleet runs."""

import logging
import math

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.layout import Layout
from zowarmup.common.program import Program
from zowarmup.common.replica import Replica
from zowarmup.common.tasks.classification import correct, cross_entropy
from zowarmup.data import Dataset

log = logging.getLogger(__name__)

BATCH = 128


class Evaluator:
    """`dataset` is the held-out set; `program` the ONNX forward pass."""

    def __init__(self, program: bytes, layout: Layout, dataset: Dataset) -> None:
        self._onnx, self._layout, self._dataset = program, layout, dataset
        self._bound: tuple[int, Program] | None = None

    def evaluate(self, weights: NDArray[np.float32]) -> tuple[float, float, int]:
        """Accuracy (0 to 1), mean loss (nats per example) and number of examples, in batches."""
        program = self._program(weights)
        examples, right, loss = len(self._dataset), 0, 0.0
        for start in range(0, examples, BATCH):
            indices = np.arange(start, min(start + BATCH, examples))
            logits, _ = program.forward(self._dataset.batch(indices))
            labels = self._dataset.labels[indices]
            right += correct(logits, labels)
            loss += cross_entropy(logits, labels)
        return right / examples, loss / examples, examples

    def _program(self, weights: NDArray[np.float32]) -> Program:
        """The forward pass over this very array, loaded when it is first needed."""
        if self._bound is None or self._bound[0] != weights.ctypes.data:
            self._bound = (weights.ctypes.data, Program(self._onnx, self._layout, weights))
        return self._bound[1]


def measured(evaluator: Evaluator, replica: Replica) -> tuple[float, float, int]:
    """Accuracy, loss and number of examples; 0, not a number and 0 where the model cannot be evaluated at these weights."""
    try:
        return evaluator.evaluate(replica.weights)
    except (MemoryError, OSError):
        raise  # which says nothing about the model
    except Exception as error:  # noqa: BLE001  whatever a runtime makes of such weights
        log.error("version %d cannot be evaluated: %s", replica.version, error)
        return 0.0, math.nan, 0
