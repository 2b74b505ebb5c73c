"""A child of the preparation: what a round costs in memory on a device.

`python -m zowarmup.server.footprint high|low FOLDER` does what a client of that tier does in a round, on made-up data,
with what a client has loaded and nothing else, and prints the peak resident memory in bytes.
"""

import asyncio  # noqa: F401  (what a client has loaded)
import logging  # noqa: F401
import sys
from pathlib import Path

import grpc.aio  # noqa: F401
import numpy as np

from zowarmup.common import codec  # noqa: F401
from zowarmup.common.layout import Layout
from zowarmup.common.run import ClientSpec
from zowarmup.data import Dataset
from zowarmup.server.preparation import LAYOUT, PROGRAM, SPEC, WEIGHTS, end_with_parent


def measure_high(spec: ClientSpec) -> int:
    """Bytes for one step of local SGD and the flat vectors around it: the replica and its delta."""
    from zowarmup.common.models import build
    from zowarmup.common.tasks.classification import train_locally

    module = build(spec.model, spec.input_shape, spec.classes, 0)
    batch = spec.warmup.batch
    sample = Dataset(np.zeros((batch, *spec.input_shape), np.float32), np.zeros(batch, np.int64), spec.classes)
    train_locally(module, sample, epochs=1, batch=batch, rate=1e-6, seed=0)
    return peak_resident() + 2 * 4 * sum(parameter.numel() for parameter in module.parameters())


def measure_low(spec: ClientSpec, folder: Path) -> int:
    """Bytes for a probe: the replica moved and one micro-batch through the program."""
    from zowarmup.common.grid import Grid
    from zowarmup.common.program import Program
    from zowarmup.common.steps import Direction, perturb

    layout = Layout.from_json((folder / LAYOUT).read_text())
    weights = np.fromfile(folder / WEIGHTS, dtype="<f4")
    grid = Grid.choose(weights[: layout.trainable])
    weights[: layout.trainable] = grid.quantise(weights[: layout.trainable])
    program = Program((folder / PROGRAM).read_bytes(), layout, weights)
    perturb(weights, grid, Direction(0, 0, layout.block("all")), 1)
    program.forward(np.zeros((spec.zeroth_order.micro_batch, *spec.input_shape), np.float32))
    return peak_resident()


def peak_resident() -> int:
    """This process's peak resident memory, bytes. Not getrusage: its figure starts from the parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> int:
    end_with_parent()
    tier, folder = sys.argv[1], Path(sys.argv[2])
    try:
        spec = ClientSpec.from_json((folder / SPEC).read_text())
        print(measure_high(spec) if tier == "high" else measure_low(spec, folder))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    except ImportError as error:
        print(f"measuring a model needs {error.name}: pip install 'zowarmup[server,torch]'", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
