"""Preparation of a run: the model is built, exported and measured in child processes.

torch is needed here and never again, so the coordinator itself stays small. One child builds the model and writes what
the run keeps (`build_model`); two more are clients, which measure what a round of each tier's work costs on a device
(`zowarmup.client.diagnostics.footprint`): only what a client does itself is what it needs, so the coordinator does not do it for it.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zowarmup.common.exact.layout import Layout
from zowarmup.common.messages.values import Tier
from zowarmup.common.models.apart import innermost, is_at, outcome_in
from zowarmup.common.settings.run import ClientSpec
from zowarmup.common.system.pdeathsig import tethered
from zowarmup.common.tasks.protocol import Task
from zowarmup.common.text import blanked

log = logging.getLogger(__name__)

SPEC, LAYOUT, PROGRAM, WEIGHTS, BASE = "spec.json", "layout.json", "program.onnx", "weights.bin", "base.safetensors"
BUILT = "built.json"
# Of what a child prints, so many lines are logged and so many kept, of so many characters.
LOGGED_LINES, KEPT_LINES, LINE = 20, 200, 200
# How often it is said that a child takes long, and where its code is.
SAY_EVERY_S = 30.0


class PreparationError(ValueError):
    """The run cannot be made; the sentence says why."""


@dataclass(frozen=True, slots=True)
class DeviceFootprint:
    """A device's peak resident memory in bytes, and seconds with one thread of this machine: to train on an example (0 for
    a tier that does not), to run one forward, to move the model along a direction, and to apply a step of 8 directions."""

    peak_bytes: int
    train_s: float
    forward_s: float
    walk_s: float
    apply_s: float


@dataclass(frozen=True)
class Prepared:
    """What a run starts from. `weights`: float32 (layout.size,), not yet on a grid. `high` and `low`: each tier's work.
    `base`: the file of the model's constants, for as long as the folder is there; None where it has none."""

    layout: Layout
    program: bytes
    weights: NDArray[np.float32]
    high: DeviceFootprint
    low: DeviceFootprint
    base: Path | None = None


UNMEASURED = DeviceFootprint(0, 0.0, 0.0, 0.0, 0.0)
Preparer = Callable[[ClientSpec, int, Path], Prepared]
"""Makes what a run of a spec and a seed starts from, and may leave files in a folder, which is there until the run has begun.
Raises PreparationError."""


class Children:
    """The processes of one preparation. `end`, from any thread, kills them and lets no other start."""

    def __init__(self) -> None:
        self._lock, self._ended = threading.Lock(), False
        self._started: list[Child] = []

    def start(self, module: str, file: Path, model: str, *arguments: str) -> "Child":
        """A process of `module` that leaves its outcome in `file` and runs the code of a model."""
        with self._lock:
            if self._ended:
                raise PreparationError("the preparation was stopped")
            child = _start(module, file, model, *arguments)
            self._started.append(child)
        return child

    def end(self) -> None:
        with self._lock:
            self._ended = True
            for child in self._started:
                child.process.kill()


def task_of(spec: ClientSpec, targets: NDArray[Any]) -> Task:
    """What the model of a run is trained for, where that is possible on data with the targets of the held-out set. Raises
    PreparationError."""
    try:
        task = spec.task
        task.check(targets)
    except ValueError as error:
        raise PreparationError(f"evaluation.data is no data for model.task = {spec.model.task!r}: {error}") from error
    return task


