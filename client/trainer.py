"""The high tier's work by back-propagation on this device's data: local SGD in the warm-up and, where the run asks for
it, exact projections of the gradient after the pivot.

It loads torch, so it is imported when the first such work arrives. The delta is a whole flat
vector, buffers included, so that BatchNorm's running statistics are averaged with the weights.
"""

import copy
import hashlib
import threading
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from zowarmup.client.faults import Final, Stopped
from zowarmup.common import models
from zowarmup.common.layout import Layout
from zowarmup.common.methods.protocol import ZerothOrderMethod
from zowarmup.common.replica import Replica
from zowarmup.common.run import ClientSpec
from zowarmup.common.tasks.classification import mean_gradient, train_locally
from zowarmup.common.work import Delta, Scalars, Work
from zowarmup.data import Dataset
from zowarmup.data.augmentation import augment

# Where the streams of a work's seed begin that vary images; the epochs' orders have the first ones.
VARIATIONS = 1 << 32


class Trainer:
    """Warm-up contributions of a dataset. `stop` ends training at the next batch. Raises Final where the model that
    this device builds is not the coordinator's."""

    def __init__(self, spec: ClientSpec, layout: Layout, dataset: Dataset, threads: int, stop: threading.Event) -> None:
        torch.set_num_threads(threads)
        self._spec, self._layout, self._dataset, self._stop = spec.warmup, layout, dataset, stop
        self._micro_batch = spec.zeroth_order.micro_batch
        self._module = built(spec, layout)

    def over(self, dataset: Dataset) -> Self:
        """The same trainer for another dataset: they share the model, so one at a time."""
        other = copy.copy(self)
        other._dataset = dataset
        return other

    def contribute(self, replica: Replica, work: Work) -> tuple[Delta, memoryview]:
        """Train from the replica's weights, which stay as they are; the delta and its bytes, little-endian float32.
        Raises ArithmeticError where training does not stay finite."""
        models.load_into(self._module, self._layout, replica.weights)
        spec, batches = self._spec, _Varied(self._dataset, self._stop, work.seed)
        loss = train_locally(
            self._module, batches, epochs=spec.epochs, batch=spec.batch, rate=spec.rate, seed=work.seed
        )
        delta = models.flatten(self._module, self._layout)
        delta -= replica.weights
        if not np.isfinite(delta).all():
            raise ArithmeticError(f"the trained weights are not finite: lower warmup.rate ({spec.rate:g})")
        content = delta.data.cast("B")
        return Delta(work.round, hashlib.sha256(content).hexdigest(), len(self._dataset.labels), loss), content

    def project(self, replica: Replica, work: Work, method: ZerothOrderMethod) -> Scalars:
        """The scalars of a zeroth-order round, from the exact gradient at the replica's weights, which stay as they
        are. Raises ValueError where one is not finite."""
        models.load_into(self._module, self._layout, replica.weights)
        parameters, batches = models.trainable(self._module, self._layout), _Watched(self._dataset, self._stop)
        return method.project(mean_gradient(self._module, parameters, batches, self._micro_batch), work)


def built(spec: ClientSpec, layout: Layout) -> torch.nn.Module:
    """The run's model, at weights of its own. Raises Final where the model that this device builds is not the
    coordinator's."""
    try:
        module = models.build(spec.model, spec.input_shape, spec.classes, 0)
        mine = models.describe(module, spec.input_shape)
    except models.ModelError as error:
        raise Final(f"this device cannot train the run's model: {error}") from None
    if mine != layout:
        raise Final(
            f"the model {spec.model.name} of this device is not the coordinator's ({_difference(mine, layout)}): "
            "install the coordinator's version of zowarmup and of the model's code, or use --tier low"
        )
    return module


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


class _Varied(_Watched):
    """The same for training, where an augmented dataset's images vary from batch to batch, as a seed says."""

    def __init__(self, dataset: Dataset, stop: threading.Event, seed: int) -> None:
        super().__init__(dataset, stop)
        self._seed, self._stream = seed, VARIATIONS

    def batch(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        images = super().batch(indices)
        if not self._dataset.augmented:
            return images
        self._stream += 1
        return augment(images, self._seed, self._stream)


def _difference(mine: Layout, theirs: Layout) -> str:
    for here, there in zip(mine.tensors, theirs.tensors, strict=False):
        if here != there:
            return f"tensor {here.name} {here.shape} here, {there.name} {there.shape} there"
    if mine.size != theirs.size:
        return f"{mine.size} weights here, {theirs.size} there"
    return "its blocks differ"
