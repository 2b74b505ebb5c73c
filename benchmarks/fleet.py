"""A real coordinator process, and clients that cost next to nothing: what rounds are measured with.

The clients speak the protocol over connections of their own, but compute nothing: Work is answered at once, with
scalars or a delta that were there before. Many of them share a process. They hold their answers back until they may
give them, so that a round can be timed from the moment when all of its clients are ready.
"""

import asyncio
import gc
import multiprocessing
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import grpc
import xxhash

from zowarmup.common.settings.run import PROTOCOL
from zowarmup.server.runtime import tune_allocator
from zowarmup.v1 import coordinator_pb2 as wire
from zowarmup.v1 import coordinator_pb2_grpc as services

RUN = """
name = "{name}"
[model]
name = "{model}"
[warmup]
rounds = {warmup_rounds}
clients_per_round = {participants}
quorum = 1.0
deadline_s = 600.0
learn_deadline = false
[zeroth_order]
rounds = {rounds}
clients_per_round = {participants}
quorum = 1.0
deadline_s = 600.0
learn_deadline = false
over_selection = {over_selection}
rate = {rate}
train = "all"
whitening = 0
probes = {probes}
head_projections = {projections}
[evaluation]
data = "{data}"
every = 1000000
[server]
messages_per_second = 1000.0
tls_certificate = "{certificate}"
tls_key = "{key}"
enrolment = "open"
"""
EXAMPLES = 100
OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.http2.lookahead_bytes", 1 << 20),
)
SERVICE = "/zowarmup.v1.CoordinatorService"
ENROL_AT_ONCE = 50
CHUNK_BYTES = 1 << 19
ALL = 1 << 60
"""Every round, for `Fleet.allow`."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """The run file: `warmup_rounds` of FedAvg, then `rounds` of scalars, each with `participants`."""

    name: str = "bench"
    model: str = "mlp"
    data: str = "digits:test"
    warmup_rounds: int = 0
    rounds: int = 0
    participants: int = 8
    over_selection: float = 0.0
    rate: float = 0.4
    probes: int = 8
    projections: int = 0
    certificate: str = ""
    key: str = ""


class Coordinator:
    """A `zowarmup-server` on loopback, its data in `folder`. `more`: settings of its [server]."""

    def __init__(self, folder: Path, run: Run, *, profile: Path | None = None, more: str = "") -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.address, self.folder, self._log = f"127.0.0.1:{self.port}", folder / "server", folder / "server.log"
        (folder / "run.toml").write_text(RUN.format(**vars(run)) + more, encoding="utf-8")
        profiling = ["-m", "cProfile", "-o", str(profile)] if profile else []
        options = [str(folder / "run.toml"), "--data-dir", str(self.folder), "--address", self.address]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, *profiling, "-m", "zowarmup.server.main", *options],
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger.sqlite"

    def await_saying(self, words: str, seconds: float = 240.0) -> None:
        """Until it has logged some words. Raises RuntimeError with what it logged where it does not."""
        end = time.monotonic() + seconds
        while words not in self.said():
            if time.monotonic() > end or self.process.poll() is not None:
                raise RuntimeError(f"the coordinator never said {words!r}: {self.said()[-2000:]}")
            time.sleep(0.02)

    def said(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def memory(self, name: str = "VmRSS") -> int:
        """A field of its status, bytes: VmRSS, VmHWM, RssAnon, ..."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(status.split(f"{name}:")[1].split()[0]) * 1024

    def cpu_s(self) -> float:
        return _cpu_s(self.process.pid)

    def await_version(self, version: int, seconds: float = 240.0) -> None:
        """Until its ledger says that the model is at a version. Raises RuntimeError where it does not come to that."""
        end = time.monotonic() + seconds
        ledger = sqlite3.connect(f"file:{self.ledger}?mode=ro", uri=True)
        try:
            while ledger.execute("SELECT count(*) FROM events WHERE kind = 'Committed'").fetchone()[0] < version:
                if time.monotonic() > end or self.process.poll() is not None:
                    raise RuntimeError(f"no version {version}: {self.said()[-2000:]}")
                time.sleep(0.01)
        finally:
            ledger.close()

    def model_bytes(self) -> int:
        """The size of its model's weights."""
        return max(path.stat().st_size for path in (self.folder / "blobs").iterdir() if path.is_file())

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(timeout=60)


@contextmanager
def coordinator(folder: Path, run: Run, *, profile: Path | None = None) -> Iterator[Coordinator]:
    """Serving, within the context."""
    started = Coordinator(folder, run, profile=profile)
    try:
        started.await_saying("listening on")
        yield started
    finally:
        started.stop()


