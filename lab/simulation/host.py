"""One process of a simulated fleet: its clients, and what they share."""

import asyncio
import hashlib
import hmac
import logging
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from zowarmup.client.errors import ComputingStopped, Final
from zowarmup.client.net.connection import Connection
from zowarmup.client.net.coordinators import Coordinators
from zowarmup.client.net.messages import Hello, InboxItem, Offer
from zowarmup.client.net.retrying import with_retries
from zowarmup.client.net.stream import Meter, Reader
from zowarmup.client.net.tls import Trust, TrustError, trust
from zowarmup.client.net.transfer import Transfers
from zowarmup.client.store.directory import StateDirectory
from zowarmup.client.store.releases import ReleaseFile
from zowarmup.client.store.replica import LocalReplica
from zowarmup.client.work.device import Device
from zowarmup.client.work.executor import PROCESSOR, Executor
from zowarmup.client.work.joining import ask, fit_data, has_torch, require_cryptography, torchless
from zowarmup.client.work.masking import Masking
from zowarmup.client.work.offered import require_offered
from zowarmup.common.messages.values import Tier
from zowarmup.common.secure_aggregation.primitives import verification_key
from zowarmup.common.system.logs import Throttle, log_to_errors
from zowarmup.common.system.memory import peak_resident, set_allocator
from zowarmup.common.text import in_words
from zowarmup.data import Dataset
from zowarmup.lab.simulation.member import SimulatedClient, SimulatedStream
from zowarmup.lab.simulation.part import FleetProgress, FleetShare
from zowarmup.lab.simulation.shared import (
    SharedChannel,
    SharedConnection,
    SharedReplica,
    SharedTransfers,
    ThroughLine,
    View,
    shared_channels,
)

log = logging.getLogger(__name__)
ENROL_AT_ONCE = 32
TELL_EVERY_S = 0.25
WARN_EVERY_S = 10.0
"""A warning of each kind once in so long, and with it how many were left out."""


async def host(part: FleetShare, tell: Callable[[FleetProgress], None]) -> FleetProgress:
    """Take part with every client of `part` until the run is over. `tell` hears how far it is, several times a second,
    and may end it by raising. For a process that does nothing else. Raises Final where no client can take part."""
    set_allocator(1, 32 << 10, 256 << 10)  # what is larger than some pages goes back to the system at once
    return await Host(part, tell).run()


