"""The compute executor: one thread, the run's program, and the trainer while there is one.

Tools are made when the first work needs them. A device has an executor of its own; the many clients of a fleet's process
share one's tools, each through a `sibling`, and then it is one model, one program and one trainer for all.
"""

import asyncio
import copy
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar

from zowarmup.client.errors import Final
from zowarmup.client.net.messages import Offer
from zowarmup.client.net.transfer import Transfers
from zowarmup.client.policy import MEGABYTE, Policy
from zowarmup.client.store.directory import StateDirectory
from zowarmup.client.store.passes import PassFile
from zowarmup.client.work.example_passes import ExamplePasses
from zowarmup.client.work.probing import ForwardPass, Prober, load_on, resident
from zowarmup.client.work.watched_program import Watch, WatchedProgram, load_program
from zowarmup.common.exact.replica import Replica
from zowarmup.common.messages.values import BASE, PROGRAM, TOKENIZER, Tier
from zowarmup.common.models.base import read_base
from zowarmup.common.system.files import read_given
from zowarmup.common.system.garbage import uncollected
from zowarmup.common.system.memory import memory_here
from zowarmup.common.tasks.protocol import Examples
from zowarmup.common.text import amount
from zowarmup.data import DataError, Dataset
from zowarmup.data.tokens import tokenised

if TYPE_CHECKING:
    from zowarmup.client.work.training import Trainer

log = logging.getLogger(__name__)
_P = ParamSpec("_P")
_T = TypeVar("_T")
PROCESSOR = "cpu"
"""The program by ONNX Runtime, and no torch."""


@dataclass(slots=True)
class _Tools:
    program: ForwardPass | None = None
    trainer: "Trainer | None" = None
    making: asyncio.Lock = field(default_factory=asyncio.Lock)
    fetching: asyncio.Lock = field(default_factory=asyncio.Lock)


