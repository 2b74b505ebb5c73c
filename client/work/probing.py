"""Zeroth-order work of either tier: forward passes over this device's data.

The program's weights are the replica's own vector, so perturbing that vector in place perturbs the model; on an
accelerator (`--device cuda`, for a high-tier client) they are a copy there, moved and restored by the same arithmetic, and
the replica stays where it is. Examples go through in micro-batches, which bounds memory whatever
the size of the data; losses are summed in float64. Where the head alone is trained, what it reads is computed once (`features`).
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zowarmup.client.errors import ComputingStopped, Final
from zowarmup.client.work.features import Features
from zowarmup.common.algorithms.protocol import EachLoss, LossAndGradient
from zowarmup.common.algorithms.settings import ZerothOrder
from zowarmup.common.algorithms.whitening import applied
from zowarmup.common.exact.layout import Block, Layout
from zowarmup.common.exact.replica import Replica
from zowarmup.common.exact.steps import Weights
from zowarmup.common.messages.values import Scalars, Work
from zowarmup.common.models.program import Program
from zowarmup.common.settings.run import ClientSpec
from zowarmup.common.tasks.protocol import Batch, Examples, Task
from zowarmup.data import Dataset
from zowarmup.data.dataset import micro_batches

if TYPE_CHECKING:
    from zowarmup.common.models.on_device import DeviceProgram, Resident

VECTOR_BYTES = 1 << 24
"""Of the vectors that one pass is made at, and again of what each example of a batch has of its own."""


class ForwardPass(Protocol):
    """A model that runs forward: `program.Program`, or a torch module on an accelerator."""

    def load(self, weights: NDArray[np.float32]) -> Weights:
        """What to move, to move the model from these weights on."""
        ...

    def forward(self, inputs: Any) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Its outputs (n, outputs) and, where there is a head, the features (n, h), not yet whitened."""
        ...


