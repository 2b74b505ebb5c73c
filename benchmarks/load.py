"""Thousands of clients on one coordinator: `python benchmarks/load.py --clients 2000 --participants 500`.

Starts a real `zowarmup-server` on loopback and, in processes of their own, clients that each have a connection and a
stream of their own but compute nothing: they answer Work with plausible scalars at once. Some may stall: they say Hello
and never read again. What is printed at the end, as one line of JSON, is the coordinator's: its resident memory, how
long its rounds took from opening to commit by its own ledger, and whether anything was refused, cut off or abandoned.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import grpc

from zowarmup.common.run import PROTOCOL
from zowarmup.server import events as ev
from zowarmup.server.ledger import Ledger
from zowarmup.v1 import coordinator_pb2 as wire
from zowarmup.v1 import coordinator_pb2_grpc as services

RUN = """
name = "load"
[model]
name = "mlp"
[warmup]
rounds = 0
[zeroth_order]
rounds = {rounds}
clients_per_round = {participants}
quorum = 1.0
deadline_s = 300.0
learn_deadline = false
over_selection = {over_selection}
[evaluation]
every = 1000000
"""
EXAMPLES = 100
PROBES, PROJECTIONS = 32, 32
OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
)
PARTICIPATE = "/zowarmup.v1.CoordinatorService/Participate"
ENROL_AT_ONCE = 50


@dataclass
class Tally:
    """What one process of clients has seen."""

    connected: int = 0
    contributed: int = 0
    commits: int = 0
    received_bytes: int = 0
    finished: int = 0


class Clients:
    """Many clients in one event loop. `begin` holds their first answers back until everyone is there."""

    def __init__(self, address: str, first: int, count: int, stalled: int, begin: Event) -> None:
        self.address, self.first, self.count, self.stalled, self.begin = address, first, count, stalled, begin
        self.tally, self.errors = Tally(), Counter[str]()
        self.chance = random.Random(first)
        self.enrolling = asyncio.Semaphore(ENROL_AT_ONCE)

    async def run(self, told: Any) -> None:
        tasks = [asyncio.create_task(self.one(self.first + n, n < self.stalled)) for n in range(self.count)]
        while self.tally.connected < self.count and not self.errors:
            await asyncio.sleep(0.05)
        told.put(("connected", self.tally.connected, dict(self.errors)))
        await asyncio.wait(tasks[self.stalled :])
        for task in tasks[: self.stalled]:
            task.cancel()
        told.put(("done", vars(self.tally), dict(self.errors)))

    async def one(self, number: int, stalls: bool) -> None:
        async with grpc.aio.insecure_channel(self.address, options=OPTIONS) as channel:
            stub: Any = services.CoordinatorServiceStub(channel)
            while stalls and self.tally.connected < self.count - self.stalled:
                await asyncio.sleep(0.1)  # or the first round would be drawn among few others
            try:
                async with self.enrolling:
                    offer = await stub.GetRun(wire.GetRunRequest(protocol=PROTOCOL), wait_for_ready=True)
                    request = wire.EnrolRequest(
                        run_id=offer.run_id, name=f"c{number}", tier=wire.TIER_LOW, examples=EXAMPLES
                    )
                    member = await stub.Enrol(request)
                metadata = (("zowarmup-client", member.client), ("zowarmup-credential", member.credential))
                # Bytes in, as they are: parsing commits is the fleet's work, not what is measured.
                participate: Any = channel.stream_stream
                call = participate(PARTICIPATE, request_serializer=wire.ParticipateRequest.SerializeToString)(
                    metadata=metadata
                )
                hello = wire.Hello(run_id=offer.run_id, protocol=PROTOCOL, examples=EXAMPLES)
                await call.write(wire.ParticipateRequest(hello=hello))
                self.tally.connected += 1
                if stalls:
                    await asyncio.Event().wait()
                await self.take_part(call)
            except grpc.aio.AioRpcError as error:
                self.errors[f"{error.code().name}: {error.details()}"] += 1

    async def take_part(self, call: Any) -> None:
        while (data := await call.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
            self.tally.received_bytes += len(data)
            match data[0]:  # the tag of the message: work, commit or finished
                case 0x12:
                    work = wire.ParticipateResponse.FromString(data).work
                    while not self.begin.is_set():
                        await asyncio.sleep(0.1)
                    await call.write(wire.ParticipateRequest(scalars=self.scalars(work.round)))
                    self.tally.contributed += 1
                case 0x1A:
                    self.tally.commits += 1
                case 0x3A:
                    self.tally.finished += 1
                    await call.done_writing()
                    return

    def scalars(self, round: int) -> wire.Scalars:
        return wire.Scalars(
            round=round,
            probes=[self.chance.gauss(0, 1) for _ in range(PROBES)],
            projections=[self.chance.gauss(0, 1) for _ in range(PROJECTIONS)],
        )


def process(address: str, first: int, count: int, stalled: int, begin: Event, told: Any) -> None:
    async def run() -> None:
        await Clients(address, first, count, stalled, begin).run(told)

    asyncio.run(run())


def resident_mb(pid: int, field: str = "VmRSS") -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) / 1024


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def round_seconds(ledger: Path) -> tuple[list[float], list[float], int]:
    """From opening to closing and from opening to commit, of every round; and how many were abandoned."""
    opened, closed, committed, abandoned = 0.0, [], [], 0
    for at, event in Ledger(ledger, read_only=True).read():
        match event:
            case ev.RoundOpened():
                opened = at
            case ev.RoundClosed():
                closed.append(at - opened)
            case ev.Committed():
                committed.append(at - opened)
            case ev.RoundAbandoned():
                abandoned += 1
    return closed, committed, abandoned


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--participants", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--stalled", type=int, default=0, help="so many clients never read")
    parser.add_argument("--over-selection", type=float, default=0.0, help="to close rounds without those that stall")
    parser.add_argument("--profile", type=Path, help="write the coordinator's cProfile there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return measure(arguments, Path(folder))


def measure(arguments: argparse.Namespace, folder: Path) -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    (folder / "run.toml").write_text(RUN.format(**vars(arguments)))
    profile = ["-m", "cProfile", "-o", str(arguments.profile)] if arguments.profile else []
    options = [str(folder / "run.toml"), "--data-dir", str(folder / "server"), "--address", address]
    log = (folder / "server.log").open("w")
    command = [sys.executable, *profile, "-m", "zowarmup.server.main", *options]
    server = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
    context = multiprocessing.get_context("spawn")
    begin, told = context.Event(), context.Queue()
    try:
        _await_port(address, server)
        idle_mb = resident_mb(server.pid)
        share = arguments.clients // arguments.processes
        started = time.monotonic()
        fleet = [
            context.Process(
                target=process,
                args=(address, n * share, share, arguments.stalled // arguments.processes, begin, told),
                daemon=True,
            )
            for n in range(arguments.processes)
        ]
        for one in fleet:
            one.start()
        errors: Counter[str] = Counter()
        connected = 0
        for _ in fleet:
            _, count, found = told.get(timeout=300)
            connected += count
            errors.update(found)
        connected_s = time.monotonic() - started
        connected_mb, cpu_before = resident_mb(server.pid), cpu_s(server.pid)
        began = time.monotonic()
        begin.set()
        totals: Counter[str] = Counter()
        for _ in fleet:
            _, tally, found = told.get(timeout=600)
            totals.update(tally)
            errors.update(found)
        rounds_s = time.monotonic() - began
        result = {
            "clients": connected,
            "participants": arguments.participants,
            "stalled": arguments.stalled,
            "connected_s": round(connected_s, 1),
            "resident_idle_mb": round(idle_mb, 1),
            "resident_connected_mb": round(connected_mb, 1),
            "resident_after_mb": round(resident_mb(server.pid), 1),
            "resident_peak_mb": round(resident_mb(server.pid, "VmHWM"), 1),
            "coordinator_cpu_s": round(cpu_s(server.pid) - cpu_before, 2),
            "rounds_s": round(rounds_s, 2),
        }
    except BaseException:
        print((folder / "server.log").read_text()[-3000:], file=sys.stderr)
        raise
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=60)
    closed, committed, abandoned = round_seconds(folder / "server" / "ledger.sqlite")
    # The first round was open while the fleet connected.
    result |= {
        "rounds": len(committed),
        "closed_median_s": round(statistics.median(closed[1:]), 3),
        "committed_median_s": round(statistics.median(committed[1:]), 3),
        "committed_slowest_s": round(max(committed[1:]), 3),
        "abandoned": abandoned,
        "errors": dict(errors),
        **totals,
    }
    print(json.dumps(result))
    return 1 if errors or abandoned or len(committed) != arguments.rounds else 0


def _await_port(address: str, server: "subprocess.Popen[bytes]") -> None:
    host, port = address.split(":")
    end = time.monotonic() + 120
    while time.monotonic() < end and server.poll() is None:
        with socket.socket() as attempt:
            if attempt.connect_ex((host, int(port))) == 0:
                time.sleep(1)
                return
        time.sleep(0.1)
    raise SystemExit("the coordinator did not start")


if __name__ == "__main__":
    sys.exit(main())
