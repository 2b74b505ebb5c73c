"""Making a run: the model is built, exported and measured in processes of their own.

torch is needed here and never again, so the coordinator itself stays small: a child builds the model and writes what
the run keeps (layout, ONNX program, initial weights); two more measure what a round of each tier's work costs in
memory, as a device would see it. `python -m zowarmup.server.preparation` is that child.
"""

import argparse
import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.layout import Layout
from zowarmup.common.run import RunFile
from zowarmup.data import DataError, load
from zowarmup.server.runfile import read_run_file

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1


class PreparationError(Exception):
    """The run cannot be made; the sentence says why."""


@dataclass(frozen=True)
class Prepared:
    """What a run starts from. `weights`: float32 (layout.size,), not yet on a grid."""

    layout: Layout
    program: bytes
    weights: NDArray[np.float32]
    input_shape: tuple[int, ...]
    classes: int
    high_memory_bytes: int
    low_memory_bytes: int


def prepare(run_file: Path, folder: Path) -> Prepared:
    """Build, export and measure the model of a run file, leaving files in `folder`. Raises PreparationError."""
    folder.mkdir(parents=True, exist_ok=True)
    log.info("preparing the model: building, exporting and measuring it (some seconds)")
    build = _start("build", run_file, folder)
    high = _start("measure-high", run_file, folder)
    try:
        build.finish()
        low = _start("measure-low", run_file, folder)
        low_memory_bytes, high_memory_bytes = int(low.finish()), int(high.finish())
    except BaseException:
        for child in (build, high):
            child.process.kill()
        raise
    facts = json.loads((folder / "facts.json").read_text())
    return Prepared(
        layout=Layout.from_json((folder / "layout.json").read_text()),
        program=(folder / "program.onnx").read_bytes(),
        weights=np.fromfile(folder / "weights.bin", dtype="<f4").astype(np.float32, copy=False),
        input_shape=tuple(facts["input_shape"]),
        classes=facts["classes"],
        high_memory_bytes=high_memory_bytes,
        low_memory_bytes=low_memory_bytes,
    )


@dataclass(frozen=True)
class _Child:
    what: str
    process: "subprocess.Popen[str]"

    def finish(self) -> str:
        out, err = self.process.communicate()
        if self.process.returncode:
            lines = err.strip().splitlines()
            raise PreparationError(lines[-1] if lines else f"{self.what} ended with status {self.process.returncode}")
        return out


def _start(what: str, run_file: Path, folder: Path) -> _Child:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "zowarmup.server.preparation", what, str(run_file), str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    return _Child(what, process)


# In the child


def _build(run: RunFile, folder: Path) -> None:
    from zowarmup.common.models import build, describe, flatten
    from zowarmup.common.models.export import export_program

    held_out = load(run.evaluation.data)
    module = build(run.model, held_out.shape, held_out.classes, run.seed)
    layout = describe(module, held_out.shape)
    weights = flatten(module, layout)
    if run.model.weights:
        _load_weights(Path(run.model.weights), layout, weights)
    (folder / "weights.bin").write_bytes(weights.astype("<f4").tobytes())
    (folder / "layout.json").write_text(layout.to_json())
    (folder / "facts.json").write_text(json.dumps({"input_shape": held_out.shape, "classes": held_out.classes}))
    (folder / "program.onnx").write_bytes(export_program(module, layout, held_out.shape))


def _load_weights(path: Path, layout: Layout, weights: NDArray[np.float32]) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise PreparationError(f"model.weights = {str(path)!r}: cannot be read as safetensors: {error}") from error
    for name, view in layout.views(weights).items():
        if name not in tensors or tensors[name].shape != view.shape:
            found = "missing" if name not in tensors else f"of shape {tensors[name].shape}"
            raise PreparationError(f"model.weights = {str(path)!r}: {name} must have shape {view.shape} and is {found}")
        view[...] = tensors[name]


def _measure_high(run: RunFile, folder: Path) -> None:
    import grpc.aio  # noqa: F401  (a client has it loaded too)

    from zowarmup.common.models import build
    from zowarmup.common.tasks.classification import train_locally
    from zowarmup.data import Dataset

    held_out = load(run.evaluation.data)
    module = build(run.model, held_out.shape, held_out.classes, run.seed)
    batch = held_out.batch(np.arange(min(len(held_out), run.warmup.batch)))
    sample = Dataset(batch, held_out.labels[: len(batch)], held_out.classes)
    train_locally(module, sample, epochs=1, batch=run.warmup.batch, rate=1e-6, seed=0)
    print(_peak_memory_bytes() + 2 * 4 * sum(parameter.numel() for parameter in module.parameters()))


def _measure_low(run: RunFile, folder: Path) -> None:
    import grpc.aio  # noqa: F401

    from zowarmup.common.grid import Grid
    from zowarmup.common.program import Program
    from zowarmup.common.steps import Direction, perturb

    layout = Layout.from_json((folder / "layout.json").read_text())
    weights = np.fromfile(folder / "weights.bin", dtype="<f4")
    grid = Grid.choose(weights[: layout.trainable])
    weights[: layout.trainable] = grid.quantise(weights[: layout.trainable])
    shape = json.loads((folder / "facts.json").read_text())["input_shape"]
    inputs = np.zeros((run.zeroth_order.micro_batch, *shape), np.float32)
    program = Program((folder / "program.onnx").read_bytes(), layout, weights)
    perturb(weights, grid, Direction(0, 0, layout.block("all")), 1)
    program.forward(inputs)
    print(_peak_memory_bytes())


def _peak_memory_bytes() -> int:
    """This process's peak resident memory. Not getrusage: its figure starts from the parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _end_with_parent() -> None:
    """Linux: be killed when the coordinator is, however it ends; elsewhere a child outlives a killed one by seconds."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _child() -> int:
    _end_with_parent()
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("build", "measure-high", "measure-low"))
    parser.add_argument("run_file", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    job = {"build": _build, "measure-high": _measure_high, "measure-low": _measure_low}[arguments.what]
    try:
        job(read_run_file(arguments.run_file), arguments.folder)
    except (DataError, PreparationError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    except ImportError as error:
        print(f"preparing a model needs {error.name}: pip install 'zowarmup[server,torch]'", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_child())