class Prober:
    """Zeroth-order contributions of a dataset. `stop` ends a contribution at the next micro-batch, and so does what `check`
    raises, which is called before each."""

    def __init__(
        self,
        spec: ZerothOrder,
        replica: Replica,
        program: ForwardPass,
        task: Task,
        dataset: Examples,
        stop: threading.Event,
        pool_seed: int = 0,
    ) -> None:
        self._spec, self._pool_seed = spec, pool_seed
        self._layout, self._program, self._task = replica.layout, program, task
        self._dataset, self._stop = dataset, stop
        self._micro_batch, self._lengths = spec.micro_batch, getattr(dataset, "lengths", None)
        self._check: Callable[[], None] | None = None
        self._features = Features(replica.layout, len(dataset)) if replica.layout.head_alone else None
        self._weights, self._keeps = replica.weights, False

    def contribute(self, replica: Replica, work: Work, check: Callable[[], None] | None = None) -> Scalars:
        """The scalars for a round; the replica is afterwards as it was. Raises ValueError where one is not finite."""
        self._check = check
        algorithm = self._spec.slowed(work.rate_factor).build(self._layout, self._pool_seed)
        weights = self._program.load(replica.weights)
        self._weights = replica.weights
        self._keeps = isinstance(weights, np.ndarray)  # on an accelerator a forward pass costs little
        if self._features and self._keeps:
            self._features.take(replica.weights, replica.frozen_digest())
        return algorithm.contribute(weights, replica.grid, self, len(self._dataset), work)

    def evaluate(self, examples: NDArray[np.int64], head_gradient: bool) -> LossAndGradient:
        """The summed loss of some examples at the weights as they are now and, where asked for, the summed gradient of
        the head (float64, the head block's order)."""
        loss, gradient = 0.0, None
        for chosen in self._micro_batches(examples, self._lengths):
            batch = self._dataset.batch(chosen)
            outputs, features = self._forward(chosen, batch)
            if head_gradient:
                summed, part = self._with_gradient(outputs, features, batch)
                gradient = part if gradient is None else gradient + part
            else:
                summed = self._task.loss(outputs, batch)
            loss += summed
        return LossAndGradient(loss, gradient)

    def at_once(self, block: Block) -> int:
        """How many vectors that differ within a block one pass is made at; 0 where the model's examples share it."""
        own = getattr(self._program, "own", frozenset[str]())
        inside = [t.name for t in self._layout.tensors if block.start <= t.start and t.stop <= block.stop]
        return max(2, VECTOR_BYTES // (4 * self._layout.size)) if self._keeps and own.issuperset(inside) else 0

    def evaluate_each(
        self, vectors: NDArray[np.float32], examples: Sequence[NDArray[np.int64]], head_gradient: bool
    ) -> EachLoss:
        """The summed loss of some examples at each of several vectors, float32 (m, layout.size), and the head's gradient; a batch has
        examples of many of them."""
        assert isinstance(self._program, Program)
        of, every = np.repeat(np.arange(len(vectors)), list(map(len, examples))), np.concatenate(examples)
        losses, gradient = np.zeros(len(vectors)), None
        lengths, most = None if self._lengths is None else self._lengths[every], len(vectors)
        for together in self._micro_batches(np.arange(len(every)), lengths):
            # Each example has a copy of what is its own.
            for places in (together[start : start + most] for start in range(0, len(together), most)):
                batch = self._dataset.batch(every[places])
                outputs, features = self._program.forward_each(batch.inputs, vectors, of[places])
                np.add.at(losses, of[places], self._task.losses(outputs, batch))
                if head_gradient:
                    read = None if features is None else self._read(features)
                    _, part = self._with_gradient(outputs, read, batch)
                    gradient = part if gradient is None else gradient + part
        return EachLoss(losses, gradient)

    def features(self, examples: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
        """What the model makes below the head of some examples, not yet whitened, a micro-batch after the other: float32
        (m, h)."""
        for chosen in self._micro_batches(examples, self._lengths):
            yield self._kept(chosen, self._dataset.batch(chosen))

    def _micro_batches(
        self, examples: NDArray[np.int64], lengths: NDArray[np.int64] | None
    ) -> Iterator[NDArray[np.int64]]:
        for chosen in micro_batches(lengths, examples, self._micro_batch):
            if self._stop.is_set():
                raise ComputingStopped
            if self._check is not None:
                self._check()
            yield chosen

    def _forward(
        self, chosen: NDArray[np.int64], batch: Batch
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        if self._features is None or not self._keeps:
            outputs, features = self._program.forward(batch.inputs)
            return outputs, None if features is None else self._read(features)
        read = self._read(self._kept(chosen, batch))
        return self._features.outputs(read, self._weights), read

    def _kept(self, chosen: NDArray[np.int64], batch: Batch) -> NDArray[np.float32]:
        """Features, computed where they are not kept."""
        features = self._features.kept(chosen) if self._features and self._keeps else None
        if features is None:
            _, features = self._program.forward(batch.inputs)
            assert features is not None
            if self._features and self._keeps:
                self._features.keep(chosen, features)
        return features

    def _read(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the head is applied to: features, whitened where the model whitens them."""
        buffer = self._layout.whitening
        if buffer is None:
            return features
        return applied(features, self._weights[buffer.start : buffer.stop].reshape(buffer.shape))

    def _with_gradient(
        self, outputs: NDArray[np.float32], features: NDArray[np.float32] | None, batch: Batch
    ) -> tuple[float, NDArray[np.float64]]:
        if features is None or self._layout.head is None:
            raise ValueError("the head's gradient was asked of a model that has no linear layer at its end")
        return self._task.loss_and_head_gradient(outputs, features, batch, self._layout.head)


def load_on(device: str, spec: ClientSpec, layout: Layout, base: Path | None = None) -> "DeviceProgram":
    """The run's model on a device of torch's, built here as for training. Raises Final where there is no such device, or the
    model is not the coordinator's."""
    import torch

    from zowarmup.client.work.training import built
    from zowarmup.common.models.on_device import DeviceProgram

    try:
        place = torch.device(device)
        torch.zeros(1, device=place)
    except (RuntimeError, AssertionError) as error:  # as torch says that it was built without
        reason = str(error).strip().splitlines()[0]
        raise Final(f"--device {device}: torch cannot use it here ({reason}); leave it out") from None
    return DeviceProgram(built(spec, layout, base=base), layout, place)


def resident(device: str, dataset: Dataset) -> "Resident":
    """A dataset whose inputs are on a device of torch's, so that no batch travels there twice."""
    import torch

    from zowarmup.common.models.on_device import Resident

    place = torch.device(device)
    return Resident(
        dataset.inputs, dataset.targets, dataset.scale, place, dataset.mean, dataset.deviation, dataset.mean_shape
    )