class Executor:
    """What computes for one client.

    Args:
        offer: What the run trains.
        state: Where the program is kept.
        transfers: Fetches the program.
        threads: To compute with.
        device: Where probes' forward passes run, PROCESSOR or a device of torch's.
        policy: What of it this device allows; what it does not raises Final.
        own_thread: Whether it computes in a thread of its own and its siblings', and not in the one that its event loop
            has for all that takes long: for a process in which others share the loop.

    Attributes:
        watch: Over the program, while it is loaded and forward passes are made.
        spent_s: How long this executor's work has taken, seconds, waiting for others not counted.
    """

    def __init__(
        self,
        offer: Offer,
        state: StateDirectory,
        transfers: Transfers,
        threads: int,
        device: str = PROCESSOR,
        policy: Policy | None = None,
        own_thread: bool = False,
    ) -> None:
        self._policy = policy or Policy()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="compute") if own_thread else None
        self.watch = Watch(self._policy.forward_s)
        self._offer, self._state, self._transfers, self._threads = offer, state, transfers, threads
        self._device = device
        self._tools = _Tools()
        self._stop = threading.Event()
        self._alone = True
        self._tokens: tuple[Dataset, Dataset] | None = None
        self.spent_s = 0.0

    def sibling(self) -> Self:
        """An executor for one client among many: when it leaves, the others' work goes on."""
        own_executor = copy.copy(self)
        own_executor._alone, own_executor.spent_s = False, 0.0
        return own_executor

    def clear(self) -> None:
        """Give back the memory of the tools; the next work makes them anew. But for a program with a limit to its memory,
        which might hold no longer: another's constants are taken beyond it, and where it is full what is left is then below 0,
        which the runtime reads as an enormous number. What a program has taken for its passes stays with the process as well."""
        self._tools.trainer = None
        if not isinstance(self._tools.program, WatchedProgram):
            self._tools.program = None

    def close(self) -> None:
        """What is being computed ends at its next batch, with Stopped."""
        self._stop.set()
        if self._thread is not None:
            self._thread.shutdown(wait=False)

    @property
    def contribution_s(self) -> float:
        """How long the work on one contribution may take, seconds."""
        return self._policy.contribution_s

    async def compute(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call a function in the thread for that; whatever it raises is an Exception. A thread cannot be cancelled: it looks at a flag between batches."""

        def timed() -> _T:
            start = time.monotonic()
            try:
                return function(*args, **kwargs)
            except BaseException as error:
                if isinstance(error, Exception) and not isinstance(error, StopIteration):
                    raise
                # Signals come to the main thread, so a model's own code raised it. Out of a thread a StopIteration would
                # never be heard of, and what is no Exception would end the process.
                raise RuntimeError(f"{type(error).__name__} was raised").with_traceback(error.__traceback__) from None
            finally:
                self.spent_s += time.monotonic() - start

        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, timed)
        except asyncio.CancelledError:
            if self._alone:
                self.close()
            raise

    async def prober(self, replica: Replica, dataset: Dataset, passes: Path | None = None) -> Prober:
        """What probes the replica on a dataset. A device that probes trains no more: the trainer's memory is given back. `passes`: where it
        is noted, under differential privacy, which example is passed through the program."""
        spec = self._offer.spec
        async with self._tools.making:
            if self._alone:
                self._tools.trainer = None
            program = self._tools.program
            if program is None:
                program = self._tools.program = await self._program(replica)
        dataset = await self._readable(dataset)
        examples = dataset if self._device == PROCESSOR else await self.compute(self._resident, dataset)
        file = None if passes is None else PassFile(passes, len(examples))
        alone = ExamplePasses(len(examples), self.contribution_s, file)
        return Prober(
            spec.zeroth_order, replica, program, spec.task, examples, self._stop, spec.pool_seed, passes=alone
        )

    async def trainer(self, dataset: Dataset, tier: Tier) -> "Trainer":
        """What trains on a dataset as a client of that tier does."""
        dataset = await self._readable(dataset)
        async with self._tools.making:
            if self._tools.trainer is None:
                base = await self._artifact(BASE)
                self._tools.trainer = await self.compute(self._new_trainer, dataset, tier, base)
            return self._tools.trainer.over(dataset, tier)

    def _new_trainer(self, dataset: Dataset, tier: Tier, base: Path | None) -> "Trainer":
        with uncollected():
            from zowarmup.client.work.training import Trainer  # loads torch

        self._policy.require_model(self._offer.spec.model.name)
        return Trainer(self._offer.spec, self._offer.layout, dataset, self._threads, self._stop, tier, base)

    def _resident(self, dataset: Dataset) -> Examples:
        return resident(self._device, dataset)

    def _accelerated(self, base: Path | None) -> ForwardPass:
        self._policy.require_model(self._offer.spec.model.name)
        return load_on(self._device, self._offer.spec, self._offer.layout, base)

    async def _readable(self, dataset: Dataset) -> Dataset:
        """A dataset as the model reads it: of texts, their tokens, made once. Raises Final where they cannot be made."""
        if not dataset.is_text:
            return dataset
        if self._tokens is None or self._tokens[0] is not dataset:
            file = await self._artifact(TOKENIZER)
            if file is None:
                raise Final("the run reads texts and its coordinator has no tokenizer: it is not one of zowarmup's")
            try:
                spec = self._offer.spec
                tokens = await self.compute(tokenised, dataset, spec.text, file.read_bytes(), spec.privacy.on)
            except DataError as error:  # it may have an example's words
                told = (
                    "this device's texts cannot be read by the run's template and tokenizer, and its own log says why"
                )
                raise Final(f"this device's texts cannot be read: {error}", told * (not spec.privacy.on)) from None
            self._tokens = dataset, tokens
        return self._tokens[1]

    async def _fetched(self, name: str, sha256: bytes, size: int) -> Path:
        """The file of one of the run's artifacts, fetched where it is not here yet."""
        async with self._tools.fetching:  # many clients of a fleet have one folder
            file = self._state.artifact(name, sha256)
            if received := await self._transfers.artifact(name, sha256, size, file):
                log.info("fetched the %s (%s)", name, amount(received))
        return file

    async def _artifact(self, name: str) -> Path | None:
        """The same of one beside the program; None where the run has none of that name."""
        found = self._offer.artifact(name)
        return None if found is None else await self._fetched(name, bytes.fromhex(found.sha256), found.size_bytes)

    async def _program(self, replica: Replica) -> ForwardPass:
        offer, base = self._offer, await self._artifact(BASE)
        if self._device != PROCESSOR:
            return await self.compute(self._accelerated, base)
        self._policy.require_program(offer.program_bytes)
        file = await self._fetched(PROGRAM, offer.program_sha256, offer.program_bytes)
        onnx = read_given(file, offer.program_bytes)
        if offer.layout.head is None:
            log.info("this model does not end in a linear layer whose gradient is exact: probing every parameter")
        from zowarmup.common.models.graph import ProgramRefused  # with messages that nobody else needs

        try:
            constants = read_base(base) if base else {}
            most_bytes = int(self._policy.forward_memory_mb * MEGABYTE) or memory_here().bytes
            program = await self.compute(
                WatchedProgram,
                lambda halt: load_program(
                    onnx, replica, self._threads, most_bytes, halt, constants, offer.spec.privacy.on
                ),
                self.watch,
                most_bytes,
            )
        except ProgramRefused as error:
            raise Final(f"this device does not run the coordinator's {error}") from None
        except ValueError as error:
            raise Final(f"cannot run the run's forward pass ({error}): install the coordinator's onnxruntime") from None
        if program.outputs != (wanted := offer.spec.task.outputs):
            raise Final(
                f"the run's forward pass gives {program.outputs} numbers for an example and its task needs {wanted}: its "
                "coordinator is not one of zowarmup's"
            )
        return program
