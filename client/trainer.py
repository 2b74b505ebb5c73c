"""The high tier's warm-up work: local SGD by back-propagation on this device's data.

The only file of this room that loads torch, imported when the first such work arrives. The delta is a whole flat
vector, buffers included, so that BatchNorm's running statistics are averaged with the weights.
"""

import hashlib
import threading

import numpy as np
import torch
from numpy.typing import NDArray

from zowarmup.client.faults import Final, Stopped
from zowarmup.common import models
from zowarmup.common.layout import Layout
from zowarmup.common.replica import Replica
from zowarmup.common.run import ClientSpec
from zowarmup.common.tasks.classification import train_locally
from zowarmup.common.work import Delta, Work
from zowarmup.data import Dataset


class Trainer:
    """Warm-up contributions of a dataset. `stop` ends training at the next batch. Raises Final where the model that
    this device builds is not the coordinator's."""

    def __init__(self, spec: ClientSpec, layout: Layout, dataset: Dataset, threads: int, stop: threading.Event) -> None:
        torch.set_num_threads(threads)
        self._spec, self._layout, self._dataset = spec.warmup, layout, _Watched(dataset, stop)
        try:
            self._module = models.build(spec.model, spec.input_shape, spec.classes, 0)
            mine = models.describe(self._module, spec.input_shape)
        except models.ModelError as error:
            raise Final(f"this device cannot train the run's model: {error}") from None
        if mine != layout:
            raise Final(
                f"the model {spec.model.name} of this device is not the coordinator's ({_difference(mine, layout)}): "
                "install the coordinator's version of zowarmup and of the model's code, or use --tier low"
            )

    def contribute(self, replica: Replica, work: Work) -> tuple[Delta, memoryview]:
        """Train from the replica's weights, which stay as they are; the delta and its bytes, little-endian float32.
        Raises ArithmeticError where training does not stay finite."""
        models.load_into(self._module, self._layout, replica.weights)
        spec = self._spec
        loss = train_locally(
            self._module, self._dataset, epochs=spec.epochs, batch=spec.batch, rate=spec.rate, seed=work.seed
        )
        delta = models.flatten(self._module, self._layout)
        delta -= replica.weights
        if not np.isfinite(delta).all():
            raise ArithmeticError(f"the trained weights are not finite: lower warmup.rate ({spec.rate:g})")
        content = delta.data.cast("B")
        return Delta(work.round, hashlib.sha256(content).hexdigest(), len(self._dataset.labels), loss), content


class _Watched:
    """A dataset that stops handing out batches when the process is to end."""

    def __init__(self, dataset: Dataset, stop: threading.Event) -> None:
        self._dataset, self._stop = dataset, stop

    @property
    def labels(self) -> NDArray[np.int64]:
        return self._dataset.labels

    def batch(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        if self._stop.is_set():
            raise Stopped
        return self._dataset.batch(indices)


def _difference(mine: Layout, theirs: Layout) -> str:
    for here, there in zip(mine.tensors, theirs.tensors, strict=False):
        if here != there:
            return f"tensor {here.name} {here.shape} here, {there.name} {there.shape} there"
    if mine.size != theirs.size:
        return f"{mine.size} weights here, {theirs.size} there"
    return "its blocks differ"
