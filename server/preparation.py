"""Making a run: the model is built, exported and measured in processes of their own.

torch is needed here and never again, so the coordinator itself stays small. One child builds the model and writes what
the run keeps (`building`); two more are clients, which measure what a round of each tier's work costs on a device
(`zowarmup.client.footprint`): only what a client does itself is what it needs, so the coordinator does not do it for it.
"""

import json
import logging
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.layout import Layout
from zowarmup.common.run import ClientSpec
from zowarmup.common.system.tether import tethered
from zowarmup.common.work import Tier

log = logging.getLogger(__name__)

SPEC, LAYOUT, PROGRAM, WEIGHTS = "spec.json", "layout.json", "program.onnx", "weights.bin"


class PreparationError(Exception):
    """The run cannot be made; the sentence says why."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """A device's peak resident memory in bytes, and seconds with one thread of this machine: to train on an example (0 for
    a tier that does not), to run one forward, to move the model along a direction, and to apply a step of 8 directions."""

    peak_bytes: int
    train_s: float
    forward_s: float
    walk_s: float
    apply_s: float


@dataclass(frozen=True)
class Prepared:
    """What a run starts from. `weights`: float32 (layout.size,), not yet on a grid. `high` and `low`: each tier's work."""

    layout: Layout
    program: bytes
    weights: NDArray[np.float32]
    high: Footprint
    low: Footprint


class Children:
    """The processes of one preparation. `end`, from any thread, kills them and lets no other start."""

    def __init__(self) -> None:
        self._lock, self._ended = threading.Lock(), False
        self._started: list[_Child] = []

    def start(self, module: str, *arguments: str) -> "_Child":
        with self._lock:
            if self._ended:
                raise PreparationError("the preparation was stopped")
            child = _start(module, *arguments)
            self._started.append(child)
        return child

    def end(self) -> None:
        with self._lock:
            self._ended = True
            for child in self._started:
                child.process.kill()


def prepare(spec: ClientSpec, seed: int, folder: Path, children: Children, examples: int = 0) -> Prepared:
    """Build, export and measure the model of a run for devices that hold so many examples (0: nobody knows how many),
    leaving files in `folder`. Raises PreparationError."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SPEC).write_text(spec.to_json())
    log.info("preparing the model: building, exporting and measuring it (some seconds)")
    try:
        building, high = (
            children.start("server.building", str(seed), str(folder)),
            children.start("client.footprint", Tier.HIGH, str(folder), str(examples)),
        )
        building.finish()
        low = children.start("client.footprint", Tier.LOW, str(folder), str(examples))
        found = [Footprint(**json.loads(child.finish())) for child in (high, low)]
    finally:
        children.end()
    return Prepared(
        layout=Layout.from_json((folder / LAYOUT).read_text()),
        program=(folder / PROGRAM).read_bytes(),
        weights=np.fromfile(folder / WEIGHTS, dtype="<f4").astype(np.float32, copy=False),
        high=found[0],
        low=found[1],
    )


@dataclass(frozen=True)
class _Child:
    what: str
    process: "subprocess.Popen[str]"

    def finish(self) -> str:
        """What it printed. Raises PreparationError with its last sentence where it failed."""
        out, err = self.process.communicate()
        if self.process.returncode:
            lines = err.strip().splitlines()
            raise PreparationError(lines[-1] if lines else f"{self.what} ended with status {self.process.returncode}")
        return out


def _start(module: str, *arguments: str) -> _Child:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = tethered(sys.executable, "-m", f"zowarmup.{module}", *arguments)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    return _Child(" ".join((module, *arguments[:1])), process)
