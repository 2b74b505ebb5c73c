"""How a coordinator comes back: its ledger read and its model computed anew, beside one application of the same steps.

The run on disk is a real one, of ResNet18; its rounds are scripted: 10 clients with 8 scalars each, decided by the
coordinator's own core and written to its ledger, as fast as that goes. `python -m benchmarks.restart` measures 1,000
commits, which takes minutes; the benchmark of the table measures 100.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.rows import Goal, Row, benchmark, row

CLIENTS, PROBES = 10, 8
COMMITS, ALL_COMMITS = 100, 1000


@benchmark
def restart(repeats: int) -> list[Row]:
    return [measured(COMMITS, min(repeats, 7))]


def measured(commits: int, repeats: int) -> Row:
    """Both sides `repeats` times, in turn."""
    from zowarmup.server.store.archive import BLOBS, LEDGER, replay, restore
    from zowarmup.server.store.blob_files import BlobFiles
    from zowarmup.server.store.ledger import Ledger

    came_back, alone, read = [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "server"
        script = _script(Path(name), commits)
        for turn in range(repeats):
            alone.append(script.seconds if turn == 0 else _applied(script)[1])
            start = time.perf_counter()
            ledger, blobs = Ledger(folder / LEDGER), BlobFiles(folder / BLOBS)
            state, history, _ = replay(ledger)
            assert state is not None
            read.append(time.perf_counter() - start)
            replica = restore(state, history, blobs, state.version)
            came_back.append(time.perf_counter() - start)
            ledger.close()
            if replica.digest() != script.digest:
                raise RuntimeError("the replica that came back is not the model")
    return row(
        f"restart with {commits} zeroth-order commits of ResNet18",
        "s",
        came_back,
        references=alone,
        beside="one apply_steps over the same",
        goal=Goal("ratio", 1.2),
        note=f"{CLIENTS} x {PROBES} directions each; of it {sorted(read)[len(read) // 2]:.2f} s to read the ledger. A "
        "coordinator takes snapshots so often that it never replays so many of a model of this size",
    )


@dataclass
class _Script:
    """A snapshot's weights and grid and the steps after it, what they come to, and how long that took."""

    weights: Any
    grid: Any
    steps: list[Any]
    digest: bytes = b""
    seconds: float = 0.0


def _applied(script: _Script) -> tuple[bytes, float]:
    """All steps in one go: the digest, and the seconds that took."""
    from zowarmup.common.exact.layout import digest
    from zowarmup.common.exact.steps import apply_steps

    moved = script.weights.copy()
    start = time.perf_counter()
    apply_steps(moved, script.grid, script.steps)
    return digest(moved), time.perf_counter() - start


def _script(folder: Path, commits: int) -> _Script:
    """Make a run's data directory with so many commits after its snapshot."""
    import numpy as np

    from benchmarks.fleet import Run, coordinator
    from zowarmup.common.messages.values import Scalars, Tier
    from zowarmup.server.core import commands as cmd
    from zowarmup.server.core import events as ev
    from zowarmup.server.core.contributions import steps_of
    from zowarmup.server.core.decide import awaits_evaluation, decide
    from zowarmup.server.store.archive import BLOBS, LEDGER, replay
    from zowarmup.server.store.blob_files import BlobFiles
    from zowarmup.server.store.ledger import Ledger

    chance = np.random.default_rng(0)
    images = chance.integers(0, 256, (64, 3, 32, 32), dtype=np.uint8)
    np.savez(folder / "data.npz", x=images, y=np.arange(64) % 10)
    # A rate at which a thousand random steps stay within the head-room.
    run = Run(
        model="resnet18",
        data=f"npz:{folder}/data.npz",
        rounds=commits + 1,
        participants=CLIENTS,
        probes=PROBES,
        rate=1e-3,
    )
    with coordinator(folder, run):
        pass
    ledger = Ledger(folder / "server" / LEDGER)
    state, _, end = replay(ledger)
    assert state is not None
    snapshot, now = state.snapshot, time.time()
    weights = BlobFiles(folder / "server" / BLOBS).vector(snapshot.sha256).load()
    script, batch = _Script(weights, snapshot.grid, []), list[ev.Event]()

    def do(command: cmd.Command) -> None:
        nonlocal state, now
        now += 0.001
        decision = decide(state, command, now)
        state = decision.state
        batch.extend(decision.events)

    if awaits_evaluation(state):  # the coordinator was gone before it had looked at its first version
        do(cmd.RecordEvaluation(state.version, {"accuracy": 0.1}, loss=2.3, examples=64))
    for number in range(CLIENTS):
        do(cmd.Enrol(f"c{number}", Tier.LOW, 100, f"{number:064x}"))
        do(cmd.ConnectClient(f"c{number}", number + 1, 100))
    for version in range(snapshot.version + 1, snapshot.version + commits + 1):
        assert state is not None
        current = state.current
        assert current is not None
        for client in sorted(current.seeds):
            scalars = tuple(map(float, chance.normal(0, 1, PROBES).astype(np.float32)))
            do(cmd.Contribute(client, Scalars(current.number, scalars, ())))
        assert state.current is not None
        made = steps_of(state, state.current, script.grid, weights)
        script.steps += made
        found = f"{version:032x}"  # only the last one's is looked at
        if version == snapshot.version + commits:
            script.digest, script.seconds = _applied(script)
            found = script.digest.hex()
        do(cmd.CommitRound(ev.Committed(version, current.number, found, made, None, ())))
        end = ledger.append(batch, now, end)
        batch.clear()
    ledger.close()
    return script


def main() -> None:
    from benchmarks.table import show

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commits", type=int, default=ALL_COMMITS)
    parser.add_argument("--repeats", type=int, default=1)
    arguments = parser.parse_args()
    show([measured(arguments.commits, arguments.repeats)])


if __name__ == "__main__":
    main()
