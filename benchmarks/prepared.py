"""ResNet18 as a coordinator prepares it, for benchmarks whose own process must not load torch.

It is made once for all benchmarks of a call of `python -m benchmarks`, in a child, in the folder that FOLDER names.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from zowarmup.common.exact.replica import Replica
    from zowarmup.common.models.program import Program
    from zowarmup.data import Dataset

FOLDER = "ZOWARMUP_BENCHMARKS"
SHAPE, CLASSES = (3, 32, 32), 10
BATCH = 32
_MAKE = f"""
import sys
from pathlib import Path
from zowarmup.common.models.construction import build
from zowarmup.common.models.description import describe, flatten
from zowarmup.common.models.export import export_program
from zowarmup.common.settings.run import Model
folder, train = Path(sys.argv[1]), sys.argv[2]
module = build(Model(name="resnet18"), {SHAPE}, {CLASSES}, 0)
layout = describe(module, {SHAPE}, train=train)
(folder / "layout.json").write_text(layout.to_json())
(folder / "program.onnx").write_bytes(export_program(module, layout, {SHAPE}))
flatten(module, layout).tofile(folder / "weights.bin")
(folder / "made").touch()
"""


def resnet18(train: str = "all") -> Path:
    """The folder with layout.json, program.onnx and weights.bin. `train`: what zeroth-order rounds move, as the settings say it."""
    folder = Path(os.environ[FOLDER]) / train
    if not (folder / "made").exists():
        folder.mkdir(exist_ok=True)
        subprocess.run([sys.executable, "-c", _MAKE, str(folder), train], check=True)
    return folder


def loaded(folder: Path) -> "tuple[Replica, Program]":
    """The replica, and the program bound to its weights; one thread."""
    from zowarmup.common.exact.grid import Grid
    from zowarmup.common.exact.layout import Layout
    from zowarmup.common.exact.replica import Replica
    from zowarmup.common.models.program import Program

    layout: Layout = Layout.from_json((folder / "layout.json").read_text())
    weights: NDArray[np.float32] = np.fromfile(folder / "weights.bin", dtype="<f4")
    grid = Grid.choose(weights[: layout.trainable])
    weights[: layout.trainable] = grid.quantise(weights[: layout.trainable])
    replica = Replica(layout, grid, weights, 0)
    return replica, Program((folder / "program.onnx").read_bytes(), layout, weights, 1)


def images(count: int) -> "Dataset":
    """Byte images of noise, as a device would hold them."""
    from zowarmup.data import Dataset

    chance = np.random.default_rng(0)
    return Dataset(chance.integers(0, 256, (count, *SHAPE), dtype=np.uint8), np.arange(count) % CLASSES, CLASSES, 255.0)