def prepare(spec: ClientSpec, seed: int, folder: Path, children: Children, examples: int = 0) -> Prepared:
    """Build, export and measure the model of a run for devices that hold so many examples (0: nobody knows how many),
    leaving files in `folder`. Raises PreparationError."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SPEC).write_text(spec.to_json())
    log.info("preparing the model: building, exporting and measuring it (some seconds)")
    try:
        building = building_of(spec, seed, folder, children)
        high = _measuring(Tier.HIGH, spec, folder, children, examples)
        if remark := building.finish():
            log.warning("%s", remark)
        low = _measuring(Tier.LOW, spec, folder, children, examples)
        found = [DeviceFootprint(**child.finish()) for child in (high, low)]
    finally:
        children.end()
    return prepared_in(folder, *found)


def prepared_in(folder: Path, high: DeviceFootprint = UNMEASURED, low: DeviceFootprint = UNMEASURED) -> Prepared:
    """What `build_model` has left in a folder."""
    return Prepared(
        layout=Layout.from_json((folder / LAYOUT).read_text()),
        program=(folder / PROGRAM).read_bytes(),
        weights=np.fromfile(folder / WEIGHTS, dtype="<f4").astype(np.float32, copy=False),
        high=high,
        low=low,
        base=base_in(folder),
    )


def base_in(folder: Path) -> Path | None:
    """The base that a preparation has left in a folder, None where the model has no constants."""
    return folder / BASE if (folder / BASE).exists() else None


def building_of(spec: ClientSpec, seed: int, folder: Path, children: Children) -> "Child":
    """The child that builds the model of `folder`'s spec there."""
    return children.start("server.setup.build_model", folder / BUILT, spec.model.name, str(seed), str(folder))


def _measuring(tier: Tier, spec: ClientSpec, folder: Path, children: Children, examples: int) -> "Child":
    file = folder / f"{tier}.json"
    return children.start("client.diagnostics.footprint", file, spec.model.name, tier, str(folder), str(examples))


class Child:
    """A process that leaves its outcome in `file`. What it prints is the model's own code's, and is logged as that."""

    def __init__(self, module: str, file: Path, model: str, process: "subprocess.Popen[bytes]") -> None:
        self.process, self._file, self._model = process, file, model
        self._doing = "building" if module == "server.setup.build_model" else "measuring"
        self._printed: deque[str] = deque(maxlen=KEPT_LINES)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def finish(self, say_every_s: float = SAY_EVERY_S) -> Any:
        """Its result; what is waited for is logged every `say_every_s` seconds. Raises PreparationError with the sentence where it failed."""
        began = time.monotonic()
        while True:
            try:
                status = self.process.wait(say_every_s)
                break
            except subprocess.TimeoutExpired:
                place = f", now at {at}" if (at := is_at(self._file)) else ""
                log.info("%s model %s for %.0f s%s", self._doing, self._model, time.monotonic() - began, place)
        self._reader.join(1.0)  # a process that the model's code started may hold the pipe open
        outcome = outcome_in(self._file)
        if outcome is None:
            raise PreparationError(self._death(status))
        if outcome.failure:
            raise PreparationError(outcome.failure)
        return outcome.result

    def _death(self, status: int) -> str:
        what = f"{self._doing} model {self._model} ended without a result"
        if status == -signal.SIGKILL:
            return f"{what}: it was killed, most often for want of memory (journalctl -k says so): try a smaller model"
        place = f" at {at}" if (at := innermost("\n".join(self._printed))) else ""
        how = f"by signal {-status} ({signal.strsignal(-status)})" if status < 0 else f"with exit status {status}"
        return f"{what}: its own code, or a library that it uses, ended the process {how}{place}"

    def _read(self) -> None:
        source = self.process.stdout
        assert source is not None
        # What comes with the package prints nothing of its own; each of the others' children prints the same.
        level = logging.INFO if ":" in self._model and self._doing == "building" else logging.DEBUG
        lines = 0
        with source:
            while raw := source.readline(1 << 16):
                text = blanked(raw.decode(errors="replace").rstrip())[:LINE]
                lines += 1
                self._printed.append(text)
                if lines <= LOGGED_LINES and text:
                    log.log(level, "model %s printed: %s", self._model, text)
        if lines > LOGGED_LINES:
            log.log(level, "model %s printed %d more lines", self._model, lines - LOGGED_LINES)


def _start(module: str, file: Path, model: str, *arguments: str) -> Child:
    # torch makes a folder for the code that it compiles, else among the system's temporary files, and leaves it there.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": str(file.with_name("compiled"))}
    command = tethered(sys.executable, "-m", f"zowarmup.{module}", *arguments)
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
        )
    except OSError as error:
        raise PreparationError(
            f"no process for the model {model} can be started ({error.strerror or error}): stop other programs, or raise "
            "this one's limits on processes, memory and open files"
        ) from error
    return Child(module, file, model, process)
