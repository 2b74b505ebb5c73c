"""Hostile calls to a real coordinator: gRPC on loopback, the services as `server.main` wires them, a round in progress.

Callers are strangers, members with other people's secrets, and members with their own who say what they should not, or
nothing. None of it may end a process, change what the ledger holds of the run, or leave memory behind; and beside it the
honest members make version after version, with the limit on abandoned rounds that a run file has by itself.
"""

import asyncio
import contextlib
import hashlib
import random
import resource
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc

from tests.faults.backends import files
from tests.faults.small import LAYOUT, PAIR, Client, Life, contributed, create, run_file
from tests.patience import PATIENCE
from zowarmup.common.messages.values import Tier
from zowarmup.common.settings.run import PROTOCOL, RunFile, Server
from zowarmup.server.coordinator import Coordinator
from zowarmup.server.core import commands as cmd
from zowarmup.server.core.state import State
from zowarmup.server.listening import OPTIONS
from zowarmup.server.projections.traffic import Traffic
from zowarmup.server.rpc.auth import Admission, hash_secret
from zowarmup.server.rpc.limits import MessageSizeInterceptor, RateLimiter
from zowarmup.server.rpc.operator import OperatorService
from zowarmup.server.rpc.participate import CoordinatorService
from zowarmup.server.rpc.strangers import Callers, Strangers
from zowarmup.server.rpc.streams import StreamRegistry
from zowarmup.server.store.event_log import EventLog
from zowarmup.v1 import coordinator_pb2 as wire
from zowarmup.v1 import coordinator_pb2_grpc as services


