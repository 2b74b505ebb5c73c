"""What the smallest devices pay: a real low-tier client process with a real coordinator.

Its start until the coordinator has acknowledged its Hello, its memory while it waits, and the peak of a round of
ResNet18 beside that of a client which trains the same model by back-propagation.
"""

import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from benchmarks import prepared
from benchmarks.fleet import Coordinator, Run, coordinator
from benchmarks.rows import Goal, Row, benchmark, row

ANSWER_S = 120.0
SETTLED_S = 1.0
# What the client's process cannot do without: the interpreter, numpy, and gRPC with its messages.
BARE = """
import asyncio, numpy, grpc.aio, google.protobuf.message, time
from pathlib import Path
print("ready", Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0], flush=True)
"""


class Client:
    """A `zowarmup-client` on loopback."""

    def __init__(self, led: Coordinator, folder: Path, tier: str, data: str) -> None:
        command = [sys.executable, "-m", "zowarmup.client.main", "--server", led.address, "--tier", tier]
        command += ["--data", data, "--state-dir", str(folder), "--name", folder.name]
        # As a device would start it.
        # An installed client has its modules compiled, and does not compile them at every start.
        absent = (prepared.FOLDER, "PYTHONDONTWRITEBYTECODE")
        surroundings = {name: value for name, value in os.environ.items() if name not in absent}
        self.started = time.monotonic()
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=surroundings)
        self._said: queue.SimpleQueue[tuple[float, str]] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._said.put((time.monotonic(), line))
        self._said.put((time.monotonic(), ""))

    def says(self, pattern: str) -> float:
        """Seconds from its start until it says this."""
        heard = ""
        while True:
            at, line = self._said.get(timeout=ANSWER_S)
            heard += line
            if re.search(pattern, line):
                return at - self.started
            if not line:
                raise RuntimeError(f"the client ended without saying {pattern}: {heard[-2000:]}")

    def memory(self, field: str) -> float:
        """A field of its status, MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        if field not in status:
            self.says("$never")  # it has ended, and this says with which words
        return int(status.split(f"{field}:")[1].split()[0]) * 1024 / 1e6


@contextmanager
def client(led: Coordinator, folder: Path, tier: str, data: str) -> Iterator[Client]:
    """Killed on leaving: what the coordinator has been told is on its disk."""
    started = Client(led, folder, tier, data)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.wait()


@benchmark
def low_tier_start(repeats: int) -> list[Row]:
    """From nothing, enrolment included, on the digits."""
    seconds: list[float] = []
    waiting_mb: list[float] = []
    bare_s: list[float] = []
    bare_mb: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # One more than ever are there: the run waits for it.
        with coordinator(folder, Run(rounds=10, participants=2)) as led:
            for turn in range(repeats + 1):
                start = time.monotonic()
                done = subprocess.run([sys.executable, "-c", BARE], check=True, stdout=subprocess.PIPE, text=True)
                bare = time.monotonic() - start
                with client(led, folder / f"pi-{turn}", "low", "digits:1/10") as device:
                    took = device.says(": joined | joined ")
                    time.sleep(SETTLED_S)
                    if turn:  # the first one has read everything from the disk
                        seconds.append(took)
                        waiting_mb.append(device.memory("VmRSS"))
                        bare_s.append(bare)
                        bare_mb.append(int(done.stdout.split()[1]) * 1024 / 1e6)
            worked_mb = _after_rounds(led, folder)
    return [
        row(
            "low-tier process, start to Hello acknowledged",
            "s",
            seconds,
            goal=Goal("value", 0.7),
            floor=min(bare_s),
            limit="Python importing numpy and gRPC",
            note="enrolment included, and the interpreter's own start",
        ),
        row(
            "low-tier process, idle memory",
            "MB",
            waiting_mb,
            goal=Goal("value", 60),
            floor=min(bare_mb),
            limit="Python importing numpy and gRPC",
            note=f"on the digits before the first round; {worked_mb:.0f} MB after one, with ONNX Runtime",
        ),
    ]


def _after_rounds(led: Coordinator, folder: Path) -> float:
    """What a client holds that has contributed and waits, MB: the other participant of the next round is gone."""
    with client(led, folder / "stays", "low", "digits:1/10") as stays:
        with client(led, folder / "leaves", "low", "digits:2/10") as leaves:
            stays.says("contributed")
            leaves.says("contributed")
        time.sleep(2 * SETTLED_S)
        return stays.memory("VmRSS")


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


@benchmark
def low_tier_memory(repeats: int) -> list[Row]:
    """A process for each round and tier, side by side: the same examples, the same batch of 64."""
    import numpy as np

    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor() as both:
        folder = Path(name)
        data = prepared.images(64)
        np.savez(folder / "local.npz", x=data.inputs, y=data.targets)
        tiers = [both.submit(_peaks, tier, folder, max(repeats - 2, 1)) for tier in ("low", "high")]
        low, high = (tier.result() for tier in tiers)
    return [
        row(
            "low-tier process, peak memory in a round of ResNet18",
            "MB",
            low,
            references=high,
            beside="a FedAvg client with torch",
            goal=Goal("ratio", 0.25),
        )
    ]


def _peaks(tier: str, folder: Path, count: int) -> list[float]:
    """The most that each of `count` clients of a tier has held by the end of its first round, MB."""
    local = f"npz:{folder / 'local.npz'}"
    run = Run(model="resnet18", data=local, warmup_rounds=int(tier == "high"), rounds=100, participants=1, probes=1)
    with coordinator(_new(folder / tier), run):
        pass  # the run is made, and each client has a copy of its own
    found = []
    for turn in range(count):
        copy = _new(folder / f"{tier}-{turn}")
        shutil.copytree(folder / tier / "server", copy / "server")
        with coordinator(copy, run) as led, client(led, copy / tier, tier, local) as device:
            device.says("contributed")
            time.sleep(SETTLED_S)  # for the commit
            found.append(device.memory("VmHWM"))
        shutil.rmtree(copy)
    return found
