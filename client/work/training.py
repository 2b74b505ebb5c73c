"""Work by back-propagation: local SGD in the warm-up, and exact directional derivatives where the run asks for them. It
is the high tier's; in HeteroFL's warm-up the low tier has some too.

It loads torch, so it is imported when the first such work arrives. The delta is a whole flat
vector, buffers included, so that BatchNorm's running statistics are averaged with the weights.
"""

import copy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from zowarmup.client.errors import ComputingStopped, Final
from zowarmup.common.algorithms import algorithm_of
from zowarmup.common.algorithms.protocol import Algorithm, LocalTraining
from zowarmup.common.exact.layout import Layout, digest
from zowarmup.common.exact.replica import Replica
from zowarmup.common.exact.submodel import Submodel
from zowarmup.common.messages.values import LARGEST_DELTA, Delta, Scalars, Tier, Work
from zowarmup.common.models.base import BaseError, read_base
from zowarmup.common.models.construction import ModelError, build
from zowarmup.common.models.description import build_part, describe, flatten, load_constants, load_into, trainable
from zowarmup.common.settings.run import ClientSpec
from zowarmup.common.tasks.protocol import Batch
from zowarmup.common.tasks.training import Diverging, mean_gradient, train_locally
from zowarmup.data import Dataset

# Where the streams of a work's seed begin that vary images; the epochs' orders have the first ones.
VARIATIONS = 1 << 32


class Trainer:
    """Contributions of one client by its tier and dataset. `stop` ends training at the next batch; `base` is the file of the model's
    constants, where it has some. What trains raises
    Final where the model that this device builds is not the coordinator's. `check` is called before each batch, and what it
    raises ends the work."""

    def __init__(
        self,
        spec: ClientSpec,
        layout: Layout,
        dataset: Dataset,
        threads: int,
        stop: threading.Event,
        tier: Tier,
        base: Path | None = None,
    ) -> None:
        torch.set_num_threads(threads)
        self._base = base
        self._spec, self._layout, self._dataset, self._stop, self._tier = spec, layout, dataset, stop, tier
        self._task = spec.task
        self._modules: dict[Submodel | None, torch.nn.Module] = {}

    def over(self, dataset: Dataset, tier: Tier) -> Self:
        """The same trainer for another client: they share the models, so one at a time."""
        other = copy.copy(self)
        other._dataset, other._tier = dataset, tier
        return other

    def contribute(
        self, replica: Replica, work: Work, check: Callable[[], None] | None = None
    ) -> tuple[Delta, memoryview]:
        """Train what this tier trains, from the replica's weights, which stay as they are; the delta and its bytes,
        little-endian float32. Raises Diverging where training does."""
        algorithm = self._algorithm(work)
        part, training = algorithm.submodel(self._tier), algorithm.training
        if training is None:
            raise ValueError(f"round {work.round} is no round of training")
        delta, loss = self.train(replica, part, training, work.seed, check)
        return Delta(work.round, digest(delta).hex(), len(self._dataset), loss), delta.data.cast("B")

    def train(
        self,
        replica: Replica,
        part: Submodel | None,
        training: LocalTraining,
        seed: int,
        check: Callable[[], None] | None = None,
    ) -> tuple[NDArray[np.float32], float]:
        """The delta of a part of the model (None: all of it), a flat float32 vector, and the mean loss of the last epoch, nats
        per example. Raises Diverging where training does."""
        layout = part.layout if part else self._layout
        start = part.take(replica.weights) if part else replica.weights
        module = self._module(part)
        load_into(module, layout, start)
        batches = _ForTraining(self._dataset, self._stop, seed, check)
        try:
            loss = train_locally(self._task, module, batches, **training._asdict(), seed=seed)
            delta = flatten(module, layout)[: layout.uploaded]
            delta -= start[: layout.uploaded]
            if not (delta.min() > -LARGEST_DELTA and delta.max() < LARGEST_DELTA):  # NaN is neither
                raise Diverging(f"a weight moves by {LARGEST_DELTA:g} or more")
        except Diverging as error:
            raise Diverging(
                f"local training diverges, {error}: warmup.rate ({training.rate:g}) is too high; "
                "begin another run with a lower one"
            ) from None
        return delta, loss

    def project(self, replica: Replica, work: Work, check: Callable[[], None] | None = None) -> Scalars:
        """The scalars of a zeroth-order round, from the exact gradient at the replica's weights, which stay as they
        are. Raises ValueError where one is not finite."""
        module = self._module(None)
        load_into(module, self._layout, replica.weights)
        parameters, batches = trainable(module, self._layout), _Watched(self._dataset, self._stop, check)
        micro_batch = self._spec.zeroth_order.micro_batch
        gradient = mean_gradient(self._task, module, parameters, batches, micro_batch)
        return self._algorithm(work).project(gradient, work)

    def _algorithm(self, work: Work) -> Algorithm:
        return algorithm_of(self._spec, work.phase, self._layout, self._spec.pool_seed, work.rate_factor)

    def _module(self, part: Submodel | None) -> torch.nn.Module:
        """The module that trains a part of the model or all of it; built when it is first asked for."""
        if part not in self._modules:
            self._modules[part] = built(self._spec, self._layout, part, self._base)
        return self._modules[part]


