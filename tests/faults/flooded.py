"""A fleet that trains while a stranger floods its coordinator: `python -m tests.faults.flooded --connections 5000 --calls 10000`.

Real processes on loopback. It ends when the flood has said all it has to say, or after its time.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.e2e.conftest import Fleet
from zowarmup.cli.session.session import Session
from zowarmup.common.settings.run import Evaluation, Guard, Model, RunFile, Server
from zowarmup.common.system.command import CommandError, Interrupts, NoAnswer
from zowarmup.lab.processes import NO_PROXY, ONE_THREAD, Processes, free_port
from zowarmup.server.core import events as ev
from zowarmup.server.store.archive import LEDGER
from zowarmup.server.store.ledger import Ledger

CLIENTS = 3
PROBE_S = 10.0


@dataclass(frozen=True)
class Outcome:
    """What the flood met, and beside it: versions committed and rounds lost while it lasted, health's answers, the longest
    that one took, lines in the coordinator's log and tracebacks in it, and how often a client of the fleet lost its
    stream."""

    met: dict[str, float]
    versions: int
    abandoned: int
    health: dict[str, int]
    slowest_s: float
    lines: int
    tracebacks: int
    disconnected: int


def run(
    connections: int, calls: int, seconds: float, folder: Path, model_cache: Path, patience_s: float = 120.0
) -> Outcome:
    """`seconds`: how long the flood may last; `patience_s`: how long the fleet may take to begin, and to go on after it."""
    (folder / "logs").mkdir(parents=True)
    processes = Processes(folder / "logs", Interrupts(), {**ONE_THREAD, **NO_PROXY, "PYTHONUNBUFFERED": "1"})
    try:
        return _run(Fleet(folder, processes, model_cache), connections, calls, seconds, patience_s)
    finally:
        processes.stop()


def _run(fleet: Fleet, connections: int, calls: int, seconds: float, patience_s: float) -> Outcome:
    health = f"127.0.0.1:{free_port()}"
    settings = RunFile(
        name="flooded",
        model=Model(name="mlp"),
        warmup=warmup_settings(rounds=2, clients_per_round=1),
        zeroth_order=zeroth_order_settings(rounds=10**6, clients_per_round=CLIENTS, rate=0.01),
        evaluation=Evaluation(data="digits:test", every=1000),
        guard=Guard(factor=0),
        server=Server(health_address=health),
    )
    fleet.lead(settings)
    for number in range(1, CLIENTS + 1):
        fleet.join(f"c{number}", f"digits:{number}/{CLIENTS}", "high" if number == 1 else "low")
    before = _until(fleet, 10, patience_s)
    lines = len(fleet.logged("server").splitlines())
    command = [sys.executable, "-m", "tests.faults.flood", fleet.address, "--connections", str(connections)]
    command += ["--calls", str(calls), "--seconds", str(seconds)]
    answers: dict[str, int] = {}
    slowest_s = 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as flood:
        try:
            while flood.poll() is None:
                asked = time.monotonic()
                with Session(health, deadline_s=PROBE_S) as session:
                    try:
                        answer = session.health()
                    except CommandError as failure:
                        answer = str(failure)
                answers[answer] = answers.get(answer, 0) + 1
                slowest_s = max(slowest_s, time.monotonic() - asked)
                time.sleep(0.2)
            assert flood.stdout is not None
            met = json.loads(flood.stdout.read())
        finally:
            flood.kill()

    after = _until(fleet, before + 1, patience_s)
    _until(fleet, after + 1, patience_s)
    log = fleet.logged("server")
    return Outcome(
        met,
        after - before,
        sum(
            isinstance(event, ev.RoundAbandoned) for _, event in Ledger(fleet.data_dir / LEDGER, read_only=True).read()
        ),
        answers,
        round(slowest_s, 2),
        len(log.splitlines()) - lines,
        log.count("Traceback"),
        log.count(" disconnected"),
    )


def _until(fleet: Fleet, version: int, seconds: float) -> int:
    """Wait until the whole fleet is connected and a version committed: the version by then. Asked as the operator, whom a flood
    from the same address does not keep out."""
    end, found = time.monotonic() + seconds, -1
    while time.monotonic() < end:
        assert not fleet.processes.ended(), fleet.processes.ended()
        with contextlib.suppress(NoAnswer, OSError):
            credential = (fleet.data_dir / "operator.credential").read_text().strip()
            with Session(fleet.address, deadline_s=PROBE_S, credential=credential) as session:
                status = session.status()
            found = status.version
            if found >= version and sum(client.connected for client in status.clients) == CLIENTS:
                return found
        time.sleep(0.1)
    raise AssertionError(f"waited {seconds:g} s for version {version}; it is {found}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=5000)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=120.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        outcome = run(
            arguments.connections, arguments.calls, arguments.seconds, place / "flooded", place / "model-cache"
        )
    print(json.dumps(asdict(outcome)))
    whole = outcome.abandoned == outcome.disconnected == outcome.tracebacks == 0
    return 0 if whole and set(outcome.health) == {"SERVING"} and outcome.versions else 1


if __name__ == "__main__":
    sys.exit(main())
