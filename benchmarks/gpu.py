"""On a GPU: `python -m benchmarks.gpu`, where torch sees one. A table, and benchmarks/results/gpu.json.

First the bits: directions, probes and steps on the device against NumPy's; nothing is measured where they differ. Then
what walks cost, a probe of ResNet18 at batch 256 against two plain forward passes there, and the rounds of a hundred
clients, one after the other on one device: what each measures, their steps applied, and the digest that they commit to.

`--device cpu` runs the same on the processor, with smaller numbers if asked for: to see that it works.
"""

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.machine import machine
from benchmarks.rows import Goal, Row, beside, row
from benchmarks.table import show
from zowarmup.client.work.probing import Prober, resident
from zowarmup.common.algorithms.protocol import ClientScalars, Start
from zowarmup.common.algorithms.zowarmup import ZOWarmUp, ZOWarmUpSettings
from zowarmup.common.exact import steps, tensors
from zowarmup.common.exact.directions import lanes
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import digest
from zowarmup.common.exact.replica import Replica
from zowarmup.common.exact.steps import Direction, Step
from zowarmup.common.messages.values import Phase, Work
from zowarmup.common.models.construction import build
from zowarmup.common.models.description import describe, flatten
from zowarmup.common.models.on_device import DeviceProgram
from zowarmup.common.settings.run import Model
from zowarmup.common.tasks.classification import Classification
from zowarmup.data import Dataset

SHAPE, CLASSES, PROBES = (3, 32, 32), 10, 8


