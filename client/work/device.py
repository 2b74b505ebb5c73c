"""The state of one client of a run, and its reaction to each message.

Its data, its replica, the contribution that it made last, and the two kinds of work it can do: training (the warm-up's,
mostly the high tier's) and probing. Contributions are kept until the coordinator has them, so that a stream that broke
costs a message and not the work.
"""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from zowarmup.client.errors import Broken, ComputingStopped, Declined, Final, Setback, told_of
from zowarmup.client.net.messages import (
    UPGRADE_REMEDY,
    Accepted,
    Fetch,
    Finished,
    Hello,
    Offer,
    Refused,
    Report,
    Welcome,
    upgrade_due,
)
from zowarmup.client.net.reconnecting_stream import ReconnectingStream
from zowarmup.client.net.transfer import Transfers
from zowarmup.client.policy import Allowance
from zowarmup.client.store.releases import ReleaseFile
from zowarmup.client.store.replica import HeldReplica, Position
from zowarmup.client.work.executor import Executor
from zowarmup.client.work.probing import Prober
from zowarmup.client.work.releasing import Releasing, alone
from zowarmup.client.work.watched_program import end_process, release_code, release_heap, watching
from zowarmup.client.work.work_traces import WorkSpans, WorkTraces
from zowarmup.common.algorithms import algorithm_of
from zowarmup.common.algorithms.protocol import Algorithm
from zowarmup.common.exact.replica import Commit, Diverged, Replica
from zowarmup.common.messages.masking import Given, Keys, MaskingAsk
from zowarmup.common.messages.values import (
    LONGEST_REASON,
    Abstention,
    Computation,
    Delta,
    Phase,
    Scalars,
    Tier,
    Work,
)
from zowarmup.common.plugin import belongs_to
from zowarmup.common.settings.run import SOFTWARE
from zowarmup.common.system.memory import peak_resident
from zowarmup.common.text import amount, in_words, out_of_memory, where
from zowarmup.data import Dataset

log = logging.getLogger(__name__)
if TYPE_CHECKING:
    from zowarmup.client.work.masking import Masking

_T = TypeVar("_T")
# In each phase the first contribution is logged, and then every tenth; so is the work that ended without one.
LOG_EVERY = 10


class OutOfStep(Exception):
    """What the coordinator says does not fit where this replica is."""


class Overtaken(Exception):
    """The round is over before this device has contributed to it; why, for the log."""


@dataclass(slots=True)
class Made:
    """The contribution made last, not yet known to be durable. `content`: a delta's bytes. `said_on`: the epoch of the
    stream that it was last said on, 0 for none."""

    work: Work
    contribution: Given
    content: memoryview | None
    seconds: float
    said_on: int = 0