def secret(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


SECRETS = {name: secret(name) for name in PAIR}
HONEST = {f"honest-{number}": Tier.HIGH for number in range(1, 5)}
TICK_S = 0.1
AT_ONCE = 8
PROGRESS = 25 * AT_ONCE
"""After so many calls at most there is another version."""
NAN = float("nan")


@dataclass(frozen=True)
class Assault:
    """`answers`: how often each status was the answer; `reasons`: the coordinator's own count of refusals; `versions`: how many
    the honest members made meanwhile, and `contributed`: whose contributions they are of."""

    calls: int
    answers: dict[str, int]
    reasons: dict[str, int]
    versions: int
    contributed: set[str]
    unchanged: bool
    serving: bool
    grown_mb: float


def durable(state: State) -> tuple[Any, ...]:
    """What no hostile call may change. A member may say that it has nothing to contribute to the round it was drawn for, and
    what it says it holds is its own to say."""
    clients = {name: replace(client, examples=0) for name, client in state.clients.items()}
    asked = (state.paused, state.pivot_requested, state.stop_requested, state.finished, state.gave_up)
    held = (state.run_id, state.run_file, state.program, state.secret, state.phase, state.invitations)
    return (*held, clients, state.credentials, asked, state.clipped_deltas, state.progress.rollbacks)


@contextlib.asynccontextmanager
async def coordinator(
    folder: Path,
    settings: RunFile | None = None,
    rate: float = 1e6,
    fleet: Mapping[str, Tier] = PAIR,
    calls: float = 1e6,
    log: Callable[[EventLog], EventLog] = lambda log: log,
) -> AsyncIterator[tuple[Life, str, Counter[str]]]:
    """A fleet, and a warm-up round that waits for those of it that train. `rate`: messages a second of a member; `calls`: of
    strangers, in all; `log`: what stands before the event log."""
    data_dir = folder / "server"
    settings = settings or run_file(PAIR)
    create(data_dir, replace(settings, server=Server(messages_per_second=1e6)))
    stores = files(data_dir)
    life = Life.start(replace(stores, log=log(stores.log)))
    lead, refusals = life.coordinator, Counter[str]()
    rate_limiter, traffic = RateLimiter(rate), Traffic(lambda: lead.state.phase)
    stream_registry = StreamRegistry(life.history, rate_limiter)
    lead.observe(stream_registry)
    admission = Admission(lead, hash_secret("operator"), False, False, refusals)
    strangers = Strangers(calls / 1e6, calls)
    callers = Callers(strangers, refusals)
    callers.knows = admission.knows
    server = grpc.aio.server(interceptors=(callers, MessageSizeInterceptor(refusals)), options=OPTIONS)
    services.add_CoordinatorServiceServicer_to_server(
        CoordinatorService(
            lead, life.blobs, stream_registry, traffic, admission, life.uploads, rate_limiter, strangers
        ),
        server,
    )
    services.add_OperatorServiceServicer_to_server(OperatorService(lead, life.history, traffic, admission), server)
    port = server.add_insecure_port("127.0.0.1:0")
    running = asyncio.create_task(lead.run())
    try:
        await lead.handle(cmd.Restart())
        for number, (name, tier) in enumerate(fleet.items(), 1):
            await lead.handle(cmd.Enrol(name, tier, 12, hash_secret(secret(name))))
            if tier in settings.warmup.tiers:
                await lead.handle(cmd.ConnectClient(name, number, 12))
        assert lead.state.current is not None
        await server.start()
        yield life, f"127.0.0.1:{port}", refusals
        assert not running.done(), "the coordinator lives"
    finally:
        await server.stop(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        stores.log.close()


class Attacker:
    def __init__(self, address: str, lead: Coordinator, chance: random.Random) -> None:
        self.channel = grpc.aio.insecure_channel(address, options=[("grpc.max_send_message_length", 64 << 20)])
        self.stub: Any = services.CoordinatorServiceStub(self.channel)
        self.operator: Any = services.OperatorServiceStub(self.channel)
        self.chance, self.run_id = chance, lead.state.run_id
        self.lead, self.size = lead, 4 * LAYOUT.size

    def who(self) -> tuple[tuple[str, str], ...]:
        """A member, more often than not, with the right secret, more often than not."""
        name = self.chance.choice([*PAIR, *PAIR, "nobody", "", "x" * 5000])
        secret = self.chance.choice([SECRETS.get(name, "0" * 64)] * 3 + [SECRETS["low-1"], "0" * 64, "", "x" * 3000])
        return (("zowarmup-client", name), ("zowarmup-credential", secret)) if self.chance.random() < 0.95 else ()

    def number(self) -> int:
        now = self.lead.state.round
        return self.chance.choice([0, 1, now, now + 1, 2**31, 2**63, 2**64 - 1])

    def junk(self, longest: int = 64) -> bytes:
        return self.chance.randbytes(self.chance.choice([0, 1, 16, 32, longest]))

    def hello(self) -> wire.ParticipateRequest:
        return wire.ParticipateRequest(
            hello=wire.Hello(
                run_id=self.chance.choice([self.run_id, self.run_id, "another", "x" * 9000]),
                protocol=self.chance.choice([PROTOCOL, PROTOCOL, 0, 2**32 - 1]),
                version=self.number(),
                digest=self.junk(),
                examples=self.chance.choice([12, 0, 2**64 - 1]),
            )
        )

    def said(self) -> wire.ParticipateRequest:
        values = [self.chance.choice([0.5, NAN, 1e38, float("inf"), 0.0])] * self.chance.choice([0, 1, 3, 999, 40_000])
        kinds: list[Callable[[], wire.ParticipateRequest]] = [
            self.hello,
            lambda: wire.ParticipateRequest(),
            lambda: wire.ParticipateRequest(
                scalars=wire.Scalars(round=self.number(), probes=values, projections=values)
            ),
            lambda: wire.ParticipateRequest(
                scalars=wire.Scalars(round=self.number(), probe_bytes=self.junk(), projection_nibbles=self.junk())
            ),
            lambda: wire.ParticipateRequest(
                delta_ready=wire.DeltaReady(
                    round=self.number(),
                    digest=self.junk(),
                    examples=self.number(),
                    loss=self.chance.choice([NAN, 1]),
                )
            ),
            lambda: wire.ParticipateRequest(report=wire.Report(version=self.number(), digest=self.junk())),
            lambda: wire.ParticipateRequest(
                abstention=wire.Abstention(
                    round=self.number(), reason=self.chance.choice(["", "why", "a\nline", "x" * 9000])
                )
            ),
        ]
        return self.chance.choice(kinds)()

    async def participate(self) -> None:
        call = self.stub.Participate(metadata=self.who())
        messages = [self.hello() if self.chance.random() < 0.8 else self.said()]
        messages += [self.said() for _ in range(self.chance.randrange(4))]
        for message in messages:
            await call.write(message)
        if self.chance.random() < 0.8:
            await call.done_writing()
            while await call.read() is not grpc.aio.EOF:  # type: ignore[attr-defined]
                pass
        else:
            call.cancel()

    async def upload(self) -> None:
        header = wire.DeltaHeader(
            round=self.number(),
            digest=self.junk(),
            size_bytes=self.chance.choice([self.size, self.size, 0, 2**64 - 1]),
            offset_bytes=self.chance.choice([0, 0, 7, self.size, 2**63]),
        )

        def pieces() -> Iterator[wire.UploadDeltaRequest]:
            if self.chance.random() < 0.9:
                yield wire.UploadDeltaRequest(header=header)
            for _ in range(self.chance.randrange(3)):
                yield wire.UploadDeltaRequest(
                    chunk=bytes(self.chance.choice([0, 1, self.size, self.size + 1, 3 << 20]))
                )

        await self.stub.UploadDelta(pieces(), metadata=self.who())

    async def fetch(self) -> None:
        version, offset = self.number(), self.chance.choice([0, 5, 2**63, 2**64 - 1])
        request = wire.FetchSnapshotRequest(version=version, offset_bytes=offset)
        async for _ in self.stub.FetchSnapshot(request, metadata=self.who()):
            pass

    async def program(self) -> None:
        request = wire.FetchArtifactRequest(offset_bytes=self.chance.choice([0, 5, 2**63, 2**64 - 1]))
        async for _ in self.stub.FetchArtifact(request, metadata=self.who()):
            pass

    async def measure(self) -> None:
        def pieces() -> Iterator[wire.MeasureLinkRequest]:
            for _ in range(self.chance.choice([0, 1, 9])):
                filler = bytes(self.chance.choice([0, 1, 60_000, 70_000]))
                yield wire.MeasureLinkRequest(wanted_bytes=self.chance.choice([0, 9, 2**32 - 1]), filler=filler)

        async for _ in self.stub.MeasureLink(pieces(), metadata=self.who()):
            pass

    async def uploaded(self) -> None:
        await self.stub.GetUpload(wire.GetUploadRequest(round=self.number(), digest=self.junk()), metadata=self.who())

    async def run(self) -> None:
        await self.stub.GetRun(wire.GetRunRequest(protocol=self.chance.choice([PROTOCOL, 0, 2**32 - 1])))

    async def enrol(self) -> None:
        """Every one of these has something wrong with it."""
        good: dict[str, Any] = {"run_id": self.run_id, "name": "new", "tier": wire.TIER_LOW, "examples": 5}
        wrong: dict[str, Any] = self.chance.choice(
            [
                {"run_id": "another"},
                {"name": self.chance.choice(["", "-", "a b", "x" * 64, "../x", "x" * 100_000, "ä"])},
                {"tier": self.chance.choice([0, 7])},
                {"examples": self.chance.choice([0, 2**63])},
                {"token": self.chance.choice(["0" * 64, "x", "y" * 10_000])},
            ]
        )
        await self.stub.Enrol(wire.EnrolRequest(**{**good, **wrong}))

    async def verb(self) -> None:
        metadata = self.chance.choice([(), (("zowarmup-operator", "guess"),), self.who()])
        call, request = self.chance.choice(
            [
                (self.operator.Pause, wire.PauseRequest(reason="x" * 1000)),
                (self.operator.Resume, wire.ResumeRequest()),
                (self.operator.Pivot, wire.PivotRequest(reason="x")),
                (self.operator.Stop, wire.StopRequest(reason="x")),
                (self.operator.Revoke, wire.RevokeRequest(client="low-1")),
            ]
        )
        await call(request, metadata=metadata)

    async def raw(self) -> None:
        """Bytes that are no message at all, for calls of every kind."""
        method = self.chance.choice(["GetRun", "Enrol", "GetUpload", "FetchSnapshot", "FetchArtifact", "Participate"])
        method = self.chance.choice([method, "UploadDelta", "MeasureLink"])
        call = self.channel.stream_stream(f"/zowarmup.v1.CoordinatorService/{method}", bytes, bytes)
        async for _ in call(iter([self.junk(300_000)] * self.chance.choice([1, 2])), metadata=self.who()):
            pass


async def assault(calls: int, seed: int) -> Assault:
    """So many hostile calls, `AT_ONCE` at a time."""
    fleet = {**PAIR, **HONEST}
    settings = run_file(fleet)
    # A round needs all four that it draws, so one word of a member is enough to end it.
    rules = replace(settings.warmup, rounds=10**6, clients_per_round=4, minimum_clients=2, deadline_s=3.0)
    settings = replace(settings, warmup=rules)
    with tempfile.TemporaryDirectory() as folder:
        async with coordinator(Path(folder), settings, fleet=fleet) as (life, address, refusals):
            chance, lead = random.Random(seed), life.coordinator
            attacker = Attacker(address, lead, chance)
            before, first = durable(lead.state), lead.state.version
            honest = [Client(name, tier) for name, tier in HONEST.items()]
            beside = [asyncio.create_task(job) for job in (life.round_jobs.run(), tick(lead), take_part(honest, life))]
            kinds: list[Callable[[], Awaitable[None]]] = [
                attacker.participate,
                attacker.participate,
                attacker.upload,
                attacker.fetch,
                attacker.program,
                attacker.uploaded,
                attacker.measure,
                attacker.run,
                attacker.enrol,
                attacker.verb,
                attacker.raw,
            ]
            answers: Counter[str] = Counter()

            async def one() -> None:
                try:
                    await asyncio.wait_for(chance.choice(kinds)(), 30)
                    answers["OK"] += 1
                except grpc.aio.AioRpcError as error:
                    # gRPC's own words where we write on a stream that the coordinator has ended meanwhile.
                    late = "Internal error from Core" in (error.details() or "")
                    answers["ended" if late else error.code().name] += 1
                except (asyncio.CancelledError, asyncio.InvalidStateError):
                    answers["ended"] += 1

            async def one_version_more() -> None:
                last = lead.state.version
                async with asyncio.timeout(60 * PATIENCE):
                    while lead.state.version == last:
                        assert not any(task.done() for task in beside)
                        await asyncio.sleep(TICK_S)

            memory = 0
            for start in range(0, calls, AT_ONCE):
                await asyncio.gather(*(one() for _ in range(min(AT_ONCE, calls - start))))
                assert not lead.state.paused, lead.state.paused
                if start % PROGRESS == 0:
                    await one_version_more()
                if start >= calls // 5 and not memory:
                    memory = _resident_kb()
            answer = await attacker.stub.GetRun(wire.GetRunRequest(protocol=PROTOCOL))
            await attacker.channel.close(None)
            await one_version_more()
            versions = lead.state.version - first
            assert not any(task.done() for task in beside), "all parts of the coordinator live"
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            return Assault(
                calls,
                dict(answers),
                refusals,
                versions,
                {name for name, _ in contributed(life.ledger)},
                before == durable(lead.state),
                answer.run_id == lead.state.run_id,
                (_resident_kb() - memory) / 1024,
            )


async def take_part(honest: Sequence[Client], life: Life) -> None:
    """Whatever the others do meanwhile, and however long their calls take."""
    while True:
        await asyncio.gather(*(client.contribute(life) for client in honest))
        await asyncio.sleep(TICK_S / 5)


async def tick(lead: Coordinator) -> None:
    """From now on the coordinator's clock goes by turns of the loop that all are on: where the machine is busy, nobody is late
    who would not be otherwise."""
    start, turns = lead.clock(), 0
    lead.clock = lambda: start + TICK_S * turns
    while True:
        turns += 1
        await lead.handle(cmd.Tick())
        await asyncio.sleep(TICK_S)


def _resident_kb() -> int:
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
