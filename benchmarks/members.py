"""What a fleet's size costs the coordinator that leads, apart from the network: `python -m benchmarks.members --members 10000 100000`.

The run's own state and decisions, with so many members who are all connected at front ends: memory for each, time to read their
enrolments back from the log (a start), to hear of all their streams (a takeover), to hear of one more, and to open a round of 100 of them.
One line of JSON for each number of members. docs/scaling.md computes with these.
"""

import argparse
import asyncio
import gc
import hashlib
import json
import resource
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.cluster import PARTICIPANTS
from tests.unit.server.test_coordinator import CREATED
from zowarmup.common.messages.values import Tier
from zowarmup.server.cluster.forwarding import Request, decode, encode
from zowarmup.server.cluster.sessions import Sessions
from zowarmup.server.coordinator import Coordinator
from zowarmup.server.core import commands as cmd
from zowarmup.server.core import events as ev
from zowarmup.server.core.rounds import open_round
from zowarmup.server.store.archive import replay
from zowarmup.server.store.event_log import MemoryEventLog
from zowarmup.server.store.ledger import Ledger

FRONT_ENDS = 3
PART = 5000
"""Streams in one message of a front end's."""
ROUNDS = 20
PAUSED = ev.RunPaused("so that no round opens")


def figures(members: int) -> dict[str, object]:
    """Measure with so many members."""
    run = replace(CREATED.run_file, warmup=replace(CREATED.run_file.warmup, clients_per_round=PARTICIPANTS))
    created = replace(CREATED, run_file=run)
    names = [f"device-{number:07d}" for number in range(members)]
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger.sqlite")
        end = ledger.append([created, PAUSED], 0.0, 0)
        for start in range(0, members, 10_000):
            enrolled = [
                ev.ClientEnrolled(name, Tier.HIGH, 100, hashlib.sha256(name.encode()).hexdigest())
                for name in names[start : start + 10_000]
            ]
            end = ledger.append(enrolled, 0.0, end)
        before, began = _memory(), time.monotonic()
        state, _, end = replay(ledger)
        read_s, taken = time.monotonic() - began, _memory() - before
        ledger.close()
    assert state is not None

    async def connected() -> tuple[float, float, Coordinator]:
        coordinator = Coordinator(MemoryEventLog([(0.0, created)] * end), state, end=end)
        running = asyncio.create_task(coordinator.run())
        sessions = Sessions(coordinator, 1)
        coordinator.observe(sessions)
        parts = [
            [
                encode(cmd.ConnectClient(name, start + number + 1, 100))
                for number, name in enumerate(names[start : start + PART])
            ]
            for start in range(0, members, PART)
        ]
        began = time.monotonic()
        for number, part in enumerate(parts):
            news = tuple(decode(one) for one in part)
            await sessions.forward(Request(f"front-{number % FRONT_ENDS}", 1, number < FRONT_ENDS, news))  # type: ignore[arg-type]
        heard_s = time.monotonic() - began
        began = time.monotonic()
        for number, name in enumerate(names[:200]):
            await coordinator.handle(cmd.ConnectClient(name, 2 * members + number, 100))
        one_s = (time.monotonic() - began) / 200
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return heard_s, one_s, coordinator

    heard_s, one_s, coordinator = asyncio.run(connected())
    resumed = replace(coordinator.state, paused="")
    assert resumed.eligible_count == members
    opening = []
    for number in range(ROUNDS if members <= 100_000 else 3):
        began = time.monotonic()
        assert isinstance(open_round(replace(resumed, round=number), 0.0), ev.RoundOpened)
        opening.append(time.monotonic() - began)
    return {
        "members": members,
        "bytes_a_member": round(taken / members),
        "start_s": round(read_s, 2),
        "takeover_s": round(heard_s, 2),
        "connect_ms": round(1000 * one_s, 3),
        "open_round_ms": round(1000 * statistics.median(opening), 2),
    }


def _memory() -> int:
    """Resident, bytes."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.members", description=__doc__)
    parser.add_argument("--members", type=int, nargs="+", default=[10_000, 100_000])
    for members in parser.parse_args().members:
        print(json.dumps(figures(members)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