class Host:
    """`members` are those that have enrolled so far."""

    def __init__(self, part: FleetShare, tell: Callable[[FleetProgress], None]) -> None:
        self._part, self._tell = part, tell
        self.members: list[SimulatedClient] = []
        self._meters: list[Meter] = []
        self._barred: list[Final] = []
        self._waiting = f"waiting for {part.server}"
        if (part.tier(part.first) is Tier.HIGH or part.device != PROCESSOR) and not has_torch():
            raise Final(
                "high-tier clients and --device need torch, which is not installed: pip install 'zowarmup[torch]'"
            )

    async def run(self) -> FleetProgress:
        part = self._part
        try:
            trusted = trust(part.server, part.authority, part.certificate, part.key, part.insecure)
        except TrustError as error:
            raise Final(str(error)) from None
        teller = asyncio.create_task(self._keep_telling())
        work = asyncio.create_task(self._take_part(trusted))
        try:
            await asyncio.wait({teller, work}, return_when=asyncio.FIRST_COMPLETED)
            if teller.done():
                teller.result()  # what `tell` raised
            work.result()
        finally:
            for task in (teller, work):
                task.cancel()
            await asyncio.wait({teller, work})
        return self.progress()

    def progress(self) -> FleetProgress:
        members = self.members
        furthest = max(members, key=lambda member: (member.round, member.version), default=None)
        connected = sum(member.connected for member in members)
        waiting = self._waiting
        if furthest is not None and not waiting:
            waiting = furthest.waiting if connected else f"no answer from {self._part.server}"
        over = sum(member.over for member in members)
        faults = self._faults()
        return FleetProgress(
            clients=self._part.count,
            members=len(members),
            connected=connected,
            phase=furthest.phase if furthest else "",
            round=furthest.round if furthest else 0,
            version=furthest.version if furthest else 0,
            contributions=sum(member.contributions for member in members),
            refused=sum(member.refused for member in members),
            up_bytes=sum(meter.up_bytes for meter in self._meters),
            down_bytes=sum(meter.down_bytes for meter in self._meters),
            over=over,
            agree=sum(member.agrees for member in members),
            lost=len(faults),
            peak_bytes=peak_resident(),
            waiting="" if over == len(members) > 0 else waiting,
            fault=str(faults[0]) if faults else "",
        )

    def _faults(self) -> list[Final]:
        """Of the clients that could not go on, why."""
        return [*self._barred, *(member.lost for member in self.members if member.lost)]

    async def _keep_telling(self) -> None:
        while True:
            self._tell(self.progress())
            await asyncio.sleep(TELL_EVERY_S)

    async def _take_part(self, trusted: Trust) -> None:
        part = self._part
        generator = random.Random()
        coordinators = Coordinators(part.server, trusted, generator)
        await coordinators.find()
        shards = await asyncio.to_thread(part.shards)
        offer = await ask(coordinators, part.connect_timeout_s, part.policy)
        tiers = {part.tier(number) for number in range(part.first, part.first + part.count)}
        if not has_torch() and (refusal := next(filter(None, (torchless(t, *offer.spec.phases) for t in tiers)), "")):
            raise Final(refusal)
        part.policy.require_snapshot(offer.model_bytes)
        part.policy.require_program(offer.program_bytes)
        if any(offer.spec.warmup.trains(tier) for tier in tiers):
            part.policy.require_model(offer.spec.model.name)
        shards = [fit_data(part.source(number), shard, offer) for number, shard in enumerate(shards, part.first)]
        require_cryptography(offer)
        for tier in tiers:
            spec = offer.spec
            part.policy.require_privacy(spec.privacy, spec.zeroth_order, spec.warmup.trains(tier))
        self._waiting = ""
        with StateDirectory(part.state / offer.run_id[:16]) as state:
            require_offered(state, offer)
            replica = LocalReplica(state.path, offer.layout)
            await asyncio.to_thread(replica.open)
            shared = SharedReplica(replica)
            held = await shared_channels(part.server, trusted, part.count, generator)
            executor = self._executor(offer, state, held[0].coordinators)
            try:
                await self._live(offer, shards, shared, held, executor, state.path)
            finally:
                executor.close()
                for line in held:
                    await line.close()

    async def _live(
        self,
        offer: Offer,
        shards: Sequence[Dataset],
        shared: SharedReplica,
        held: Sequence[SharedChannel],
        executor: Executor,
        folder: Path,
    ) -> None:
        """Every client enrols and takes part at once, whatever the others are at."""
        part, reader, enrolling = self._part, Reader(offer.layout), asyncio.Semaphore(ENROL_AT_ONCE)
        profiles = part.mix.deal(part.seed, part.clients)

        async def one(number: int, dataset: Dataset, line: SharedChannel) -> None:
            credential = _credential(part, offer.run_id, number)
            async with enrolling:
                try:
                    client = await self._enrol(offer, number, len(dataset), credential, line)
                except Final as fault:
                    self._barred.append(fault)
                    log.warning("a client cannot join: %s", fault)
                    return
            meter, view, own_executor = Meter(), View(shared), executor.sibling()

            def connect() -> Connection:
                return SharedConnection(line, (client, credential), meter, reader)

            transfers = SharedTransfers(connect, shared, meter, own_executor)
            masking = None
            if offer.spec.privacy.secure_aggregation:
                identity = _identity(part, offer.run_id, number)
                masking = Masking(offer.run_id, client, identity, offer.spec.zeroth_order, offer.sha256)
            releases = ReleaseFile(folder / f"releases-{number}.json") if offer.spec.privacy.on else None
            device = Device(
                offer, dataset, view, transfers, own_executor, "", part.tier(number), releases=releases, masking=masking
            )
            profile = profiles[number - 1]

            def stream(hello: Callable[[], Hello], notice: Callable[[InboxItem], None]) -> SimulatedStream:
                link = ThroughLine(line), connect, offer.layout
                return SimulatedStream(*link, hello, profile, own_executor, meter, notice)

            member = SimulatedClient(number, client, device, view, shared, part.mix, profile, part.seed, stream)
            self.members.append(member)
            self._meters.append(meter)
            await member.take_part()

        async def alone(number: int, dataset: Dataset, line: SharedChannel) -> None:
            try:
                await one(number, dataset, line)
            except ComputingStopped:
                raise
            except Exception as error:  # one client's failure is its own
                log.debug("client %d failed", number, exc_info=True)
                self._barred.append(Final(in_words(error)))
                log.warning("a client cannot go on: %s", self._barred[-1])

        async with asyncio.TaskGroup() as group:
            for place, shard in enumerate(shards):
                group.create_task(alone(part.first + place, shard, held[place % len(held)]))
        faults = self._faults()
        if len(faults) == len(shards):
            raise faults[0]

    async def _enrol(self, offer: Offer, number: int, examples: int, credential: str, line: SharedChannel) -> str:
        """The client's name in the run, new or as it was."""
        part, tier = self._part, self._part.tier(number)

        public = (
            verification_key(_identity(part, offer.run_id, number)) if offer.spec.privacy.secure_aggregation else b""
        )

        async def once() -> str:
            async with SharedConnection(line) as connection:
                name, token = part.name_of(number), part.tokens.get(tier, "")
                return (await connection.enrol(offer.run_id, name, tier, examples, token, credential, public))[0]

        return await with_retries(ThroughLine(line), once)

    def _executor(self, offer: Offer, state: StateDirectory, coordinators: Coordinators) -> Executor:
        """For all of them; its program is fetched by whoever needs it first, as a member of the fleet."""
        part = self._part

        def connect() -> Connection:
            member = self.members[0]
            who = (member.client, _credential(part, offer.run_id, member.number))
            return coordinators.connection(who, bulk=True)

        transfers = Transfers(connect)
        return Executor(offer, state, transfers, part.threads, part.device, part.policy, own_thread=True)


def _identity(part: FleetShare, run_id: str, number: int) -> bytes:
    """A member's private key in a run with secure aggregation, likewise: the fleet's secret, unlike a credential, stays here."""
    return hmac.new(
        part.secret, f"{run_id}/{part.tier(number)}/{part.name}/{number}/identity".encode(), hashlib.sha256
    ).digest()


def _credential(part: FleetShare, run_id: str, number: int) -> str:
    """A member's secret, hex: always the same for the same client of the same fleet in the same run and tier."""
    what = f"{run_id}/{part.tier(number)}/{part.name}/{number}"
    return hmac.new(part.secret, what.encode(), hashlib.sha256).hexdigest()


def quieten(verbose: bool) -> None:
    """Log to standard error: everything where `verbose`, else warnings, throttled."""
    handler = log_to_errors("%(asctime)s %(levelname)s %(message)s", verbose, logging.WARNING)
    if not verbose:
        handler.addFilter(Throttle(1.0, 1.0 / WARN_EVERY_S))
    logging.getLogger("asyncio").setLevel(logging.ERROR)