class Bench:
    """ResNet18, on the processor and on the device."""

    def __init__(self, device: torch.device, model: str) -> None:
        module = build(Model(name=model), SHAPE, CLASSES, 0)
        self.layout = describe(module, SHAPE)
        weights = flatten(module, self.layout)
        self.grid = Grid.choose(weights)
        self.weights = self.grid.quantise(weights)
        self.device, self.program = device, DeviceProgram(module, self.layout, device)
        self.vector = self.program.load(self.weights)

    def settled(self, work: Callable[[], object]) -> Callable[[], None]:
        """`work`, and waiting until the device has done it."""

        def until_done() -> None:
            work()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)

        return until_done

    def check_bits(self) -> None:
        """Raises RuntimeError where the device has other bits than NumPy."""
        weights, block = self.weights.copy(), self.layout.block("all")
        self.program.load(weights)
        made = _round(self, 10)
        probe, other = Direction(7, 3, block), Direction(7, 4, block)
        for vector in (weights, self.vector):
            steps.perturb(vector, self.grid, probe, -5)
            steps.swap_direction(vector, self.grid, probe, other, 5)
            steps.apply_steps(vector, self.grid, made)
        drawn = tensors.lanes(2**64 - 1, 5, 3, 1_000_003, self.device).cpu().numpy()
        same = digest(self.vector.tensor.cpu().numpy()) == digest(weights)
        if not same or not np.array_equal(drawn, lanes(2**64 - 1, 5, 3, 1_000_003)):
            raise RuntimeError(f"{self.device} gives other bits than the processor")

    def walks(self, repeats: int) -> list[Row]:
        block, made = self.layout.block("all"), _round(self, 10)
        vector, weights = self.vector, self.weights.copy()
        here = beside(
            repeats,
            apply=lambda: steps.apply_steps(weights, self.grid, made),
            perturb=lambda: steps.perturb(weights, self.grid, Direction(1, 0, block), 1),
        )
        seeds = iter(range(1 << 30))
        there = beside(
            repeats,
            apply=self.settled(lambda: vector.apply_steps(self.grid, made)),
            perturb=self.settled(lambda: vector.perturb(self.grid, Direction(1, 0, block), 1)),
            drawn=self.settled(lambda: vector.perturb(self.grid, Direction(next(seeds), 0, block), 1)),
        )
        names = {
            "apply": "apply 10 x 8 directions",
            "perturb": "perturb along one of a group's 8 directions",
            "drawn": "the same, the group drawn anew",
        }
        return [
            row(
                f"{self.device.type}: {name}",
                "ms",
                [1e3 * s for s in there[key]],
                references=[1e3 * s for s in here["perturb" if key == "drawn" else key]],
                beside="NumPy on one core",
            )
            for key, name in names.items()
        ]

    def prober(self, examples: int, micro_batch: int, seed: int) -> Prober:
        chance = np.random.default_rng(seed)
        inputs = chance.integers(0, 256, (examples, *SHAPE), dtype=np.uint8)
        data = Dataset(inputs, np.arange(examples) % CLASSES, CLASSES, 255.0)
        spec = ZOWarmUpSettings(rounds=1, probes=PROBES, micro_batch=micro_batch)
        where = resident(str(self.device), data)
        return Prober(spec, self.replica(), self.program, Classification(data), where, threading.Event())

    def replica(self) -> Replica:
        return Replica(self.layout, self.grid, self.weights, 0)

    def probe(self, repeats: int, batch: int) -> Row:
        prober, replica = self.prober(PROBES * batch, batch, 0), self.replica()
        inputs = torch.zeros((batch, *SHAPE), device=self.device)

        def forwards() -> None:
            for _ in range(2 * PROBES):
                self.program.forward(inputs)

        seconds = beside(
            repeats,
            ours=self.settled(lambda: prober.contribute(replica, Work(1, Phase.ZEROTH_ORDER, 0, 7, 0.0))),
            forwards=self.settled(forwards),
        )
        return row(
            f"{self.device.type}: probe of ResNet18, {batch} examples",
            "ms",
            [1e3 * s / PROBES for s in seconds["ours"]],
            references=[1e3 * s / PROBES for s in seconds["forwards"]],
            beside="two plain forward passes there",
            goal=Goal("ratio", 1.10),
            note=f"{PROBES} probes a contribution, each with {batch} examples; the replica copied there included",
        )

    def fleet(self, repeats: int, clients: int, examples: int) -> Row:
        """Rounds in which every client contributes; each begins where the one before has ended."""
        probers = [self.prober(examples, 256, seed) for seed in range(clients)]
        algorithm = ZOWarmUp(ZOWarmUpSettings(rounds=1000, probes=PROBES, micro_batch=256), self.layout)
        replica, rounds = self.replica(), iter(range(1000))
        inputs = torch.zeros((min(examples // PROBES, 256), *SHAPE), device=self.device)

        def one_round() -> None:
            number = next(rounds)
            parts = []
            for client, prober in enumerate(probers):
                work = Work(number + 1, Phase.ZEROTH_ORDER, replica.version, (number << 32) + client, 0.0)
                parts.append(ClientScalars(work.seed, examples, prober.contribute(replica, work)))
            found = algorithm.aggregate(Start(replica.weights, replica.grid, number), parts)
            vector = self.program.load(replica.weights)
            vector.apply_steps(replica.grid, found.steps(replica.grid))
            replica.weights[:] = vector.tensor.cpu().numpy()
            replica.version += 1
            replica.digest()

        def forwards() -> None:
            for _ in range(2 * clients * examples // len(inputs)):
                self.program.forward(inputs)

        seconds = beside(repeats, ours=self.settled(one_round), forwards=self.settled(forwards))
        return row(
            f"{self.device.type}: a round of ResNet18, {clients} clients",
            "s",
            seconds["ours"],
            references=seconds["forwards"],
            beside="its plain forward passes there",
            note=f"{clients} clients with {examples} examples and {PROBES} probes each, one after the other on one "
            "device; their steps combined and applied, the weights copied back and their digest taken",
        )


def _round(bench: Bench, clients: int) -> list[Step]:
    chance = np.random.default_rng(0)
    block = bench.layout.block("all")
    return [Step(seed, block, tuple(chance.integers(-9, 9, PROBES).tolist())) for seed in range(clients)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="What a GPU makes of it.")
    parser.add_argument("--device", default="cuda", help="cuda")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--examples", type=int, default=512, help="of each client (512)")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gpu.json")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("torch sees no CUDA device here", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    bench = Bench(torch.device(arguments.device), arguments.model)
    bench.check_bits()
    rows = [
        *bench.walks(arguments.repeats),
        bench.probe(arguments.repeats, arguments.batch),
        bench.fleet(max(arguments.repeats - 2, 1), arguments.clients, arguments.examples),
    ]
    show(rows)
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else arguments.device
    found = {"machine": machine() | {"device": name}, "rows": [row.as_json() for row in rows]}
    arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0 if all(row.holds is not False for row in rows) else 1


if __name__ == "__main__":
    start = time.monotonic()
    code = main()
    print(f"{time.monotonic() - start:.0f} s", file=sys.stderr)
    sys.exit(code)
