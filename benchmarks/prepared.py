"""Models as a coordinator prepares them, for benchmarks whose own process must not load torch: ResNet18, and an encoder of texts with adapters.

Each is made once for all benchmarks of a call of `python -m benchmarks`, in a child, in the folder that FOLDER names.
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
TOKENS, VOCABULARY = 64, 30522
ADAPTERS = "lora:r=8,modules=q,v"
MINILM = {
    "model_type": "bert",
    "vocab_size": VOCABULARY,
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "max_position_embeddings": 512,
}
"""The config.json of all-MiniLM-L6-v2."""
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
_MAKE_MINILM = f"""
import json
import sys
from pathlib import Path
from zowarmup.common.lora import Lora
from zowarmup.common.models.base import write_base
from zowarmup.common.models.construction import build
from zowarmup.common.models.description import constants_of, describe, flatten
from zowarmup.common.models.export import export_program
from zowarmup.common.settings.architecture import Architecture
from zowarmup.common.settings.language import Language
from zowarmup.common.settings.run import Model
folder = Path(sys.argv[1])
language = Language(architecture=Architecture.from_config(json.dumps({MINILM})), lora=Lora.of({ADAPTERS!r}))
module = build(Model(name="hf:minilm"), ({TOKENS},), 2, 0, language=language)
layout = describe(module, ({TOKENS},), train={ADAPTERS!r}, pretrained=True)
(folder / "layout.json").write_text(layout.to_json())
(folder / "program.onnx").write_bytes(export_program(module, layout, ({TOKENS},)))
flatten(module, layout).tofile(folder / "weights.bin")
write_base(folder / "base.safetensors", {{name: tensor.detach().numpy() for name, tensor in constants_of(module).items()}})
(folder / "made").touch()
"""


def resnet18(train: str = "all") -> Path:
    """The folder with layout.json, program.onnx and weights.bin. `train`: what zeroth-order rounds move, as the settings say it."""
    return _made(train, _MAKE, train)


def minilm() -> Path:
    """The same of the architecture of all-MiniLM-L6-v2 at random weights, with ADAPTERS and a classifier of two classes; and
    base.safetensors."""
    return _made("minilm", _MAKE_MINILM)


def _made(name: str, code: str, *arguments: str) -> Path:
    folder = Path(os.environ[FOLDER]) / name
    if not (folder / "made").exists():
        folder.mkdir(exist_ok=True)
        subprocess.run([sys.executable, "-c", code, str(folder), *arguments], check=True)
    return folder


def loaded(folder: Path) -> "tuple[Replica, Program]":
    """The replica, and the program bound to its weights; one thread."""
    from zowarmup.common.exact.grid import Grid
    from zowarmup.common.exact.layout import Layout
    from zowarmup.common.exact.replica import Replica
    from zowarmup.common.models.base import read_base
    from zowarmup.common.models.program import Program

    base = folder / "base.safetensors"
    constants = read_base(base) if base.exists() else None
    layout: Layout = Layout.from_json((folder / "layout.json").read_text())
    weights: NDArray[np.float32] = np.fromfile(folder / "weights.bin", dtype="<f4")
    grid = Grid.choose(weights[: layout.trainable])
    weights[: layout.trainable] = grid.quantise(weights[: layout.trainable])
    replica = Replica(layout, grid, weights, 0)
    return replica, Program((folder / "program.onnx").read_bytes(), layout, weights, 1, constants=constants)


def images(count: int) -> "Dataset":
    """Byte images of noise, as a device would hold them."""
    from zowarmup.data import Dataset

    chance = np.random.default_rng(0)
    return Dataset(chance.integers(0, 256, (count, *SHAPE), dtype=np.uint8), np.arange(count) % CLASSES, CLASSES, 255.0)
