"""What it costs that a pass has one example, under differential privacy, beside passes of micro-batches.

    python -m benchmarks.privacy.passes

A line for each model: of one pass over a device's examples with the head's gradient, in microseconds of one core an example, by micro-batches,
by one example a pass, and by that with the memory of a pass given back as it ends, which is what a device does. digits: the MLP, 143 examples. MiniLM:
its architecture at random weights with adapters (time does not depend on weights), 64 texts as long as those of SST-2.
"""

import os
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import prepared
from benchmarks.adapters import texts
from zowarmup.client.work.probing import Prober
from zowarmup.common.algorithms.zowarmup import ZOWarmUpSettings
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import Layout
from zowarmup.common.exact.replica import Replica
from zowarmup.common.models.base import Constant, read_base
from zowarmup.common.models.construction import build
from zowarmup.common.models.description import describe, flatten
from zowarmup.common.models.export import export_program
from zowarmup.common.models.program import Program
from zowarmup.common.settings.run import Model
from zowarmup.common.tasks.classification import Classification
from zowarmup.data import Dataset, load

REPEATS = 7


def timed(name: str, onnx: bytes, replica: Replica, data: Dataset, constants: dict[str, Constant]) -> None:
    """Print a model's line."""
    spec = ZOWarmUpSettings(rounds=1, slices="whole", whitening=0)
    every, found = np.arange(len(data)), dict[str, float]()
    for apart in (False, True):
        program = Program(onnx, replica.layout, replica.weights, 1, constants=constants, apart=apart)
        prober = Prober(spec, replica, program, Classification(data), data, threading.Event())
        if not apart:
            found["batches"] = best(partial(prober.evaluate, every, True)) / len(data)
        found["given back" if apart else "alone"] = best(partial(consumed, prober)) / len(data)
    print(name, *(f"{way} {1e6 * value:.0f}" for way, value in found.items()), flush=True)


def consumed(prober: Prober) -> None:
    """A pass of each example alone."""
    for _ in prober.by_example(True):
        pass


def best(job: Callable[[], object]) -> float:
    """The least of REPEATS times, seconds of the processor."""
    seconds = []
    for _ in range(REPEATS):
        began = time.process_time()
        job()
        seconds.append(time.process_time() - began)
    return min(seconds)


def main() -> None:
    digits = load("digits:1/10")
    module = build(Model(name="mlp"), (1, 8, 8), 10, 0)
    layout = describe(module, (1, 8, 8))
    weights = flatten(module, layout)
    grid = Grid.choose(weights)
    replica = Replica(layout, grid, grid.quantise(weights), 0)
    timed("digits", export_program(module, layout, (1, 8, 8)), replica, digits, {})
    with tempfile.TemporaryDirectory() as folder:
        os.environ[prepared.FOLDER] = folder
        made = prepared.minilm()
        layout = Layout.from_json((made / "layout.json").read_text())
        weights = np.fromfile(made / "weights.bin", dtype="<f4")
        grid = Grid.choose(weights[: layout.trainable])
        weights[: layout.trainable] = grid.quantise(weights[: layout.trainable])
        constants = dict(read_base(Path(made / "base.safetensors")))
        replica = Replica(layout, grid, weights, 0)
        timed("MiniLM", (made / "program.onnx").read_bytes(), replica, texts(64), constants)


if __name__ == "__main__":
    main()
