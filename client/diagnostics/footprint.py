"""The cost of a round's work on each tier: a client's own work on made-up data, in a child process.

    python -m zowarmup.client.diagnostics.footprint high|low FOLDER EXAMPLES

The coordinator starts one for each tier when it makes a run, since devices choose their tier by what this finds, and so
does `zowarmup plan`. FOLDER holds a run's spec and, from some moment on, its weights, layout and program; a tier that
trains does so as soon as there is a layout, while the program is still being exported, and then probes, as a client does
whose torch stays loaded. EXAMPLES is how many the device holds, 0 where nobody knows: then its batches are full, and its data
is not counted. The peak resident memory, and how long the parts of the work take, are left in a file of FOLDER as
`common.models.apart` says.
"""

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from zowarmup.client.errors import Broken, Final
from zowarmup.client.net.connection import Connection
from zowarmup.client.net.tls import Trust
from zowarmup.client.work import device, joining, loop  # noqa: F401  (what a client has loaded)
from zowarmup.client.work.activations import most_bytes
from zowarmup.client.work.probing import Prober
from zowarmup.client.work.watched_program import load_program
from zowarmup.common.algorithms import algorithm_of
from zowarmup.common.algorithms.directional_derivatives import project, project_each
from zowarmup.common.algorithms.protocol import LocalTraining
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import Layout
from zowarmup.common.exact.replica import Replica
from zowarmup.common.exact.steps import Direction, Step, apply_steps, perturb
from zowarmup.common.messages.values import Computation, Phase, Tier, Work
from zowarmup.common.models.apart import carry_out, end
from zowarmup.common.models.base import read_base
from zowarmup.common.plugin import ANY
from zowarmup.common.settings.run import ClientSpec
from zowarmup.common.system.memory import peak_resident
from zowarmup.data.dataset import made_up

SPEC, WEIGHTS, LAYOUT, PROGRAM, BASE = "spec.json", "weights.bin", "layout.json", "program.onnx", "base.safetensors"
# Rounds of training and batches in each, and probes: memory has then been as large as it gets.
ROUNDS, BATCHES, PROBES = 2, 3, 2
POLL_S = 0.02
TALKING_BYTES, CARRYING_BYTES = 3 << 20, 8 << 20
"""What a connection adds beside an idle one: with a run's messages on it, and at most with a model's chunks on their way, of
which a small model has few. Seen were 1 MB more with a model of 38 KB, and 11 MB with one of 45 MB."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Peak resident memory in bytes, and seconds with one thread on this machine: to train on an example (0 for a tier
    that does not), to run one forward, to move the model along a direction, and to apply a step of 8 directions to all
    of it."""

    peak_bytes: int
    train_s: float
    forward_s: float
    walk_s: float
    apply_s: float


def measure(tier: Tier, folder: Path, examples: int) -> Footprint:
    """Raises ValueError or Final where the folder holds what a client cannot work with, and ImportError where torch is
    missing."""
    spec = ClientSpec.from_json((folder / SPEC).read_text(), ANY)
    data = made_up(spec.card, examples) if examples else None
    asyncio.run(connect())
    trains = tier is Tier.HIGH or any(phase.back_propagates(tier) for phase in spec.phases)
    if trains:
        import zowarmup.client.work.training  # noqa: F401  (loads torch, for which it need not wait)
    layout = Layout.from_json(awaited(folder / LAYOUT).decode())
    weights = np.fromfile(folder / WEIGHTS, dtype="<f4")
    grid = Grid.choose(weights[: layout.trainable])
    for piece in np.array_split(weights[: layout.trainable], max(1, layout.trainable >> 16)):
        piece[:] = grid.quantise(piece)  # a second copy of the weights would be the peak
    replica = Replica(layout, grid, weights, 0)
    base = folder / BASE if (folder / BASE).exists() else None
    train_s = train(tier, spec, replica, examples, base) if trains else 0.0
    forward_s, walk_s = probe(spec, replica, awaited(folder / PROGRAM), examples, base)
    forth, back = (Step(1, layout.block("all"), (ticks,) * 8) for ticks in (1, -1))
    apply_s = timed(lambda: apply_steps(weights, grid, [forth, back])) / 2
    del data  # it was there all the time
    live = TALKING_BYTES + min(CARRYING_BYTES, weights.nbytes)
    crossing = most_bytes(layout, examples, spec.text.most_tokens)
    return Footprint(peak_resident() + live + crossing, train_s, forward_s, walk_s, apply_s)


