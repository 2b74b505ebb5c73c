"""How long a coordinator is away: `python -m benchmarks.outage --rounds 300`.

A real `zowarmup-server` leads ten clients that compute nothing through zeroth-order rounds of ResNet18, 8 directions
each, and is killed with SIGKILL in the midst. Started again, it reads its ledger, replays the commits since the newest
snapshot, and opens the next round as soon as its clients are back. What is printed, as one line of JSON, is how long
that took from the start of the process, beside what the interpreter takes to import the same modules.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc

from zowarmup.common.settings.run import PROTOCOL
from zowarmup.server.core import events as ev
from zowarmup.server.store.ledger import Ledger
from zowarmup.v1 import coordinator_pb2 as wire
from zowarmup.v1 import coordinator_pb2_grpc as services

RUN = """
name = "outage"
[model]
name = "resnet18"
[warmup]
rounds = 0
[zeroth_order]
rounds = 1000000
clients_per_round = {clients}
quorum = 1.0
deadline_s = 300.0
learn_deadline = false
probes = 8
head_projections = 0
rate = 0.001
[evaluation]
data = "digits:test"
every = 1000000
"""
EXAMPLES, PROBES = 100, 8
RETRY_S = 0.05
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


class Fleet:
    """Clients that answer Work at once and open another stream when theirs ends. `opened`: when each round's first Work
    arrived, monotonic seconds."""

    def __init__(self, address: str, clients: int) -> None:
        self._address, self._clients, self._chance = address, clients, random.Random(0)
        self.opened: dict[int, float] = {}
        self.version = 0
        self.digest = b""

    async def run(self) -> None:
        await asyncio.gather(*(self._one(f"c{number}") for number in range(self._clients)))

    async def _one(self, name: str) -> None:
        member: Any = None
        while True:
            options = (("grpc.use_local_subchannel_pool", 1),)
            async with grpc.aio.insecure_channel(self._address, options=options) as channel:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    stub: Any = services.CoordinatorServiceStub(channel)
                    offer = await stub.GetRun(wire.GetRunRequest(protocol=PROTOCOL))
                    if member is None:
                        asks = wire.EnrolRequest(run_id=offer.run_id, name=name, tier=wire.TIER_LOW, examples=EXAMPLES)
                        member = await stub.Enrol(asks)
                    await self._take_part(stub, offer.run_id, member)
            await asyncio.sleep(RETRY_S)

    async def _take_part(self, stub: Any, run_id: str, member: Any) -> None:
        known = (("zowarmup-client", member.client), ("zowarmup-credential", member.credential))
        call = stub.Participate(metadata=known)
        hello = wire.Hello(
            run_id=run_id, protocol=PROTOCOL, version=self.version, digest=self.digest, examples=EXAMPLES
        )
        await call.write(wire.ParticipateRequest(hello=hello))
        while (said := await call.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
            match said.WhichOneof("message"):
                case "work":
                    self.opened.setdefault(said.work.round, time.monotonic())
                    probes = [self._chance.gauss(0, 1) for _ in range(PROBES)]
                    answer = wire.Scalars(round=said.work.round, probes=probes)
                    await call.write(wire.ParticipateRequest(scalars=answer))
                case "commit":
                    self.version, self.digest = said.commit.version, said.commit.digest


def start(folder: Path, address: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "zowarmup.server.main", str(folder / "run.toml"), "--address", address]
    with (folder / "server.log").open("a") as log:
        return subprocess.Popen(
            [*command, "--data-dir", str(folder / "server")], stdout=log, stderr=log, env=ENVIRONMENT
        )


def import_s() -> float:
    """Median seconds of an interpreter that imports what the coordinator does and leaves."""
    took = []
    for _ in range(7):
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", "import zowarmup.server.main"], check=True, env=ENVIRONMENT)
        took.append(time.monotonic() - began)
    return statistics.median(took)


async def measure(folder: Path, clients: int, rounds: int, outages: int) -> dict[str, object]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    (folder / "run.toml").write_text(RUN.format(clients=clients))
    imports_s = import_s()
    server = start(folder, address)
    fleet = Fleet(address, clients)
    running = asyncio.create_task(fleet.run())
    away: list[float] = []
    try:
        for outage in range(outages):
            while fleet.version < rounds + outage * 7:  # each time at another distance from the snapshot
                if server.poll() is not None or running.done():
                    raise SystemExit((folder / "server.log").read_text()[-3000:])
                await asyncio.sleep(0.01)
            server.kill()
            server.wait()
            last, began = max(fleet.opened), time.monotonic()
            server = start(folder, address)
            while max(fleet.opened) == last:
                await asyncio.sleep(0.002)
            away.append(fleet.opened[max(fleet.opened)] - began)
    finally:
        running.cancel()
        server.send_signal(signal.SIGKILL)
        server.wait()
    replayed, since = [], 0
    for _, event in Ledger(folder / "server" / "ledger.sqlite", read_only=True).read():
        match event:
            case ev.Committed():
                since += 1
            case ev.SnapshotTaken():
                replayed.append(since)
                since = 0
    return {
        "rounds": rounds,
        "directions_a_round": clients * PROBES,
        "imports_s": round(imports_s, 2),
        "away_s": [round(seconds, 2) for seconds in away],
        "beyond_imports_s": round(max(away) - imports_s, 2),
        "commits_between_snapshots": max(replayed, default=since),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=300, help="committed before the first kill")
    parser.add_argument("--outages", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = asyncio.run(measure(Path(folder), arguments.clients, arguments.rounds, arguments.outages))
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
