"""Zeroth-order work of either tier: forward passes over this device's data.

The program's weights are the replica's own vector, so perturbing that vector in place perturbs the model; on an
accelerator (`--device cuda`, for a high-tier client) they are a copy there, moved and restored by the same arithmetic, and
the replica stays where it is. Examples go through in micro-batches, which bounds memory whatever
the size of the data; losses are summed in float64. Where the head alone is trained, what it reads is computed once (`features`), and
so is what crosses the cut of a model that is cut, where nothing below it moves (`activations`).
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from zowarmup.client.errors import ComputingStopped, Final
from zowarmup.client.work.activations import HELD_BYTES, Activations, never_moves_below
from zowarmup.client.work.example_passes import ExamplePasses
from zowarmup.client.work.features import Features
from zowarmup.common.algorithms.private_release import Mechanism
from zowarmup.common.algorithms.protocol import Algorithm, EachLoss, ExampleLosses, LossAndGradient
from zowarmup.common.algorithms.settings import ZerothOrder
from zowarmup.common.algorithms.whitening import applied
from zowarmup.common.exact.layout import Block, Layout
from zowarmup.common.exact.replica import Replica
from zowarmup.common.exact.steps import Weights
from zowarmup.common.messages.values import Scalars, Work
from zowarmup.common.models.program import Crossing
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


@runtime_checkable
class CutPass(ForwardPass, Protocol):
    """One that is cut in two."""

    def lower(self, inputs: Any) -> Crossing:
        """What crosses the cut: activations (n, t, hidden) and, where any do, means (n, k)."""
        ...

    def upper(self, inputs: Any, crossing: Crossing) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """As `forward`, from what crosses the cut."""
        ...


@runtime_checkable
class JointPass(ForwardPass, Protocol):
    """One that is made at several vectors at once."""

    @property
    def own(self) -> frozenset[str]:
        """The tensors of the layout of which each example of a pass may have its own."""
        ...

    def forward_each(
        self, inputs: Any, vectors: NDArray[np.float32], of: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """As `forward`, each example at the vector that `of` says, of several that differ in no tensor but those of `own`."""
        ...


class _Held(NamedTuple):
    """What crosses the cut for a micro-batch."""

    batch: Batch
    crossing: Crossing


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
        held_bytes: int = HELD_BYTES,
        passes: ExamplePasses | None = None,
    ) -> None:
        self._passes = passes or ExamplePasses(len(dataset))
        self._held_bytes = held_bytes
        self._spec, self._pool_seed = spec, pool_seed
        self._layout, self._program, self._task = replica.layout, program, task
        self._dataset, self._stop = dataset, stop
        self._micro_batch, self._lengths = spec.micro_batch, getattr(dataset, "lengths", None)
        self._check: Callable[[], None] | None = None
        self._features = Features(replica.layout, len(dataset)) if replica.layout.head_alone else None
        cut = replica.layout.cut if never_moves_below(replica.layout) else None
        self._activations = None if cut is None else Activations(cut, len(dataset))
        self._weights, self._keeps = replica.weights, False

    def contribute(self, replica: Replica, work: Work, check: Callable[[], None] | None = None) -> Scalars:
        """The scalars for a round; the replica is afterwards as it was. Raises ValueError where one is not finite."""
        algorithm, weights = self._begin(replica, work, check)
        return algorithm.contribute(weights, replica.grid, self, len(self._dataset), work)

    def release(
        self, replica: Replica, work: Work, mechanism: Mechanism, check: Callable[[], None] | None = None
    ) -> Scalars:
        """As `contribute`, with differential privacy: all scalars by one release of the mechanism."""
        algorithm, weights, found = self._by_example(replica, work, check)
        return algorithm.scalars_of_mean(weights, mechanism.release(found), work)

    def clipped(
        self, replica: Replica, work: Work, mechanism: Mechanism, check: Callable[[], None] | None = None
    ) -> NDArray[np.float64]:
        """What `release` adds noise to: the sum over the examples of their scalars, clipped, float64 (m,)."""
        return mechanism.clipped(self._by_example(replica, work, check)[2])

    def _by_example(
        self, replica: Replica, work: Work, check: Callable[[], None] | None
    ) -> tuple[Algorithm, Weights, NDArray[np.float64]]:
        """What each example contributes, with what has computed it and the weights."""
        algorithm, weights = self._begin(replica, work, check)
        self._passes.begin()
        found = algorithm.example_scalars(weights, replica.grid, self, len(self._dataset), work)
        self._passes.end(work.round)
        return algorithm, weights, found

    def _begin(self, replica: Replica, work: Work, check: Callable[[], None] | None) -> tuple[Algorithm, Weights]:
        """What computes a contribution, and the weights that it moves."""
        self._check = check
        weights = self._program.load(replica.weights)
        self._weights = replica.weights
        self._keeps = isinstance(weights, np.ndarray)  # on an accelerator a forward pass costs little
        if self._features and self._keeps:
            self._features.take(replica.weights, replica.frozen_digest())
        return self._spec.slowed(work.rate_factor).build(self._layout, self._pool_seed), weights

    def by_example(self, head_gradients: bool) -> Iterator[ExampleLosses]:
        """The loss of each example at the weights as they are now and, where asked for, its gradient by the head: each from a pass of
        its own (`example_passes`), and not finite where that fails."""
        every = np.arange(len(self._dataset))
        for some in (every[first : first + self._micro_batch] for first in range(0, len(every), self._micro_batch)):
            losses, gradients = np.full(len(some), np.nan), None
            if head_gradients:
                gradients = np.full((len(some), self._layout.block("head").size), np.nan)
            for place, example in enumerate(some):
                self._require_go()
                found = self._passes.attempt(
                    int(example), partial(self._alone, some[place : place + 1], head_gradients)
                )
                if found is not None:
                    losses[place] = found.losses[0]
                    if gradients is not None and found.head_gradients is not None:
                        gradients[place] = found.head_gradients[0]
            yield ExampleLosses(some, losses, gradients)

    def _alone(self, chosen: NDArray[np.int64], head_gradients: bool) -> ExampleLosses:
        """Of one example."""
        batch = self._dataset.batch(chosen)
        outputs, features = self._forward(chosen, batch)
        gradients, head = None, self._layout.head
        if head_gradients:
            assert features is not None and head is not None
            gradients = self._task.head_gradients(outputs, features, batch, head)
        return ExampleLosses(chosen, self._task.losses(outputs, batch), gradients)

    def evaluate(self, examples: NDArray[np.int64], head_gradient: bool) -> LossAndGradient:
        """The summed loss of some examples at the weights as they are now and, where asked for, the summed gradient of
        the head (float64, the head block's order)."""

        def parts() -> Iterator[LossAndGradient]:
            for chosen in self._micro_batches(examples, self._lengths):
                batch = self._dataset.batch(chosen)
                yield self._losses(*self._forward(chosen, batch), batch, head_gradient)

        return _summed(parts())

    def pieces(self, examples: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Some examples in pieces, what crosses the cut of each of which is held at once."""
        cut, held, size = self._layout.cut, list[NDArray[np.int64]](), 0
        assert cut is not None and self._lengths is not None
        for chosen in self._micro_batches(examples, self._lengths):
            more = 4 * len(chosen) * (int(self._lengths[chosen].max()) * cut.hidden + cut.means)
            if held and size + more > self._held_bytes:
                yield np.concatenate(held)
                held, size = [], 0
            held.append(chosen)
            size += more
        yield np.concatenate(held)

    def lower(self, examples: NDArray[np.int64]) -> list[_Held]:
        """What crosses the cut for some examples, at the weights as they are now."""
        found = list[_Held]()
        for chosen in self._micro_batches(examples, self._lengths):
            batch = self._dataset.batch(chosen)
            kept = self._activations.kept(chosen, batch.inputs.shape[1]) if self._activations else None
            crossing = kept or self._cut_program.lower(batch.inputs)
            if self._activations and kept is None:
                assert self._lengths is not None
                self._activations.keep(chosen, self._lengths[chosen], crossing)
            found.append(_Held(batch, crossing))
        return found

    def upper(self, held: list[_Held], head_gradient: bool) -> LossAndGradient:
        """As `evaluate`, from what crosses the cut."""

        def parts() -> Iterator[LossAndGradient]:
            for batch, crossing in held:
                self._require_go()
                outputs, features = self._cut_program.upper(batch.inputs, crossing)
                yield self._losses(outputs, None if features is None else self._read(features), batch, head_gradient)

        return _summed(parts())

    @property
    def _cut_program(self) -> CutPass:
        assert isinstance(self._program, CutPass)
        return self._program

    def at_once(self, block: Block) -> int:
        """How many vectors that differ within a block one pass is made at; 0 where the model's examples share it."""
        own = self._program.own if isinstance(self._program, JointPass) else frozenset[str]()
        inside = [t.name for t in self._layout.tensors if block.start <= t.start and t.stop <= block.stop]
        most = VECTOR_BYTES // (4 * self._layout.size)
        return most if most >= 2 and self._keeps and own.issuperset(inside) else 0

    def evaluate_each(
        self, vectors: NDArray[np.float32], examples: Sequence[NDArray[np.int64]], head_gradient: bool
    ) -> EachLoss:
        """The summed loss of some examples at each of several vectors, float32 (m, layout.size), and the head's gradient; a batch has
        examples of many of them."""
        assert isinstance(self._program, JointPass)
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
                    part = self._losses(outputs, read, batch, True).head_gradient_sum
                    gradient = part if gradient is None or part is None else gradient + part
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
            self._require_go()
            yield chosen

    def _require_go(self) -> None:
        if self._stop.is_set():
            raise ComputingStopped
        if self._check is not None:
            self._check()

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

    def _losses(
        self, outputs: NDArray[np.float32], features: NDArray[np.float32] | None, batch: Batch, head_gradient: bool
    ) -> LossAndGradient:
        """Of a batch."""
        if not head_gradient:
            return LossAndGradient(self._task.loss(outputs, batch), None)
        if features is None or self._layout.head is None:
            raise ValueError("the head's gradient was asked of a model that has no linear layer at its end")
        return LossAndGradient(*self._task.loss_and_head_gradient(outputs, features, batch, self._layout.head))


def _summed(parts: Iterator[LossAndGradient]) -> LossAndGradient:
    """Of batches, of all of which the head's gradient is known or of none."""
    loss, gradient = 0.0, None
    for part in parts:
        loss += part.loss_sum
        own = part.head_gradient_sum
        gradient = own if gradient is None or own is None else gradient + own
    return LossAndGradient(loss, gradient)


def load_on(device: str, spec: ClientSpec, layout: Layout, base: Path | None = None) -> "DeviceProgram":
    """The run's model on a device of torch's, built here as for training. Raises Final where there is no such device, or the
    model is cut or is not the coordinator's."""
    if layout.cut is not None:
        raise Final(f"--device {device}: a model that is cut is probed on the processor: leave it out")
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
        dataset.inputs,
        dataset.targets,
        dataset.scale,
        place,
        dataset.mean,
        dataset.deviation,
        dataset.mean_shape,
        dataset.lengths,
    )