def train(tier: Tier, spec: ClientSpec, replica: Replica, examples: int, base: Path | None = None) -> float:
    """A tier's rounds of the warm-up, each with a delta, as a device goes through them: the seconds for an example."""
    from zowarmup.client.work.training import Trainer

    algorithm = algorithm_of(spec, Phase.WARM_UP, replica.layout, spec.pool_seed)
    batch = algorithm.training.batch if algorithm.training else spec.zeroth_order.micro_batch
    count = BATCHES * batch
    count = min(count, examples) if examples else count
    trainer = Trainer(spec, replica.layout, made_up(spec.card, count), 1, threading.Event(), tier, base)
    part, began = algorithm.submodel(tier), 0.0
    for number in range(1, ROUNDS + 1):
        began, made = time.perf_counter(), None  # frees the delta before, as a device does
        # A rate that moves nothing, so that nothing diverges.
        made = trainer.train(replica, part, LocalTraining(1, batch, 1e-12), number)
    seconds = (time.perf_counter() - began) / count
    del made
    if spec.zeroth_order.computation(tier) is Computation.GRADIENT:
        trainer.project(replica, Work(ROUNDS + 1, Phase.ZEROTH_ORDER, 0, 1, 1.0))
    return seconds


def probe(
    spec: ClientSpec, replica: Replica, onnx: bytes, examples: int, base: Path | None = None
) -> tuple[float, float]:
    """Probes of slices as long as a device with so many examples has them: the seconds to run an example forward, and
    to move the model along a direction."""
    settings, layout = spec.zeroth_order, replica.layout
    sliced = settings.largest_batch(examples) if examples else settings.micro_batch
    private = spec.privacy.on
    program = load_program(onnx, replica, 1, constants=read_base(base) if base else {}, apart=private)
    data = made_up(spec.card, sliced)
    prober = Prober(settings, replica, program, spec.task, data, threading.Event(), spec.pool_seed)
    _, projections = settings.build(layout, spec.pool_seed).counts(Tier.LOW, max(1, examples))
    exact_head = projections > 0
    forward_s = walk_s = 0.0

    def forward() -> None:
        if private:  # by passes of one example each
            parts = [part.head_gradients for part in prober.by_example(exact_head)]
            if parts[0] is not None:
                project_each(parts[0], 1, layout.block("head"), projections)
        else:
            prober.evaluate(np.arange(sliced), exact_head)

    for index in range(PROBES):
        along = Direction(1, index, layout.block("all"))
        for ticks in (1, -1):
            walk_s = timed(lambda: perturb(replica.weights, replica.grid, along, ticks))  # noqa: B023
            forward_s = timed(forward) / sliced
    if private:
        return forward_s, walk_s
    if (
        program.own
    ):  # several directions are probed at once then, with a vector for each: one example a direction shows it
        probes, _ = settings.build(layout, spec.pool_seed).counts(Tier.LOW, sliced)
        few = data.select(np.arange(min(sliced, max(1, probes))))
        joint = Prober(settings, replica, program, spec.task, few, threading.Event(), spec.pool_seed)
        joint.contribute(replica, Work(PROBES, Phase.ZEROTH_ORDER, 0, 1, 1.0, done=1))
    gradient = prober.evaluate(np.arange(sliced), exact_head).head_gradient_sum
    if gradient is not None:
        project(gradient, 1, layout.block("head"), projections)
    return forward_s, walk_s


async def connect() -> None:
    """What a client's connection has loaded; there is nobody to answer."""
    try:
        async with Connection("127.0.0.1:1", Trust()) as connection:
            await connection.get_run()
    except Broken:
        pass


def awaited(file: Path) -> bytes:
    """A file's bytes, as soon as it is there. Ends the process where its parent is gone."""
    parent = os.getppid()
    while not file.exists():
        if os.getppid() != parent:
            os._exit(1)  # nobody reads what comes of it
        time.sleep(POLL_S)
    return file.read_bytes()


def timed(job: Callable[[], object]) -> float:
    """How many seconds it takes."""
    began = time.perf_counter()
    job()
    return time.perf_counter() - began


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to hear, which then ends this process
    tier, folder, examples = Tier(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    name = ClientSpec.from_json((folder / SPEC).read_text(), ANY).model.name

    def job() -> dict[str, float]:
        try:
            # In a thread, as a client computes: it has a heap of its own.
            with ThreadPoolExecutor(1) as thread:
                return asdict(thread.submit(measure, tier, folder, examples).result())
        except (ArithmeticError, Final) as error:
            raise ValueError(str(error)) from None
        except ModuleNotFoundError as error:
            raise ValueError(f"measuring a model needs {error.name}: pip install 'zowarmup[server,torch]'") from None

    return carry_out(folder / f"{tier}.json", name, job)


if __name__ == "__main__":
    end(main())
