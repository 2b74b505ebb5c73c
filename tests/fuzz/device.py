"""What a device makes of hostile programs and runs: a process that takes many of them, one after the other, as a client does.

    python -m tests.fuzz.device FOLDER FIRST COUNT

FOLDER holds the seeds and the canaries, files that nobody may open. Standard output is a line of JSON for each finding and,
at the end, one with the outcomes. The number under way is in FOLDER/at, for whoever finds this process dead.
"""

import asyncio
import json
import math
import os
import resource
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.algorithms import zeroth_order_settings
from tests.fuzz.hostile_programs import Attacker, Seed
from tests.fuzz.hostile_runs import CLASSES, SHAPE, answer
from tests.tasks import classification
from zowarmup.client.errors import Final
from zowarmup.client.net.connection import offered
from zowarmup.client.policy import MEGABYTE, Policy
from zowarmup.client.work import watched_program
from zowarmup.client.work.joining import choose_tier, fit_data
from zowarmup.client.work.probing import Prober
from zowarmup.client.work.watched_program import Overlong, Watch, WatchedProgram, watching
from zowarmup.common.algorithms import algorithm_of
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import Layout
from zowarmup.common.exact.replica import Replica
from zowarmup.common.messages.values import Phase, Tier
from zowarmup.common.models.graph import ProgramRefused
from zowarmup.common.models.program import Program, ProgramFailed, limit_memory
from zowarmup.common.tasks.protocol import Batch
from zowarmup.data import Dataset

POLICY = Policy(program_mb=2, snapshot_mb=16, forward_memory_mb=64, forward_s=0.5)
GRACE_S = 20.0
"""For one operator that does not end; then the process does, as a client does."""
TOOK = "took"
GIVEN_UP = 3
"""The exit code of that."""
MOST_MB = POLICY.forward_memory_mb + 100
"""What a program may take: for its passes, and for its parts in our check and in the runtime while it is loaded."""
RUN_EVERY = 3
"""One of so many numbers is a run, the others are programs."""


def seeds(folder: Path) -> tuple[Seed, ...]:
    return tuple(
        Seed(file.read_bytes(), Layout.from_json(file.with_suffix(".json").read_text()))
        for file in sorted((folder / "seeds").glob("*.onnx"))
    )


class Examples:
    """Two labelled examples of the shape that a program reads."""

    labels: NDArray[np.int64] = np.array([0, 1], np.int64)

    def __init__(self, shape: tuple[int | None, ...], tokens: bool) -> None:
        extents = [extent or 1 for extent in shape]
        values = np.linspace(0, 1, 2 * math.prod(extents), dtype=np.float32).reshape(2, *extents)
        self._inputs: NDArray[Any] = values.astype(np.int64) if tokens else values

    def __len__(self) -> int:
        return 2

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        return Batch(self._inputs[indices], self.labels[indices])


