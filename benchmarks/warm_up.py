"""Rounds of FedAvg without local work: what moving the model and aggregating its deltas costs the coordinator, in time and
memory. ResNet18, 45 MB; clients download the snapshot, upload a delta and say so."""

import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.rows import Goal, Row, benchmark, row

CLIENTS, MANY_CLIENTS = 8, 16
# What a round leaves to be done after its commit, files to be removed above all, is no part of the reference.
SETTLED_S = 0.5


@benchmark
def warm_up_round(repeats: int) -> list[Row]:
    """Rounds with 8 clients beside as many bytes on raw streams, taken in turn; then memory, with 8 clients and 16."""
    rows = []
    for clients in (CLIENTS, MANY_CLIENTS):
        rows += _measured(clients, repeats if clients == CLIENTS else 3)
    return rows


def _measured(clients: int, repeats: int) -> list[Row]:
    import numpy as np

    from benchmarks.fleet import ALL, Fleet, Run, coordinator
    from benchmarks.streams import Raw

    begun, single, together = [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder, chance = Path(name), np.random.default_rng(0)
        images = chance.integers(0, 256, (64, 3, 32, 32), dtype=np.uint8)
        np.savez(folder / "data.npz", x=images, y=np.arange(64) % 10)
        run = Run(model="resnet18", data=f"npz:{folder}/data.npz", warmup_rounds=repeats + 2, participants=clients)
        with coordinator(folder, run) as leader:
            size = leader.model_bytes()
            with Raw(size) as raw, Fleet(leader.address, clients, run, delta_bytes=size) as fleet:
                fleet.await_connected()
                leader.await_saying("version 0: accuracy")
                start = leader.memory()
                with _watched(leader.memory) as peak:
                    for turn in range(1, repeats + 2):
                        begun.append(fleet.allow(turn))
                        leader.await_version(turn)
                        if clients == CLIENTS:
                            time.sleep(SETTLED_S)
                            single.append(clients * raw.exchange(1))
                            together.append(raw.exchange(clients))
                fleet.allow(ALL)
                worked = fleet.await_finished().worked
    # The first warms caches.
    rounds = [worked[turn + 1] - at for turn, at in enumerate(begun, 1)][1:]
    memory = row(
        f"FedAvg round, {clients} clients: coordinator's memory",
        "model sizes above its start",
        [(peak[0] - start) / size],
        goal=Goal("value", 4.0),
        note=f"largest resident set in {repeats + 1} rounds, less the {start / 1e6:.0f} MB with all connected before the "
        f"first, by {size / 1e6:.1f} MB",
    )
    if clients != CLIENTS:
        return [memory]
    spans = row(
        f"FedAvg round of {size / 1e6:.0f} MB, {clients} clients",
        "s",
        rounds,
        references=single[1:],
        beside=f"{clients} x (download + upload) on a raw stream",
        goal=Goal("ratio", 1.3),
        floor=statistics.median(together),
        limit=f"{clients} raw streams at once",
        note="from the moment the clients may begin to the next round's Work at the last of them",
    )
    return [spans, memory]


@contextmanager
def _watched(memory: Callable[[], int]) -> Iterator[list[int]]:
    """The largest of what `memory` says every 5 ms."""
    peak, over = [0], threading.Event()

    def watch() -> None:
        while not over.is_set():
            peak[0] = max(peak[0], memory())
            time.sleep(0.005)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield peak
    finally:
        over.set()
        watching.join()
