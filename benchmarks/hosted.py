"""Many clients in one process beside ten: `python -m benchmarks.hosted --clients 1000`; with `--nodes 2`, both fleets are
on a Ray cluster of two nodes on this machine, so that what each node's part is without any clients is in both.

Starts a real coordinator and `zowarmup fleet`, once with ten clients and once with many, and lets all of them take part
in every zeroth-order round. Printed as one line of JSON: both peaks, what the many cost beyond the ten, how long a round
took from opening to commit by the coordinator's ledger, and what processor time each side spent on one.
"""

import argparse
import json
import os
import re
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from zowarmup.server.core import events as ev
from zowarmup.server.store.ledger import Ledger

FEW = 10
RUN = """
name = "hosted"
[model]
name = "mlp"
[warmup]
rounds = 0
[zeroth_order]
rounds = {rounds}
clients_per_round = {participants}
quorum = 1.0
deadline_s = 600.0
learn_deadline = false
[evaluation]
data = "digits:test"
every = 1000000
"""


def measure(clients: int, participants: int, rounds: int, engine: tuple[str, ...] = ()) -> dict[str, Any]:
    """One run, with all processes ended afterwards."""
    with tempfile.TemporaryDirectory(prefix="zowarmup-") as name, socket.socket() as probe:
        folder = Path(name)
        (folder / "run.toml").write_text(RUN.format(rounds=rounds, participants=participants))
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
        probe.close()
        with (folder / "server.log").open("w") as log:
            options = [str(folder / "run.toml"), "--data-dir", str(folder / "server"), "--address", address]
            server = subprocess.Popen(
                [sys.executable, "-m", "zowarmup.server.main", *options],
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        try:
            while "listening on" not in (folder / "server.log").read_text():
                if server.poll() is not None:
                    raise RuntimeError((folder / "server.log").read_text())
                time.sleep(0.1)
            prepared_s, before = _cpu_s(server.pid), resource.getrusage(resource.RUSAGE_CHILDREN)
            command = ["fleet", "--server", address, "--clients", str(clients), "--data", "digits"]
            fleet = subprocess.run(
                [sys.executable, "-m", "zowarmup.cli.main", *command, "--state", str(folder / "state"), *engine],
                capture_output=True,
                text=True,
                check=False,
            )
            if fleet.returncode:
                raise RuntimeError(fleet.stdout + fleet.stderr)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            found = re.search(r"(\S+) clients of \S+ with the run's own digest.*peak memory (\S+ \S+)", fleet.stdout)
            assert found, fleet.stdout
            spent_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            seconds = _round_seconds(folder / "server" / "ledger.sqlite")
            return {
                "clients": clients,
                "participants": participants,
                "rounds": len(seconds),
                "replicas_with_the_runs_digest": found[1],
                "fleet_peak": found[2],
                "fleet_peak_mb": _mb(found[2]),
                "round_s_median": round(statistics.median(seconds), 3),
                "round_s_longest": round(max(seconds), 3),
                "fleet_cpu_s_a_round": round(spent_s / rounds, 3),
                "coordinator_cpu_s_a_round": round((_cpu_s(server.pid) - prepared_s) / rounds, 3),
            }
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(timeout=60)


def _round_seconds(ledger: Path) -> list[float]:
    """From opening to commit."""
    opened, seconds = 0.0, []
    for at, event in Ledger(ledger, read_only=True).read():
        match event:
            case ev.RoundOpened():
                opened = at
            case ev.Committed():
                seconds.append(at - opened)
    return seconds


@contextmanager
def _cluster(nodes: int) -> Iterator[tuple[str, ...]]:
    """The options for a fleet on a Ray cluster of so many nodes with room for one part each, while it lasts."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=1)
        yield "--engine", "ray", "--address", cluster.address, "--workers", str(nodes)
    finally:
        cluster.shutdown()


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _mb(text: str) -> float:
    number, unit = text.split()
    return float(number) * {"kB": 1e-3, "MB": 1.0, "GB": 1e3}[unit]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--participants", type=int, default=0, help="a round (all of them)")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--nodes", type=int, default=0, help="of a Ray cluster on this machine for the many (none)")
    arguments = parser.parse_args()
    with _cluster(arguments.nodes) if arguments.nodes else nullcontext(()) as engine:
        few = measure(FEW, min(FEW, arguments.participants or FEW), arguments.rounds, engine)
        many = measure(arguments.clients, arguments.participants or arguments.clients, arguments.rounds, engine)
    beyond = many["fleet_peak_mb"] - few["fleet_peak_mb"]
    print(json.dumps({"few": few, "many": many, "beyond_mb": round(beyond, 1), "holds": beyond <= 150}))


if __name__ == "__main__":
    main()
