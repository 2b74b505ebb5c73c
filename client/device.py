"""What one client of a run holds, and what each message makes of it.

Its data, its replica, the contribution that it made last, and the two kinds of work it can do: training (the high
tier's warm-up) and probing. Contributions are kept until the coordinator has them, so that a stream that broke costs
a message and not the work.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from zowarmup.client.amount import amount
from zowarmup.client.capability import peak_resident
from zowarmup.client.faults import Broken, Declined, Final
from zowarmup.client.lean import give_back_code
from zowarmup.client.messages import Accepted, Fetch, Finished, Hello, Offer, Refused, Report, Welcome
from zowarmup.client.presence import Presence
from zowarmup.client.probe import Prober
from zowarmup.client.replica import LocalReplica, Position
from zowarmup.client.state import StateDirectory
from zowarmup.client.transfer import Transfers
from zowarmup.common.replica import Diverged, Replica
from zowarmup.common.work import Commit, Contribution, Delta, Phase, Scalars, Work
from zowarmup.data import Dataset

if TYPE_CHECKING:
    from zowarmup.client.trainer import Trainer

log = logging.getLogger(__name__)
_P = ParamSpec("_P")
_T = TypeVar("_T")
# In each phase the first contribution is logged, and then every tenth.
LOG_EVERY = 10


class OutOfStep(Exception):
    """What the coordinator says does not fit where this replica is."""


@dataclass(slots=True)
class Made:
    """The contribution made last, not yet known to be durable. `content`: a delta's bytes. `said_on`: the epoch of the
    stream that it was last said on, 0 for none."""

    work: Work
    contribution: Contribution
    content: memoryview | None
    seconds: float
    said_on: int = 0


class Device:
    """One client of one run. `joined` is logged at the first welcome."""

    def __init__(
        self,
        offer: Offer,
        dataset: Dataset,
        state: StateDirectory,
        replica: LocalReplica,
        transfers: Transfers,
        threads: int,
        joined: str,
    ) -> None:
        self._offer, self._dataset, self._state, self._transfers = offer, dataset, state, transfers
        self._replica, self._threads, self._joined = replica, threads, joined
        self._prober: Prober | None = None
        self._trainer: Trainer | None = None
        self._made: Made | None = None
        self._phase: Phase | None = None
        self._count = 0
        self._stop = threading.Event()

    def hello(self) -> Hello:
        """What to open a stream with now."""
        return Hello(self._offer.run_id, self._replica.position, len(self._dataset))

    def welcome(self, welcome: Welcome) -> None:
        if self._joined:
            log.info("%s", self._joined)
            self._joined = ""
        self._enter(welcome.phase)
        if welcome.waiting:
            log.info("the run waits: %s", welcome.waiting)

    async def apply(self, commits: Sequence[Commit]) -> None:
        """Move the replica on; commits that it has already taken are passed over. Raises OutOfStep, Diverged or
        HeadroomExceeded."""
        here = self._replica.position.version
        fresh = [commit for commit in commits if commit.version > here]
        if not fresh:
            return
        self._enter(Phase.ZEROTH_ORDER)
        start = time.monotonic()
        try:
            await self._compute(self._replica.apply, fresh)
        except ValueError as error:
            raise OutOfStep(str(error)) from None
        if len(fresh) > 1:
            log.info(
                "caught up from version %d to %d by %d commits in %.2f s",
                here,
                fresh[-1].version,
                len(fresh),
                time.monotonic() - start,
            )

    async def fetch(self, fetch: Fetch, greeted: Hello) -> None:
        """Replace the replica. A Fetch that answers a Hello older than the replica may have been carried out already
        (a stream that broke during a long fetch): then there is nothing to do."""
        position = self._replica.position
        if position != greeted.position and position.digest and position.version == fetch.version:
            return
        await self._fetch(fetch.version, fetch.reason)

    async def contribute(self, work: Work, presence: Presence) -> None:
        """Do the work, unless it is done, and bring the result to the coordinator. Raises Broken where the stream is
        down: the contribution is kept for the next one."""
        self._enter(work.phase)
        made = self._made
        if made is None or (made.work.round, made.work.seed) != (work.round, work.seed):
            self._made = None  # frees the last delta before the next one is made
            try:
                made = await (self._train(work) if work.phase is Phase.WARM_UP else self._probe(work))
            except (ValueError, ArithmeticError) as error:
                # A loss that is not finite, a probe beyond the grid: this round goes on without this device.
                log.warning("round %d: nothing to contribute (%s)", work.round, error)
                return
            self._made = made
        elif made.said_on == presence.epoch:
            return
        if isinstance(made.contribution, Delta) and made.content is not None:
            try:
                await self._transfers.upload(made.contribution, made.content)
            except Declined as answer:
                log.warning("round %d: the delta was declined (%s)", work.round, answer)
                self._made = None
                return
        epoch = presence.epoch
        said = await presence.say(made.contribution)
        made.said_on = epoch
        self._count += 1
        if self._count % LOG_EVERY == 1:
            self._log(made, said)

    def settle(self, answer: Accepted | Refused) -> None:
        """The coordinator's answer to a contribution: it need not be kept any longer."""
        if isinstance(answer, Refused):
            log.warning("round %d: the contribution was refused (%s): %s", answer.round, answer.reason, answer.detail)
        else:
            log.debug("round %d: the contribution is on the coordinator's disk", answer.round)
        if self._made is not None and self._made.work.round == answer.round:
            self._made = None

    async def farewell(self, finished: Finished, presence: Presence) -> None:
        """Report the replica and leave. Raises Broken where the stream is down."""
        position, peak = self._replica.position, peak_resident()
        self._enter(Phase.FINISHED)
        if position.digest:
            same = "the run's own" if position.digest == finished.digest else "NOT the run's"
            log.info(
                "the run is over at version %d; this replica is at version %d, digest %s (%s); peak memory %s",
                finished.version,
                position.version,
                position.digest.hex(),
                same,
                amount(peak),
            )
            await presence.say(Report(position, peak))
        else:
            log.info("the run is over at version %d; this device never held a replica", finished.version)
        await presence.leave()

    async def disown(self, fault: Exception, presence: Presence) -> None:
        """Report a replica that is not the run's, and forget it."""
        position = self._replica.position
        if isinstance(fault, Diverged):
            position = Position(fault.version, fault.found)
        try:
            await presence.say(Report(position, peak_resident()))
        except Broken as broken:
            log.debug("no report of it: %s", broken.reason)
        await self._compute(self._replica.drop)

    async def _fetch(self, version: int, reason: str) -> None:
        start = time.monotonic()
        header, received = await self._transfers.snapshot(version, self._replica.incoming(version))
        if header.size_bytes != self._replica.weights.nbytes:
            raise Final(
                f"snapshot {version} has {header.size_bytes} bytes and the run's layout {self._replica.weights.nbytes}: "
                "install the coordinator's version of zowarmup"
            )
        await self._compute(self._replica.load, header)
        log.info("fetched snapshot %d (%s) in %.2f s: %s", version, amount(received), time.monotonic() - start, reason)

    async def _train(self, work: Work) -> Made:
        replica = self._replica.held
        if replica is None or replica.version != work.version:
            await self._fetch(work.version, f"round {work.round} of the warm-up starts from it")
        if self._trainer is None:
            self._trainer = await self._compute(self._make_trainer)
        start = time.monotonic()
        delta, content = await self._compute(self._trainer.contribute, self._replica_at(work), work)
        return Made(work, delta, content, time.monotonic() - start)

    def _make_trainer(self) -> "Trainer":
        from zowarmup.client.trainer import Trainer  # loads torch

        return Trainer(self._offer.spec, self._offer.layout, self._dataset, self._threads, self._stop)

    async def _probe(self, work: Work) -> Made:
        self._trainer = None
        replica = self._replica_at(work)
        if self._prober is None:
            self._prober = await self._prepare(replica)
        start = time.monotonic()
        scalars = await self._compute(self._prober.contribute, replica, work)
        return Made(work, scalars, None, time.monotonic() - start)

    async def _prepare(self, replica: Replica) -> Prober:
        from zowarmup.common.program import Program

        offer = self._offer
        file = self._state.program(offer.program_sha256)
        onnx, received = await self._transfers.program(offer.program_sha256, offer.program_bytes, file)
        if received:
            log.info("fetched the program (%s): forward passes of zeroth-order rounds need it", amount(received))
        if offer.layout.head is None:
            log.info("this model does not end in a linear classifier: probing every parameter")
        give_back_code()  # before ONNX Runtime is loaded, and after
        try:
            program = await self._compute(Program, onnx, offer.layout, replica.weights, self._threads)
        except ValueError as error:
            raise Final(f"cannot run the run's forward pass ({error}): install the coordinator's onnxruntime") from None
        give_back_code()
        return Prober(offer.spec.zeroth_order, replica, program, self._dataset, self._stop)

    def _replica_at(self, work: Work) -> Replica:
        replica = self._replica.held
        if replica is None or replica.version != work.version:
            at = "there is no replica" if replica is None else f"the replica is at version {replica.version}"
            raise OutOfStep(f"round {work.round} starts from version {work.version} and {at}")
        return replica

    async def _compute(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return await asyncio.to_thread(function, *args, **kwargs)
        except asyncio.CancelledError:
            self._stop.set()  # a thread cannot be cancelled; it looks at this between batches
            raise

    def _enter(self, phase: Phase) -> None:
        if phase is not self._phase:
            self._phase, self._count = phase, 0
            log.info("phase: %s", phase)

    def _log(self, made: Made, said: int) -> None:
        up = said + len(made.content or b"")
        what = made.contribution
        if isinstance(what, Scalars):
            held = f"{len(what.probes)} probes and {len(what.projections)} projections"
        else:
            held = f"a delta, loss {what.loss:.3f}"
        log.info("round %d: contributed %s: %s up, after %.2f s", what.round, held, amount(up), made.seconds)
