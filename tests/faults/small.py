"""A whole run in one process, on a real disk: a coordinator with its ledger, blobs and round jobs, and scripted clients.

The model is a quadratic bowl of a few parameters, probed and combined by the methods that real runs use. Clients keep a
replica of their own, follow the coordinator by commits or snapshots as its history advises, keep what they made until
it is acknowledged and say it again after a loss, as real ones do; they outlive the coordinator.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.faults.backends import Backend, Stores, files
from tests.tasks import accuracy_of, scored
from zowarmup.common.algorithms.protocol import LossAndGradient
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import Block, Cut, Head, Layout, Tensor, digest, no_whitening
from zowarmup.common.exact.replica import Replica
from zowarmup.common.messages.codec import decode_commit
from zowarmup.common.messages.masking import Given
from zowarmup.common.messages.values import Abstention, Computation, Contribution, Delta, Phase, Tier, Work
from zowarmup.common.settings.data_card import DataCard
from zowarmup.common.settings.run import Evaluation, Model, RunFile, Server
from zowarmup.server.aggregation.evaluation import Evaluator, MeasuredModel
from zowarmup.server.aggregation.round_jobs import RETRY_S, RoundJobs
from zowarmup.server.coordinator import Coordinator
from zowarmup.server.core import commands as cmd
from zowarmup.server.core import events as ev
from zowarmup.server.core.decide import decide, work_for
from zowarmup.server.core.errors import Rejected
from zowarmup.server.core.state import State
from zowarmup.server.projections.history import History
from zowarmup.server.store.archive import BLOBS, LEDGER, replay, restore
from zowarmup.server.store.blob_files import BlobFiles
from zowarmup.server.store.blobs import BlobError, BlobStore
from zowarmup.server.store.event_log import EventLog
from zowarmup.server.store.ledger import Ledger
from zowarmup.server.store.uploads import UploadStore

LAYOUT = Layout(
    tensors=(Tensor("body", (60, 20), 0), Tensor("head.weight", (4, 20), 1200), Tensor("head.bias", (4,), 1280)),
    trainable=1284,
    size=1284,
    blocks=(Block("all", 0, 1284), Block("trunk", 0, 1200), Block("head", 1200, 1284)),
    head=Head("head.weight", "head.bias", 20, 4),
)
RANK = 4
CUT = replace(LAYOUT, blocks=(*LAYOUT.blocks, Block("lower", 0, 400), Block("upper", 400, 1200)), cut=Cut(1, 2, 8, 12))
WHITENED = replace(
    LAYOUT,
    tensors=(*LAYOUT.tensors, Tensor("head.whitening", (RANK + 2, 20), LAYOUT.size)),
    size=LAYOUT.size + (RANK + 2) * 20,
)
EXAMPLES = 12
Fleet = Mapping[str, Tier]
PAIR: Fleet = {"high-1": Tier.HIGH, "low-1": Tier.LOW}
TRIO: Fleet = {"high-1": Tier.HIGH, "high-2": Tier.HIGH, "low-1": Tier.LOW}
WARM_UP_ROUNDS, ZEROTH_ORDER_ROUNDS = 5, 25
# An upload comes in two chunks and a rest.
CHUNK_BYTES = 2048


def run_file(fleet: Fleet) -> RunFile:
    """Every client takes part in every round it can, so the same contributions are asked for whatever is lost."""
    return RunFile(
        name="small",
        seed=11,
        draws="seed",
        model=Model(name="mlp"),
        warmup=warmup_settings(
            rounds=WARM_UP_ROUNDS,
            clients_per_round=sum(tier is Tier.HIGH for tier in fleet.values()),
            quorum=1.0,
            deadline_s=3600.0,
            learn_deadline=False,
        ),
        zeroth_order=zeroth_order_settings(
            rounds=ZEROTH_ORDER_ROUNDS,
            clients_per_round=len(fleet),
            quorum=1.0,
            deadline_s=3600.0,
            learn_deadline=False,
            train="all",
            probes=3,
            head_projections=2,
            whitening=0,
            rate=0.05,
            snapshot_every=4,
        ),
        evaluation=Evaluation(data="digits:test", every=7),
        server=Server(keep_snapshots=2),
    )


def create(data_dir: Path, settings: RunFile, backend: Backend | None = None) -> None:
    """A data directory with a run that has just been created; in files by default."""
    data_dir.mkdir(parents=True, exist_ok=True)
    stores = backend.open(data_dir) if backend else files(data_dir)
    blobs = stores.blobs
    grid = Grid(18)
    layout = LAYOUT if settings.zeroth_order.cut_at is None else CUT
    layout = WHITENED if getattr(settings.zeroth_order, "whitening", 0) else layout
    weights = grid.quantise(np.random.default_rng(3).normal(0, 0.5, LAYOUT.size).astype(np.float32))
    if layout is WHITENED:
        weights = np.append(weights, no_whitening(RANK, 20))
    program = ev.ProgramRecord(
        blobs.put(b"program"), 7, layout.to_json(), DataCard(shape=(20,), classes=4), 1, 1, *scored(4)
    )
    initial = ev.Snapshot(0, blobs.put(weights.data.cast("B")), grid.exponent, digest(weights).hex())
    stores.log.append(decide(None, cmd.CreateRun("small-run", settings, program, initial), 1.0).events, 1.0, 0)
    stores.log.close()


class NoEvaluator(Evaluator):
    def __init__(self) -> None:
        pass

    def evaluate(self, weights: NDArray[np.float32]) -> MeasuredModel:
        return MeasuredModel(accuracy_of(0.5), float(np.square(weights, dtype=np.float64).sum()), 1)


class TrueEvaluator(Evaluator):
    """The loss of the pair's clients, in the mean."""

    def __init__(self) -> None:
        pass

    def evaluate(self, weights: NDArray[np.float32]) -> MeasuredModel:
        every = np.arange(EXAMPLES)
        losses = [
            Bowl(weights, Client(name, tier).target).evaluate(every, False).loss_sum for name, tier in PAIR.items()
        ]
        return MeasuredModel(accuracy_of(0.5), sum(losses) / (len(losses) * EXAMPLES), EXAMPLES)


