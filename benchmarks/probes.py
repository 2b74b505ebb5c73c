"""A probe of ResNet18 against the two forward passes that it cannot do without: time and memory.

A probe is what a client does for it, all of it: the weights moved and moved back, the examples gathered, losses and the
head's gradient. The plain passes have their inputs ready.
"""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Literal

from benchmarks import prepared
from benchmarks.prepared import BATCH
from benchmarks.rows import Goal, Row, benchmark, beside, row

FORWARDS = "plain forward passes in the same runtime"
PROBES = 4


@benchmark
def probe(repeats: int) -> list[Row]:
    """A contribution of 4 probes with a batch of 32 each, per probe."""
    seconds = _seconds(repeats, PROBES, PROBES * BATCH, "own")
    return [
        row(
            "probe of ResNet18, 32 examples",
            "ms",
            [1e3 * s / PROBES for s in seconds["ours"]],
            references=[1e3 * s / PROBES for s in seconds["forwards"]],
            beside=f"two {FORWARDS}",
            goal=Goal("ratio", 1.10),
            floor=1e3 * min(seconds["forwards"]) / PROBES,
            limit="two forward passes",
        )
    ]


@benchmark
def probe_of_256(repeats: int) -> list[Row]:
    """One probe of 256 examples in micro-batches of 32."""
    seconds = _seconds(repeats, 1, 256, "whole")
    return [
        row(
            "probe of ResNet18, 256 examples in micro-batches of 32",
            "ms",
            [1e3 * s for s in seconds["ours"]],
            references=[1e3 * s for s in seconds["forwards"]],
            beside=f"sixteen {FORWARDS}",
            goal=Goal("ratio", 1.03),
            floor=1e3 * min(seconds["forwards"]),
            limit="sixteen forward passes",
        )
    ]


@benchmark
def probe_of_norms(repeats: int) -> list[Row]:
    """The same as `probe`, where the norms and the head are trained and the rest is frozen."""
    seconds = _seconds(repeats, PROBES, PROBES * BATCH, "own", "norm")
    return [
        row(
            'probe of ResNet18 with train = "norm", 32 examples',
            "ms",
            [1e3 * s / PROBES for s in seconds["ours"]],
            references=[1e3 * s / PROBES for s in seconds["forwards"]],
            beside=f"two {FORWARDS}",
            goal=Goal("ratio", 1.02),
            floor=1e3 * min(seconds["forwards"]) / PROBES,
            limit="two forward passes",
        )
    ]


@benchmark
def contribution_of_the_head(repeats: int) -> list[Row]:
    """The head alone on 256 examples, whose features are kept from the first contribution on."""
    seconds = _seconds(repeats, PROBES, 256, "own", "head")
    return [
        row(
            "contribution of ResNet18's head, 256 examples, features kept",
            "ms",
            [1e3 * s for s in seconds["ours"]],
            references=[1e3 * s for s in seconds["forwards"]],
            beside=f"sixteen {FORWARDS}",
            goal=Goal("ratio", 0.01),
        )
    ]


def _seconds(
    repeats: int, probes: int, examples: int, slices: Literal["own", "whole"], train: str = "all"
) -> dict[str, list[float]]:
    import numpy as np

    from zowarmup.client.work.probing import Prober
    from zowarmup.common.algorithms.zowarmup import ZOWarmUpSettings
    from zowarmup.common.messages.values import Phase, Work
    from zowarmup.common.tasks.classification import Classification

    replica, program = prepared.loaded(prepared.resnet18(train))
    data = prepared.images(examples)
    spec = ZOWarmUpSettings(rounds=1, probes=probes, slices=slices, train=train, micro_batch=BATCH)
    prober = Prober(spec, replica, program, Classification(data), data, threading.Event())
    if train == "head":
        prober.contribute(replica, Work(1, Phase.ZEROTH_ORDER, 0, 7, 0.0))
    inputs = data.batch(np.arange(BATCH)).inputs
    passes = 2 * examples // BATCH

    def forwards() -> None:
        for _ in range(passes):
            program.forward(inputs)

    before = replica.digest()
    seconds = beside(
        max(repeats - 2, 1),  # seven: a turn is long
        time.process_time,
        ours=lambda: prober.contribute(replica, Work(1, Phase.ZEROTH_ORDER, 0, 7, 0.0)),
        forwards=forwards,
    )
    if replica.digest() != before:
        raise RuntimeError("a probe has changed the replica")
    return seconds


@benchmark
def probe_memory(repeats: int) -> list[Row]:
    """The peak of a process over what it held before the model was loaded, of a probe and of a plain pass."""
    folder = prepared.resnet18()
    rises: dict[str, list[float]] = {"plain": [], "probe": []}
    for _ in range(max(repeats - 2, 1)):
        for what, found in rises.items():
            command = [sys.executable, "-m", "benchmarks.probes", what, str(folder)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found.append(json.loads(done.stdout) / 1e6)
    return [
        row(
            "peak memory of a probe of ResNet18, above start",
            "MB",
            rises["probe"],
            references=rises["plain"],
            beside="a plain forward pass",
            goal=Goal("ratio", 1.02),
            floor=min(rises["plain"]),
            limit="a plain forward pass",
        )
    ]


def rise(what: str, folder: Path) -> int:
    """Bytes by which this process's peak is above what it held before it loaded the model."""
    import numpy as np
    import onnxruntime  # noqa: F401  (a part of the start)

    from zowarmup.client.work.probing import Prober
    from zowarmup.common.algorithms.zowarmup import ZOWarmUpSettings
    from zowarmup.common.messages.values import Phase, Work
    from zowarmup.common.tasks.classification import Classification

    data = prepared.images(BATCH)
    start = _status("VmRSS")
    replica, program = prepared.loaded(folder)
    if what == "plain":
        for _ in range(2):
            program.forward(data.batch(np.arange(BATCH)).inputs)
    else:
        spec = ZOWarmUpSettings(rounds=1, probes=1, micro_batch=BATCH)
        prober = Prober(spec, replica, program, Classification(data), data, threading.Event())
        prober.contribute(replica, Work(1, Phase.ZEROTH_ORDER, 0, 7, 0.0))
    return _status("VmHWM") - start


def _status(field: str) -> int:
    """A field of this process's status, bytes."""
    return int(Path("/proc/self/status").read_text(encoding="utf-8").split(f"{field}:")[1].split()[0]) * 1024


if __name__ == "__main__":
    print(rise(sys.argv[1], Path(sys.argv[2])))