class Device:
    def __init__(self, folder: Path) -> None:
        self._replicas: dict[str, Replica] = {}
        self._dataset = Dataset(np.zeros((4, *SHAPE), np.uint8), np.arange(4), CLASSES, 255.0)
        self._attacker = Attacker(seeds(folder), canaries(folder))
        self.seeds, self.outcomes, self.base = seeds(folder), Counter[str](), 0
        self.longest_s = (0.0, 0)

    def said(self) -> str:
        grown_mb = (peak() - self.base) / MEGABYTE
        return json.dumps({"outcomes": self.outcomes, "grown_mb": grown_mb, "longest_s": self.longest_s})

    async def take(self, number: int) -> str:
        if number % RUN_EVERY == 0:
            return self._run(number)
        return await self.program(self._attacker.program(number))

    async def program(self, sent: Seed, most_s: float = POLICY.forward_s) -> str:
        """How it ends, in a word or two. Raises what nobody expects."""
        if len(sent.program) > POLICY.program_mb * MEGABYTE:
            return "too large"
        watch, limit = Watch(most_s), int(POLICY.forward_memory_mb * MEGABYTE)
        replica = self._replica(sent.layout)

        def probed() -> str:
            try:
                program = WatchedProgram(
                    lambda halt: Program(sent.program, sent.layout, replica.weights, 1, halt), watch, limit
                )
            except ProgramRefused:
                return "refused"
            except ValueError as error:
                if str(error).startswith("program: ONNX Runtime cannot load it"):
                    return "refused by the runtime"
                raise
            if program.outputs < 2:
                return "refused"  # it has not the run's classes
            prober = Prober(
                zeroth_order_settings(rounds=1),
                replica,
                program,
                classification(CLASSES),
                Examples(program.shape, program.tokens),
                threading.Event(),
            )
            prober.evaluate(np.arange(2), sent.layout.head is not None)
            return "run"

        async def give_up(sentence: str) -> None:
            self.outcomes["ended the process"] += 1
            print(self.said(), flush=True)
            os._exit(GIVEN_UP)

        try:
            async with watching(watch, give_up):
                return await asyncio.to_thread(probed)
        except Overlong:
            return "beyond its time"
        except MemoryError:
            return "beyond its memory"
        except ProgramFailed:
            return "failed"

    def _run(self, number: int) -> str:
        try:
            offer = offered(answer(number))
            POLICY.require_snapshot(4 * offer.layout.size)
            POLICY.require_program(offer.program_bytes)
            fit_data("npz:x.npz", self._dataset, offer)
            for asked in ("auto", "low", "high"):
                choose_tier(asked, None, offer, POLICY)
            spec = offer.spec
            for phase in (Phase.WARM_UP, Phase.ZEROTH_ORDER):
                algorithm_of(spec, phase, offer.layout, spec.pool_seed).counts(Tier.LOW, len(self._dataset))
            offer.layout.views(np.zeros(offer.layout.size, np.float32))
        except Final:
            return "run refused"
        return "run taken"

    def _replica(self, layout: Layout) -> Replica:
        key = layout.to_json()
        if key not in self._replicas:
            weights = np.random.default_rng(0).random(layout.size, dtype=np.float32) * 0.05 + 0.01
            grid = Grid.choose(weights[: layout.trainable])
            self._replicas[key] = Replica(layout, grid, grid.quantise(weights), 0)
        return self._replicas[key]


def canaries(folder: Path) -> tuple[str, ...]:
    """Paths to them, as a program may name them; the process is in FOLDER/here."""
    outside = folder / "canaries/secret"
    return "secret", "./secret", "../canaries/secret", str(outside), f"file://{outside}", "/proc/self/cwd/secret"


def read_bytes() -> int:
    """How many bytes this process has read from files so far, by whatever code."""
    with open("/proc/self/io") as io:
        return int(io.readline().split()[1])


def reading() -> Callable[[], int]:
    """How many bytes were read since the last call, but for what it takes to see that."""
    before = read_bytes()
    cost = read_bytes() - before
    last = read_bytes()

    def since() -> int:
        nonlocal last
        now = read_bytes()
        found, last = now - last - cost, now
        return found

    return since


async def main(folder: Path, first: int, count: int) -> int:
    limit_memory(int(POLICY.forward_memory_mb * MEGABYTE))
    watched_program.LEAST_GRACE_S = GRACE_S
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(max_workers=1))
    device, findings = Device(folder), 0
    os.chdir(folder / "here")
    for seed in device.seeds:
        assert await device.program(seed, 600.0) == "run"
    since, device.base = reading(), peak()
    at = os.open(folder / "at", os.O_WRONLY | os.O_CREAT)
    for number in range(first, first + count):
        os.pwrite(at, f"{number:20}".encode(), 0)
        begun, finding = time.monotonic(), ""
        try:
            outcome = await device.take(number)
        except Exception as error:  # noqa: BLE001  the very thing that is looked for
            outcome, finding = "another exception", repr(error)[:2000]
        device.outcomes[outcome] += 1
        device.longest_s = max(device.longest_s, (time.monotonic() - begun, number))
        read = since()
        for _ in range(2):  # what it reads, it reads each time; once, it may be Python
            if number % RUN_EVERY and abs(read) > 20 and not finding:  # digits; how much memory there is, is in a file
                await device.take(number)
                read = min(read, since(), key=abs)
        if number % RUN_EVERY and abs(read) > 20:
            finding += f" read {read} bytes"
        if (grown := peak() - device.base) > MOST_MB * MEGABYTE:
            finding += f" {TOOK} {grown / MEGABYTE:.0f} MB"
            device.base = peak()
        if finding:
            findings += 1
            print(json.dumps({"number": number, "finding": finding}), flush=True)
        if outcome == "beyond its memory":  # after which a client loads no other
            break
    print(device.said(), flush=True)
    return 1 if findings else 0


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