@dataclass
class Bowl:
    """A loss with its minimum at `target`; each example weighs the same."""

    weights: NDArray[np.float32]
    target: NDArray[np.float32]

    def evaluate(self, examples: NDArray[np.int64], head_gradient: bool) -> LossAndGradient:
        apart = (self.weights[: LAYOUT.size] - self.target).astype(np.float64)
        head = LAYOUT.block("head")
        gradient = apart[head.start : head.stop] * len(examples) if head_gradient else None
        return LossAndGradient(0.5 * float(np.dot(apart, apart)) * len(examples), gradient)

    def pieces(self, examples: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        yield from np.array_split(examples, 2) if len(examples) > 1 else [examples]

    def lower(self, examples: NDArray[np.int64]) -> Any:
        """The loss has a part of its own from each half of the model."""
        apart = (self.weights[: CUT.block("upper").start] - self.target[: CUT.block("upper").start]).astype(np.float64)
        return examples, 0.5 * float(np.dot(apart, apart))

    def upper(self, held: Any, head_gradient: bool) -> LossAndGradient:
        examples, below = held
        place = CUT.block("upper").start
        apart = (self.weights[place : LAYOUT.size] - self.target[place:]).astype(np.float64)
        head = LAYOUT.block("head").start - place
        gradient = apart[head:] * len(examples) if head_gradient else None
        return LossAndGradient((below + 0.5 * float(np.dot(apart, apart))) * len(examples), gradient)

    def features(self, examples: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
        """Drawn by the target; they play no part in the loss."""
        drawn = np.random.default_rng(int(self.target.view(np.uint32)[0])).normal(
            1, np.linspace(0.1, 3, 20), (EXAMPLES, 20)
        )
        yield drawn.astype(np.float32)[examples]


class OneByOne(Coordinator):
    """Takes a command when the one before has been answered, so that every run makes the same writes."""

    def __init__(self, ledger: EventLog, state: State, end: int) -> None:
        super().__init__(ledger, state, end=end)
        self._turn = asyncio.Lock()

    async def handle(self, command: cmd.Command) -> tuple[ev.Event, ...]:
        async with self._turn:
            return await super().handle(command)


@dataclass
class Life:
    """One life of a coordinator."""

    ledger: EventLog
    blobs: BlobStore
    coordinator: Coordinator
    round_jobs: RoundJobs
    history: History
    uploads: UploadStore
    replica: Replica
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _notices: "set[asyncio.Task[None]]" = field(default_factory=set)

    @classmethod
    def start(
        cls,
        stores: Stores,
        kind: type[Coordinator] = Coordinator,
        evaluator: Callable[[], Evaluator] = NoEvaluator,
        retry_s: float = RETRY_S,
    ) -> "Life":
        """As `server.main` puts it together."""
        ledger, blobs = stores.log, stores.blobs
        state, history, end = replay(ledger)
        assert state is not None
        replica = restore(state, history, blobs, state.version)
        coordinator = kind(ledger, state, end=end)
        uploads = UploadStore(stores.uploads, 1 << 20, state)
        round_jobs = RoundJobs(coordinator, blobs, uploads, replica, evaluator(), history, lambda: (), retry_s=retry_s)
        server = cls(ledger, blobs, coordinator, round_jobs, history, uploads, replica)
        coordinator.observe(lambda now, events, after: history.record(now, events))
        coordinator.observe(round_jobs)
        coordinator.observe(server.uploads)
        coordinator.observe(lambda now, events, after: server._notice())
        return server

    def _notice(self) -> None:
        async def tell() -> None:
            async with self.changed:
                self.changed.notify_all()

        task = asyncio.create_task(tell())
        self._notices.add(task)
        task.add_done_callback(self._notices.discard)

    async def until(self, condition: Callable[[State], bool]) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: condition(self.coordinator.state))

    def settled(self) -> bool:
        """The run is over, its last snapshot and evaluation are in the ledger, and what is not kept is gone."""
        state = self.coordinator.state
        evaluated = state.evaluation is not None and state.evaluation.version == state.version
        if not (state.phase is Phase.FINISHED and state.version in state.snapshots and evaluated):
            return False
        named = {state.program.sha256, *(snapshot.sha256 for snapshot in state.snapshots.values())}
        kept = {state.pivot_version, *sorted(state.snapshots)[-state.run_file.server.keep_snapshots :]} - {None}
        whole = all(self.blobs.has(sha256) for sha256 in named)
        return set(state.snapshots) == kept and whole and not self.stale(named)

    def stale(self, named: set[str]) -> bool:
        return not self.blobs.names() <= named


@dataclass
class Client:
    """A scripted device. `acknowledged`: what it was told is durable, by round."""

    name: str
    tier: Tier
    enrolled: bool = False
    replica: Replica | None = None
    made: tuple[Work, Contribution, bytes] | None = None
    acknowledged: dict[int, Contribution] = field(default_factory=dict)
    epoch: int = 0

    @property
    def target(self) -> NDArray[np.float32]:
        seed = int.from_bytes(self.name.encode()[-6:], "little")
        return np.random.default_rng(seed).normal(0, 1, LAYOUT.size).astype(np.float32)

    async def take_part(self, server: Life) -> None:
        handle = server.coordinator.handle
        if self.name not in server.coordinator.state.clients:
            await handle(cmd.Enrol(self.name, self.tier, EXAMPLES, hashlib.sha256(self.name.encode()).hexdigest()))
        self.epoch += 1
        await handle(cmd.ConnectClient(self.name, self.epoch, EXAMPLES))
        while server.coordinator.state.phase is not Phase.FINISHED:
            if (work := self._work(server)) is not None:
                await self._contribute(server, work)
            else:
                await server.until(lambda state: state.phase is Phase.FINISHED or self._work(server) is not None)
        self._follow(server)

    def _work(self, server: Life) -> Work | None:
        """What it still has to do, unless it has abstained from it."""
        state = server.coordinator.state
        if state.current is not None and self.name in state.current.abstained:
            return None
        return work_for(state, self.name, server.coordinator.clock())

    async def contribute(self, server: Life) -> None:
        """Do what there is to do in the round in progress, once."""
        if (work := self._work(server)) is not None:
            await self._contribute(server, work)

    async def _contribute(self, server: Life, work: Work) -> None:
        if self.made is None or (self.made[0].round, self.made[0].seed) != (work.round, work.seed):
            try:
                self.made = self._make(server, work)
            except (ValueError, ArithmeticError) as error:
                await server.coordinator.handle(cmd.Abstain(self.name, Abstention.of(work.round, error)))
                return
        _, contribution, content = self.made
        try:
            with contextlib.ExitStack() as stack:
                if isinstance(contribution, Delta):
                    await self._upload(server, contribution, content)
                    stack.enter_context(server.uploads.naming(self.name, contribution.round, contribution.digest))
                await server.coordinator.handle(cmd.Contribute(self.name, contribution))
        except (BlobError, Rejected):
            current = server.coordinator.state.current
            if current is not None and current.number == work.round:
                raise
            return  # the run goes back from the version that this round began at
        self.acknowledged[work.round] = contribution

    async def _upload(self, server: Life, delta: Delta, content: bytes) -> None:
        have, size = await server.uploads.received(self.name, delta.round, delta.digest, len(content)), len(content)
        if have < size:
            async with server.uploads.receive(self.name, delta.round, delta.digest, size, have) as upload:
                for start in range(have, size, CHUNK_BYTES):
                    await upload.add(content[start : start + CHUNK_BYTES])
                    await upload.settle()
                await upload.finish()

    def _make(self, server: Life, work: Work) -> tuple[Work, Contribution, bytes]:
        replica = self._follow(server)
        algorithm = server.coordinator.state.algorithm(work.phase)
        kind = server.coordinator.state.rules.computation(self.tier)
        if kind is Computation.TRAINING:
            whole = np.zeros(replica.layout.uploaded, "<f4")
            apart = self.target - replica.weights[: LAYOUT.size]
            whole[: LAYOUT.size] = apart * np.float32(0.05 * work.rate_factor)
            part = algorithm.submodel(self.tier)
            delta = (part.take(whole) if part else whole).tobytes()
            return work, Delta(work.round, xxhash.xxh3_128_hexdigest(delta), EXAMPLES, 0.5), delta
        if kind is Computation.GRADIENT:
            gradient = (replica.weights[: LAYOUT.size] - self.target).astype(np.float64)
            return work, algorithm.project(gradient, work), b""
        bowl = Bowl(replica.weights, self.target)
        return work, algorithm.contribute(replica.weights, replica.grid, bowl, EXAMPLES, work), b""

    def _follow(self, server: Life) -> Replica:
        """Bring the replica to the present version, the way the coordinator would have it done."""
        state, held = server.coordinator.state, self.replica
        at, known = (held.version, held.digest().hex()) if held else (0, "")
        if at == state.version and known == state.digest and held:
            return held
        way = server.history.catch_up(at, known, state.version, state.snapshot.version, 4 * state.layout.size)
        if way.snapshot is not None or held is None:
            assert way.snapshot is not None
            snapshot = state.snapshots[way.snapshot]
            weights = server.blobs.vector(snapshot.sha256).load()
            held = self.replica = Replica(state.layout, snapshot.grid, weights, snapshot.version)
        held.apply([decode_commit(commit, state.layout) for commit in way.commits])
        assert held.digest().hex() == state.digest
        return held


async def live(server: Life, clients: Iterable[Client]) -> None:
    """One life of the coordinator: until the run is over, or until whatever ends it (which is raised)."""
    coordinating = [asyncio.create_task(server.coordinator.run()), asyncio.create_task(server.round_jobs.run())]
    over = asyncio.create_task(_whole(server, clients))
    try:
        done, _ = await asyncio.wait([*coordinating, over], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in (*coordinating, over):
            task.cancel()
        await asyncio.gather(*coordinating, over, return_exceptions=True)


async def _whole(server: Life, clients: Iterable[Client]) -> None:
    await server.coordinator.handle(cmd.Restart())
    server.round_jobs.resume()
    await asyncio.gather(*(client.take_part(server) for client in clients))
    while not server.settled():
        await asyncio.sleep(0.002)


def contributed(ledger: EventLog) -> set[tuple[str, Given]]:
    """Every contribution that a ledger holds."""
    return {(event.client, event.contribution) for _, event in ledger.read() if isinstance(event, ev.Contributed)}


def replayed_digest(data_dir: Path) -> str:
    """The last version's digest, from the disk alone."""
    ledger = Ledger(data_dir / LEDGER, read_only=True)
    try:
        state, history, _ = replay(ledger)
        assert state is not None
        return restore(state, history, BlobFiles(data_dir / BLOBS), state.version).digest().hex()
    finally:
        ledger.close()
