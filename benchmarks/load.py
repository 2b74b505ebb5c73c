"""Thousands of clients on one coordinator: `python -m benchmarks.load --clients 2000 --participants 500`.

Starts a real `zowarmup-server` on loopback and, in processes of their own, clients that each have a connection and a
stream of their own but compute nothing. Some may stall: they say Hello and never read again. What is printed at the
end, as one line of JSON, is the coordinator's: its resident memory, how long its rounds took from opening to commit by
its own ledger, and whether anything was abandoned; refused or cut off clients end it with an error.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.fleet import ALL, Fleet, Run, coordinator
from zowarmup.server.core import events as ev
from zowarmup.server.store.ledger import Ledger


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
    run = Run(
        participants=arguments.participants,
        rounds=arguments.rounds,
        over_selection=arguments.over_selection,
        probes=32,
        projections=32,
    )
    with coordinator(folder, run, profile=arguments.profile) as leader:
        idle = leader.memory()
        start = time.monotonic()
        with Fleet(
            leader.address, arguments.clients, run, processes=arguments.processes, stalled=arguments.stalled
        ) as fleet:
            seen = fleet.await_connected()
            connected_s, connected, cpu_s = time.monotonic() - start, leader.memory(), leader.cpu_s()
            start = time.monotonic()
            fleet.allow(ALL)
            totals = fleet.await_finished()
            rounds_s = time.monotonic() - start
        after, peak, cpu_s = leader.memory(), leader.memory("VmHWM"), leader.cpu_s() - cpu_s
    closed, committed, abandoned = round_seconds(leader.ledger)
    # The first round was open while the fleet connected.
    result = {
        "clients": seen.connected,
        "participants": arguments.participants,
        "stalled": arguments.stalled,
        "connected_s": round(connected_s, 1),
        "resident_idle_mb": idle >> 20,
        "resident_connected_mb": connected >> 20,
        "resident_after_mb": after >> 20,
        "resident_peak_mb": peak >> 20,
        "coordinator_cpu_s": round(cpu_s, 2),
        "rounds_s": round(rounds_s, 2),
        "rounds": len(committed),
        "closed_median_s": round(statistics.median(closed[1:]), 3),
        "committed_median_s": round(statistics.median(committed[1:]), 3),
        "committed_slowest_s": round(max(committed[1:]), 3),
        "abandoned": abandoned,
        "contributed": totals.contributed,
        "commits": totals.commits,
        "received_bytes": totals.received_bytes,
        "finished": totals.finished,
    }
    print(json.dumps(result))
    return 1 if abandoned or len(committed) != arguments.rounds else 0


if __name__ == "__main__":
    sys.exit(main())