class Device:
    """One client of one run. `joined` is logged at the first welcome. `allowance`: what it may still send, receive and
    answer; None: anything. `traces`: those of its work; None: none. `releases`: where it is kept what it releases under differential
    privacy. `masking`: its part in rounds with secure aggregation; None where the run has none."""

    def __init__(
        self,
        offer: Offer,
        dataset: Dataset,
        replica: HeldReplica,
        transfers: Transfers,
        executor: Executor,
        joined: str,
        tier: Tier = Tier.LOW,
        allowance: Allowance | None = None,
        traces: WorkTraces | None = None,
        releases: ReleaseFile | None = None,
        masking: "Masking | None" = None,
    ) -> None:
        self._traces, self._masking = traces or WorkTraces(), masking
        self._allowance = allowance
        self._offer, self._dataset, self._transfers = offer, dataset, transfers
        self._replica, self._executor, self._joined = replica, executor, joined
        self._tier = tier
        privacy, rounds, self._releases = offer.spec.privacy, offer.spec.zeroth_order.rounds, releases
        self._private = privacy.on or privacy.secure_aggregation
        self._releasing: Releasing | None = None
        if privacy.on:
            if releases is None:
                raise Final("this run is under differential privacy, and nothing keeps what this device releases")
            self._releasing = Releasing(privacy.budget(rounds), releases)
        self._prober: Prober | None = None
        self._made: Made | None = None
        self._phase: Phase | None = None
        self._told: Phase | None = None
        self._count = self._overtaken = 0
        self._software = self._waiting = ""

    @property
    def position(self) -> Position:
        """Where its replica is."""
        return self._replica.position

    @property
    def _told_peak(self) -> int:
        """The peak of resident memory, bytes; 0 for unknown under differential privacy, as it follows from the data, too."""
        return 0 if self._releasing else peak_resident()

    def hello(self) -> Hello:
        """What to open a stream with now."""
        return Hello(self._offer.run_id, self._replica.position, len(self._dataset))

    def welcome(self, welcome: Welcome) -> None:
        if self._joined:
            log.info("%s", self._joined)
            self._joined = ""
            if self._releasing is not None:
                log.info("differential privacy: %s%s", self._releasing.spent, alone(self._offer.spec))
            release_code()  # what has started; it may be a while until there is work
            release_heap()
        if welcome.software != self._software and upgrade_due(welcome.software):
            log.warning("the coordinator runs %s and this device %s: %s", welcome.software, SOFTWARE, UPGRADE_REMEDY)
        self._software = welcome.software
        self._enter(welcome.phase)
        if welcome.waiting and welcome.waiting != self._waiting:
            log.info("the run waits: %s", welcome.waiting)
        self._waiting = welcome.waiting

    async def apply(self, commits: Sequence[Commit]) -> None:
        """Move the replica on; commits that it has already taken are passed over. Raises OutOfStep, Diverged or
        HeadroomExceeded."""
        here = self._replica.position.version
        fresh = [commit for commit in commits if commit.version > here]
        if not fresh:
            return
        self._require_bytes()
        self._enter(Phase.ZEROTH_ORDER)
        start = time.monotonic()
        try:
            await self._executor.compute(self._replica.apply, fresh)
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

    async def contribute(self, work: Work, stream: ReconnectingStream) -> None:
        """Do the work, unless it is done, and bring the result to the coordinator. Raises Broken where the stream is
        down: the contribution is kept for the next one; and, after saying so, Setback where the work failed and Final where
        this device cannot do it or will not."""
        self._enter(work.phase)
        with self._traces.of(work, stream.arrived_s) as spans:
            await self._contribute(work, stream, spans)

    async def _contribute(self, work: Work, stream: ReconnectingStream, spans: WorkSpans) -> None:
        made = self._made
        if made is None or (made.work.round, made.work.seed) != (work.round, work.seed):
            self._made = None  # frees the last delta before the next one is made
            try:
                self._require_bytes()
                with spans.part("compute"):
                    made = await self._compute(work, stream)
            except Overtaken as why:  # the coordinator waits for nothing
                self._overtaken += 1
                level = logging.INFO if self._overtaken % LOG_EVERY == 1 else logging.DEBUG
                log.log(level, "round %d: the work on it has ended without a contribution: %s", work.round, why)
                return
            except Final as fault:  # it leaves, and the coordinator hears why
                with contextlib.suppress(Broken):
                    await stream.say(self._abstention(work.round, fault))
                    await stream.leave()
                raise
            except Setback as setback:
                with contextlib.suppress(Broken):
                    await stream.say(self._abstention(work.round, setback))
                raise
            except (Broken, Declined, OutOfStep, Diverged, ComputingStopped):
                raise
            except Exception as error:  # the round goes on without this device
                log.debug("round %d failed", work.round, exc_info=True)
                await self._abstain(work, error, stream)
                return
            if self._masking is not None and isinstance(made.contribution, Scalars):
                held, examples = made.contribution, len(self._dataset)
                algorithm = self._algorithm(work)
                made.contribution = self._masking.begin(work, algorithm, self._tier, examples, held)
            self._made = made
        elif made.said_on == stream.epoch:
            return
        with spans.part("upload"):
            await self._bring(made, stream)

    async def _bring(self, made: Made, stream: ReconnectingStream) -> None:
        """Send a contribution. Raises Broken where the stream is down."""
        work = made.work
        if isinstance(made.contribution, Delta) and made.content is not None:
            try:
                await self._transfers.upload(made.contribution, made.content)
            except Declined as answer:
                log.warning("round %d: the delta was declined (%s)", work.round, answer)
                self._made = None
                if answer.word != "late":  # else nobody waits for it any more
                    await stream.say(Abstention.of(work.round, f"its delta was declined: {answer}"))
                return
        epoch = stream.epoch
        said = await stream.say(made.contribution)
        made.said_on = epoch
        self._count += 1
        if self._count % LOG_EVERY == 1:
            self._log(made, said)

    async def mask(self, ask: MaskingAsk, stream: ReconnectingStream) -> None:
        """Answer a stage of a round with secure aggregation or, where there is nothing to give or it would tell more than a sum,
        say why not. Raises Broken where the stream is down: the coordinator asks again on the next one."""
        try:
            if self._masking is None:
                raise ValueError("this run has no secure aggregation, and nothing is masked")
            step = await self._executor.compute(self._masking.answer, ask)
        except Final as fault:
            with contextlib.suppress(Broken):
                await stream.say(self._abstention(ask.round, fault))
                await stream.leave()
            raise
        except (ValueError, ArithmeticError) as why:
            from zowarmup.client.work.masking import BegunAnew  # which most runs have no use for
            from zowarmup.common.secure_aggregation.device import Dishonest

            level = logging.ERROR if isinstance(why, Dishonest) else logging.WARNING
            log.log(level, "round %d: this device reveals nothing more of it: %s", ask.round, why)
            # These two are about what the coordinator shows, and the others may be about what is to be masked.
            shown = isinstance(why, Dishonest | BegunAnew)
            await stream.say(Abstention.of(ask.round, why) if shown else self._abstention(ask.round, why))
            return
        await stream.say(step)

    async def settle(self, answer: Accepted | Refused, stream: ReconnectingStream) -> None:
        """The coordinator's answer to a contribution: it need not be kept any longer. After the first of a phase that
        counts, what this phase's work takes in memory is known, and reported. Raises Broken where the stream is down."""
        if isinstance(answer, Refused):
            log.warning("round %d: the contribution was refused (%s): %s", answer.round, answer.reason, answer.detail)
        else:
            log.debug("round %d: the contribution is on the coordinator's disk", answer.round)
        if self._made is not None and self._made.work.round == answer.round:
            self._made = None
        position = self._replica.position
        if isinstance(answer, Accepted) and self._told is not self._phase and position.digest:
            self._told = self._phase
            await stream.say(Report(position, self._told_peak))

    async def finish(self, finished: Finished, stream: ReconnectingStream) -> None:
        """Report the replica and leave. Raises Broken where the stream is down."""
        position, peak = self._replica.position, peak_resident()
        self._enter(Phase.FINISHED)
        if finished.gave_up:
            log.warning("the run has given up: %s", finished.gave_up)
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
            await stream.say(Report(position, self._told_peak))
        else:
            log.info("the run is over at version %d; this device never held a replica", finished.version)
        await stream.leave()

    async def distrust(self) -> None:
        """After a failure in the midst of something: forget a replica whose weights are not those of its position."""
        position = self._replica.position
        if not await self._executor.compute(self._replica.intact):
            log.warning("the replica at version %d was left half-way: fetching it anew", position.version)
            await self._executor.compute(self._replica.drop)

    async def disown(self, fault: Exception, stream: ReconnectingStream) -> None:
        """Report a replica that is not the run's, and forget it."""
        position = self._replica.position
        if isinstance(fault, Diverged):
            position = Position(fault.version, fault.found)
        try:
            await stream.say(Report(position, self._told_peak))
        except Broken as broken:
            log.debug("no report of it: %s", broken.reason)
        await self._executor.compute(self._replica.drop)

    async def _fetch(self, version: int, reason: str) -> None:
        start, size = time.monotonic(), self._replica.weights.nbytes
        self._require_bytes(size)
        header, received = await self._transfers.snapshot(version, size, self._replica.incoming(version))
        await self._executor.compute(self._replica.load, header)
        log.info("fetched snapshot %d (%s) in %.2f s: %s", version, amount(received), time.monotonic() - start, reason)

    async def _abstain(self, work: Work, error: Exception, stream: ReconnectingStream) -> None:
        """Raises Setback where it is no matter of this round's numbers, but of this device."""
        if isinstance(error, ValueError | ArithmeticError) and not where(error):
            # A loss that is not finite, a probe beyond the grid.
            log.warning("round %d: nothing to contribute (%s)", work.round, error)
            await stream.say(self._abstention(work.round, error))
            return
        whose = self._whose(where(error))[:60]
        said = error.reason if isinstance(error, Setback) else in_words(error, LONGEST_REASON - len(whose))
        reason = (whose + said)[:LONGEST_REASON]
        if out_of_memory(error):
            self._prober = None
            self._executor.clear()
        with contextlib.suppress(Broken):
            await stream.say(self._abstention(work.round, error, whose))
        raise Setback(f"round {work.round}: nothing to contribute: {reason}") from None

    def _abstention(self, round: int, error: Exception, whose: str = "") -> Abstention:
        """From a round, with what the coordinator may hear of an error, which is said in this device's own log; `whose` code it came from."""
        return Abstention.of(
            round, (whose * (not self._private)) + told_of(error, self._private, LONGEST_REASON - len(whose))
        )

    def _whose(self, place: str) -> str:
        """The plugin of the run that a place in foreign code is in: "algorithm mine:Mine: "; empty where it is in none."""
        spec = self._offer.spec
        named = [("algorithm", phase.algorithm) for phase in spec.phases]
        named += [("task", spec.model.task), ("model", spec.model.name)]
        return next((f"{kind} {name}: " for kind, name in named if belongs_to(name, place)), "")

    async def _compute(self, work: Work, stream: ReconnectingStream) -> Made:
        spec = self._offer.spec
        rules = spec.warmup if work.phase is Phase.WARM_UP else spec.zeroth_order
        if not rules.rounds:  # what a run promises of its other phase says nothing of this one
            raise Final(f"round {work.round} is of the {work.phase} phase, of which the run is said to have none")
        match rules.computation(self._tier):
            case Computation.TRAINING:
                return await self._train(work, stream)
            case Computation.GRADIENT:
                return await self._differentiate(work, stream)
            case Computation.FORWARD:
                return await self._probe(work, stream)
            case None:
                raise Final(
                    f"round {work.round} is not for the {self._tier} tier: install the coordinator's version of zowarmup"
                )

    async def _train(self, work: Work, stream: ReconnectingStream) -> Made:
        self._require_probes(work)
        replica = self._replica.held
        if replica is None or replica.version != work.version:
            await self._fetch(work.version, f"round {work.round} starts from it")
        trainer, before = await self._executor.trainer(self._dataset, self._tier), self._executor.spent_s
        delta, content = await self._at(work, stream, trainer.contribute)
        return Made(work, delta, content, self._executor.spent_s - before)

    async def _differentiate(self, work: Work, stream: ReconnectingStream) -> Made:
        self._replica_at(work)
        self._require_probes(work)
        trainer, before = await self._executor.trainer(self._dataset, self._tier), self._executor.spent_s
        scalars = await self._at(work, stream, trainer.project)
        return Made(work, scalars, None, self._executor.spent_s - before)

    async def _probe(self, work: Work, stream: ReconnectingStream) -> Made:
        replica = self._replica_at(work)

        async def give_up(sentence: str) -> None:
            if self._allowance is not None:
                self._allowance.note()
            with contextlib.suppress(Broken):
                await stream.say(self._abstention(work.round, Final(sentence)))
                await stream.leave()
            end_process(sentence)

        async with watching(self._executor.watch, give_up):
            if self._prober is None:
                passes = None if self._releases is None else self._releases.passes
                self._prober = await self._executor.prober(replica, self._dataset, passes)
            self._require_probes(work)
            before = self._executor.spent_s
            prober = self._prober
            if self._releasing is not None and self._masking is not None and self._offer.spec.privacy.shares_noise:
                clipped = await self._at(work, stream, partial(self._releasing.clipped, prober))
                give = partial(self._releasing.share, self._offer.spec, clipped, work, len(self._dataset))
                contribution: Given = self._masking.hold(work, len(self._dataset), give)
            else:
                private = None if self._releasing is None else partial(self._releasing.answer, prober)
                contribution = await self._at(work, stream, private or prober.contribute)
        return Made(work, contribution, None, self._executor.spent_s - before)

    def _require_bytes(self, coming: int = 0) -> None:
        if self._allowance is not None:
            self._allowance.require_bytes(coming)

    def _require_probes(self, work: Work) -> None:
        """Count what a round answers about the examples: probes and projections, and of a delta each value."""
        if self._allowance is not None:
            algorithm = self._algorithm(work)
            self._allowance.require_probes(algorithm.answer_values(work, self._tier, len(self._dataset)))

    def _algorithm(self, work: Work) -> Algorithm:
        spec = self._offer.spec
        return algorithm_of(spec, work.phase, self._offer.layout, spec.pool_seed)

    async def _at(
        self, work: Work, stream: ReconnectingStream, contribute: Callable[[Replica, Work, Callable[[], None]], _T]
    ) -> _T:
        """Contribute at the replica, which others may have moved on since. Raises Overtaken, also in the midst of it, where the
        round is over, and Setback where it takes longer than the policy allows."""
        most_s, ends_at_s = self._executor.contribution_s, math.inf
        if self._releasing is not None and work.phase is Phase.ZEROTH_ORDER:
            most_s = (
                math.inf
            )  # each example has its part of it (`example_passes`): whether it answers must not depend on them

        def check() -> None:
            if why := stream.over(work):
                raise Overtaken(why)
            if time.monotonic() > ends_at_s:
                raise Setback(
                    f"round {work.round} takes longer than the {most_s:g} s that this device works on one "
                    "(contribution_s in --policy)"
                )

        def at_last() -> _T:
            nonlocal ends_at_s
            ends_at_s = time.monotonic() + most_s
            if self._replica.overtaken(work.version):
                raise Overtaken("the replica has moved on")
            replica = self._replica_at(work)
            if self._masking is not None:
                self._masking.measure(replica.weights)
            return contribute(replica, work, check)

        return await self._executor.compute(at_last)

    def _replica_at(self, work: Work) -> Replica:
        replica = self._replica.held
        if replica is None or replica.version != work.version:
            at = "there is no replica" if replica is None else f"the replica is at version {replica.version}"
            raise OutOfStep(f"round {work.round} starts from version {work.version} and {at}")
        return replica

    def _enter(self, phase: Phase) -> None:
        if phase is not self._phase:
            self._phase, self._count, self._overtaken = phase, 0, 0
            log.info("phase: %s", phase)

    def _log(self, made: Made, said: int) -> None:
        up = said + len(made.content or b"")
        what = made.contribution
        if isinstance(what, Keys):
            held = "keys, under which its scalars are added up"
        elif isinstance(what, Scalars):
            held = f"{len(what.probes)} probes and {len(what.projections)} projections"
        else:
            held = f"a delta, loss {what.loss:.3f}"
        log.info("round %d: contributed %s: %s up, after %.2f s", what.round, held, amount(up), made.seconds)