def built(spec: ClientSpec, layout: Layout, part: Submodel | None = None, base: Path | None = None) -> torch.nn.Module:
    """The run's model, or a part of it, at weights of its own but for the constants of `base`. Raises Final where the model that this device builds is
    not the coordinator's."""
    task = spec.task
    try:
        if part is not None:
            moved, head = spec.zeroth_order.moved, spec.exact_head
            return build_part(spec.model, spec.input_shape, task.outputs, part, task.logits, head, moved)
        phase, shape = spec.zeroth_order, spec.input_shape
        module = build(spec.model, shape, task.outputs, 0, task.logits, language=spec.language)
        rank, pretrained = spec.whitening, spec.model.pretrained
        mine = describe(module, shape, spec.exact_head, phase.moved, rank, pretrained, phase.only_above)
    except ModelError as error:
        raise Final(f"this device cannot train the run's model: {error}") from None
    if mine != layout:
        raise Final(
            f"the model {spec.model.name} of this device is not the coordinator's ({_difference(mine, layout)}): "
            "install the coordinator's version of zowarmup and of the model's code, or use --tier low"
        )
    try:
        load_constants(module, {} if base is None else read_base(base))
    except (ModelError, BaseError) as error:
        raise Final(f"this device cannot train the run's model: {error}") from None
    return module


class _Watched:
    """A dataset that stops handing out batches when the process is to end, or `check` raises."""

    def __init__(self, dataset: Dataset, stop: threading.Event, check: Callable[[], None] | None = None) -> None:
        self._dataset, self._stop, self._check = dataset, stop, check

    def __len__(self) -> int:
        return len(self._dataset)

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        self._require_go()
        return self._dataset.batch(indices)

    def _require_go(self) -> None:
        if self._stop.is_set():
            raise ComputingStopped
        if self._check is not None:
            self._check()


class _ForTraining(_Watched):
    """The same for training: each batch has a stream of the seed of its own, which an augmented dataset varies it by."""

    def __init__(
        self, dataset: Dataset, stop: threading.Event, seed: int, check: Callable[[], None] | None = None
    ) -> None:
        super().__init__(dataset, stop, check)
        self._seed, self._stream = seed, VARIATIONS

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        self._require_go()
        self._stream += 1
        return self._dataset.training_batch(indices, self._seed, self._stream)


def _difference(mine: Layout, theirs: Layout) -> str:
    for here, there in zip(mine.tensors, theirs.tensors, strict=False):
        if here != there:
            return f"tensor {here.name} {here.shape} here, {there.name} {there.shape} there"
    if mine.size != theirs.size:
        return f"{mine.size} weights here, {theirs.size} there"
    return "its blocks differ"