@dataclass
class Tally:
    """What one process of clients has seen. `worked`: when its last Work of each round came, seconds since 1970."""

    connected: int = 0
    contributed: int = 0
    commits: int = 0
    received_bytes: int = 0
    finished: int = 0
    worked: dict[int, float] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Tally") -> None:
        for name in ("connected", "contributed", "commits", "received_bytes", "finished"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for round, at in other.worked.items():
            self.worked[round] = max(at, self.worked.get(round, 0.0))
        self.errors.update(other.errors)


class Fleet:
    """`clients` of one coordinator in `processes`, numbered from `first` on, of which `stalled` never read. Within its context they connect; they
    answer no round before it has been `allowed`."""

    def __init__(
        self,
        address: str,
        clients: int,
        run: Run,
        *,
        processes: int = 2,
        stalled: int = 0,
        delta_bytes: int = 0,
        authority: bytes = b"",
        first: int = 0,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._allowed, self._told = context.Value("q", 0, lock=False), context.Queue()
        share = clients // processes
        self._processes = [
            context.Process(
                target=_process,
                args=(
                    Clients(address, first + n * share, share, run, stalled // processes, delta_bytes, authority),
                    self._allowed,
                    self._told,
                ),
                daemon=True,
            )
            for n in range(processes)
        ]

    def __enter__(self) -> Self:
        for process in self._processes:
            process.start()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
            process.join()

    def await_connected(self) -> Tally:
        """Until all have said Hello and been welcomed. Raises RuntimeError where one could not."""
        return self._gather()

    def cpu_s(self) -> float:
        """Of all its processes."""
        return sum(_cpu_s(process.pid) for process in self._processes if process.pid)

    def allow(self, round: int) -> float:
        """Let the rounds up to this one be answered; when that was, seconds since 1970."""
        self._allowed.value = round
        return time.time()

    def await_finished(self) -> Tally:
        """What all of them saw of the run, once it is over. Raises RuntimeError where one was refused or cut off."""
        return self._gather()

    def _gather(self) -> Tally:
        total = Tally()
        for _ in self._processes:
            total.add(self._told.get(timeout=280))
        if total.errors:
            raise RuntimeError(f"clients failed: {dict(total.errors)}")
        return total


@dataclass
class Clients:
    """Many clients in one event loop. `delta_bytes`: how long the delta of a warm-up round is. `authority`: PEM of who
    signed the coordinator's certificate, empty for plain text."""

    address: str
    first: int
    count: int
    run: Run
    stalled: int
    delta_bytes: int
    authority: bytes
    totals: Tally = field(default_factory=Tally)

    async def take_part(self, allowed: Any, told: Any) -> None:
        chance = random.Random(self.first)
        self._scalars = [chance.gauss(0, 1) for _ in range(self.run.probes + self.run.projections)]
        self._allowed, self._enrolling, self._run_id = allowed, asyncio.Semaphore(ENROL_AT_ONCE), ""
        tasks = [asyncio.create_task(self._one(self.first + n, n < self.stalled)) for n in range(self.count)]
        while self.totals.connected < self.count and not self.totals.errors:
            await asyncio.sleep(0.02)
        gc.collect()
        gc.disable()  # its cost would be the fleet's, and grow with it
        told.put(self.totals)
        await asyncio.wait(tasks[self.stalled :])
        for task in tasks[: self.stalled]:
            task.cancel()
        told.put(self.totals)

    def _channel(self) -> grpc.aio.Channel:
        if not self.authority:
            return grpc.aio.insecure_channel(self.address, options=OPTIONS)
        return grpc.aio.secure_channel(self.address, grpc.ssl_channel_credentials(self.authority), options=OPTIONS)

    async def _one(self, number: int, stalls: bool) -> None:
        delta = await asyncio.to_thread(_delta, number, self.delta_bytes)
        async with self._channel() as channel:
            stub: Any = services.CoordinatorServiceStub(channel)
            while stalls and self.totals.connected < self.count - self.stalled:
                await asyncio.sleep(0.1)  # or the first round would be drawn among few others
            try:
                async with self._enrolling:
                    if not self._run_id:
                        offer = await stub.GetRun(wire.GetRunRequest(protocol=PROTOCOL), wait_for_ready=True)
                        self._run_id = offer.run_id
                    member = await self._enrol(stub, number)
                metadata = (("zowarmup-client", member.client), ("zowarmup-credential", member.credential))
                # Bytes in, as they are: parsing commits is the fleet's work, not what is measured.
                participate: Any = channel.stream_stream
                call = participate(f"{SERVICE}/Participate", wire.ParticipateRequest.SerializeToString)(
                    metadata=metadata
                )
                hello = wire.Hello(run_id=self._run_id, protocol=PROTOCOL, examples=EXAMPLES)
                await call.write(wire.ParticipateRequest(hello=hello))
                await call.read()  # Welcome
                self.totals.connected += 1
                if stalls:
                    await asyncio.Event().wait()
                await self._answer(call, Bulk(channel, metadata, delta))
            except grpc.aio.AioRpcError as error:
                self.totals.errors[f"{error.code().name}: {error.details()}"] += 1

    async def _enrol(self, stub: Any, number: int) -> Any:
        """Become a member; again and again where too many come from this machine at once."""
        tier = wire.TIER_HIGH if self.delta_bytes else wire.TIER_LOW
        wanted = wire.EnrolRequest(run_id=self._run_id, name=f"c{number}", tier=tier, examples=EXAMPLES)
        while True:
            try:
                return await stub.Enrol(wanted, wait_for_ready=True)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
            await asyncio.sleep(1.0)

    async def _answer(self, call: Any, bulk: "Bulk") -> None:
        while (data := await call.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
            self.totals.received_bytes += len(data)
            match data[0]:
                case 0x12:  # work
                    work = wire.ParticipateResponse.FromString(data).work
                    self.totals.worked[work.round] = time.time()
                    while self._allowed.value < work.round:
                        await asyncio.sleep(0.001 if self.count < 100 else 0.02)
                    if work.phase == wire.PHASE_WARM_UP:
                        self.totals.received_bytes += await bulk.download(work.version)
                        await bulk.upload(work.round)
                        ready = wire.DeltaReady(round=work.round, digest=bulk.digest, examples=EXAMPLES, loss=1.0)
                        await call.write(wire.ParticipateRequest(delta_ready=ready))
                    else:
                        await call.write(wire.ParticipateRequest(scalars=self._contribution(work.round)))
                    self.totals.contributed += 1
                case 0x1A:  # commit
                    self.totals.commits += 1
                case 0x3A:  # finished
                    self.totals.finished += 1
                    await call.done_writing()
                    return

    def _contribution(self, round: int) -> wire.Scalars:
        probes = self.run.probes
        return wire.Scalars(round=round, probes=self._scalars[:probes], projections=self._scalars[probes:])


class Bulk:
    """One client's bulk calls: messages in and out as they are."""

    def __init__(self, channel: Any, metadata: Any, delta: bytes) -> None:
        self._channel, self._metadata, self._size = channel, metadata, len(delta)
        self.digest = xxhash.xxh3_128_digest(delta)
        self._chunks = [
            wire.UploadDeltaRequest(chunk=delta[start : start + CHUNK_BYTES]).SerializeToString()
            for start in range(0, len(delta), CHUNK_BYTES)
        ]

    async def download(self, version: int) -> int:
        call = self._channel.unary_stream(f"{SERVICE}/FetchSnapshot", wire.FetchSnapshotRequest.SerializeToString)
        received = 0
        async for data in call(wire.FetchSnapshotRequest(version=version), metadata=self._metadata):
            received += len(data)
        return received

    async def upload(self, round: int) -> None:
        ask = self._channel.unary_unary(
            f"{SERVICE}/GetUpload", wire.GetUploadRequest.SerializeToString, wire.GetUploadResponse.FromString
        )
        have = await ask(wire.GetUploadRequest(round=round, digest=self.digest), metadata=self._metadata)
        if have.offset_bytes:
            raise RuntimeError(f"{have.offset_bytes} bytes of a delta are there that was never sent")
        header = wire.DeltaHeader(round=round, digest=self.digest, size_bytes=self._size)
        messages = (wire.UploadDeltaRequest(header=header).SerializeToString(), *self._chunks)
        send = self._channel.stream_unary(f"{SERVICE}/UploadDelta", None, wire.UploadDeltaResponse.FromString)
        answer = await send(iter(messages), metadata=self._metadata)
        if answer.stored_bytes != self._size:
            raise RuntimeError(f"{answer.stored_bytes} of {self._size} bytes arrived")


def _cpu_s(pid: int) -> float:
    """The processor time that a process has had so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _delta(number: int, size_bytes: int) -> bytes:
    """Small float32, each client's own."""
    import numpy as np

    return np.random.default_rng(number).normal(0, 1e-4, size_bytes // 4).astype("<f4").tobytes()


def _process(clients: Clients, allowed: Any, told: Any) -> None:
    tune_allocator()
    asyncio.run(clients.take_part(allowed, told))
