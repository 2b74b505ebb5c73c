"""What each part of the zeroth-order phase is worth: the demo's run in one process, with parts switched on and off.

    python -m benchmarks.variants --model mlp --seeds 0 1 2
    python -m benchmarks.variants --compare precision    # the same with scalars in a byte, and in half of one
    python -m benchmarks.variants --compare rates        # at the default rate, and at others
    python -m benchmarks.variants --compare beside       # probes beside the whitened head

The same code as in the processes (algorithms, forward passes, grid, sampling) without a network between, so a variant
with the demo's settings ends in the demo's digest. One line a variant and seed: held-out accuracy at the pivot and at
the end, scalars, forwards of the local data and bytes on the wire a contribution, digest.
"""

import argparse
import threading
from dataclasses import replace
from typing import NamedTuple

from zowarmup.client.work.probing import Prober
from zowarmup.common.algorithms.fedavg import FedAvgSettings
from zowarmup.common.algorithms.protocol import ClientScalars, Start, Trained
from zowarmup.common.algorithms.zowarmup import ZOWarmUpSettings
from zowarmup.common.exact.replica import Replica
from zowarmup.common.messages.codec import scalars_to_wire
from zowarmup.common.messages.small_floats import Precision
from zowarmup.common.messages.values import Phase, Scalars, Work
from zowarmup.common.models.construction import build
from zowarmup.common.models.description import describe, flatten, load_into
from zowarmup.common.models.export import export_program
from zowarmup.common.models.program import Program
from zowarmup.common.settings.run import RunFile
from zowarmup.common.tasks.classification import Classification
from zowarmup.common.tasks.training import train_locally
from zowarmup.data import Dataset, load
from zowarmup.lab.demo.models import DemoModel
from zowarmup.lab.demo.settings import demo_run
from zowarmup.server.aggregation.evaluation import Evaluator
from zowarmup.server.core.contributions import carried_out, settle_on_grid
from zowarmup.server.core.sampling import Draws, pool_seed
from zowarmup.v1 import coordinator_pb2 as wire

HIGH, LOW = 1, 9
RATES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)


class Probed(NamedTuple):
    """Of runs that probe everything: how many rounds, and the rates that were found for slices and for the whole data."""

    rounds: int
    sliced: float
    whole: float


PROBED = {DemoModel.MLP: Probed(300, 0.8, 0.3), DemoModel.CNN: Probed(250, 0.5, 0.2)}


class Warm:
    """A run of the demo up to its pivot."""

    def __init__(self, run: RunFile) -> None:
        self.run = run
        self.data = {
            name: load(f"digits:{shard}/{HIGH + LOW},alpha=0.1,seed={run.seed}")
            for shard, name in enumerate(
                [f"high-{i + 1}" for i in range(HIGH)] + [f"low-{i + 1}" for i in range(LOW)], 1
            )
        }
        held_out = load(run.evaluation.data)
        self.task = Classification(held_out)
        module = build(run.model, held_out.shape, held_out.classes, run.seed)
        self.layout = describe(module, held_out.shape)
        weights = flatten(module, self.layout)
        trained = sorted(name for name in self.data if name.startswith("high"))
        spec = run.warmup
        assert isinstance(spec, FedAvgSettings)
        algorithm, self.grid = spec.build(self.layout), settle_on_grid(weights, self.layout)
        for number in range(1, run.warmup.rounds + 1):
            deltas = []
            for name, seed in zip(trained, Draws(run.seed).seeds(number, len(trained)), strict=True):
                load_into(module, self.layout, weights)
                data, epochs = self.data[name], spec.epochs
                train_locally(self.task, module, data, epochs=epochs, batch=spec.batch, rate=spec.rate, seed=seed)
                deltas.append((len(self.data[name]), flatten(module, self.layout) - weights))
            update = algorithm.aggregate(Start(weights, self.grid), [Trained(n, delta) for n, delta in deltas]).update
            assert update is not None
            weights = carried_out(update, self.layout.size)
            self.grid = settle_on_grid(weights, self.layout)
        load_into(module, self.layout, weights)
        self.named = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        self.held_out: Dataset = held_out
        evaluator = Evaluator(export_program(module, self.layout, held_out.shape), self.layout, self.task, held_out)
        self.accuracy = evaluator.evaluate(weights).metrics["accuracy"]

    def go_on(self, spec: ZOWarmUpSettings) -> tuple[float, str, Scalars]:
        """Final accuracy, digest and the last contribution, after the zeroth-order rounds of `spec`."""
        start, shape = self.run.warmup.rounds, self.held_out.shape
        module = build(self.run.model, shape, self.held_out.classes, self.run.seed)
        layout = describe(module, shape, True, spec.moved, spec.whitens)
        module.load_state_dict(self.named, strict=False)  # which lacks the buffer that whitens
        weights, onnx = flatten(module, layout), export_program(module, layout, shape)
        replica = Replica(layout, settle_on_grid(weights, layout), weights, start)
        program, pool = Program(onnx, layout, replica.weights), pool_seed(self.run.seed)
        algorithm, names = spec.build(layout, pool), sorted(self.data)
        probers = {
            name: Prober(spec, replica, program, self.task, self.data[name], threading.Event(), pool) for name in names
        }
        for done in range(spec.rounds):
            number = start + done + 1
            contributions = []
            for name, seed in zip(names, Draws(self.run.seed).seeds(number, len(names)), strict=True):
                work = Work(number, Phase.ZEROTH_ORDER, start + done, seed, 0.0, done)
                contributions.append(ClientScalars(seed, len(self.data[name]), probers[name].contribute(replica, work)))
            found = algorithm.aggregate(Start(replica.weights, replica.grid, done), contributions)
            if found.update is not None:
                moved = carried_out(found.update, layout.size)
                replica.replace(settle_on_grid(moved, layout), moved)
            else:
                replica.step(found.steps(replica.grid))
        evaluator = Evaluator(onnx, layout, self.task, self.held_out)
        accuracy = evaluator.evaluate(replica.weights).metrics["accuracy"]
        return accuracy, replica.digest().hex(), contributions[0].scalars


def precisions(spec: ZOWarmUpSettings, model: DemoModel) -> dict[str, ZOWarmUpSettings]:
    """The demo's settings with scalars of each precision."""
    return {precision: replace(spec, scalars=precision.value) for precision in Precision}


def parts(spec: ZOWarmUpSettings, model: DemoModel) -> dict[str, ZOWarmUpSettings]:
    """The demo's settings, the head alone without whitening, and probes of everything, without and with the exact head; the
    rates of these are those that were found for them."""
    probed = PROBED[model]
    sliced = replace(spec, train="all", whitening=0, head_projections=32, rounds=probed.rounds, rate=probed.sliced)
    whole = replace(sliced, probes=8, slices="whole", rate=probed.whole)
    return {
        "8 whole": replace(whole, head_projections=0),
        "8 whole + exact head 32": whole,
        "32 sliced": replace(sliced, head_projections=0),
        "32 sliced + exact head 32": sliced,
        "exact head 64": replace(spec, whitening=0, rounds=probed.rounds, rate=probed.sliced),
        "exact head 64, whitened": spec,
    }


def rates(spec: ZOWarmUpSettings, model: DemoModel) -> dict[str, ZOWarmUpSettings]:
    """The demo's settings at the default rate and at others."""
    return {f"rate {rate:g}": replace(spec, rate=rate) for rate in RATES}


def beside(spec: ZOWarmUpSettings, model: DemoModel) -> dict[str, ZOWarmUpSettings]:
    """The demo's settings, and probes of everything beside the whitened head, each with its own slice and fewer on all of the data."""
    sliced = replace(spec, train="all", probes=32)
    return {
        "exact head 64, whitened": spec,
        "the same and 32 sliced": sliced,
        "the same and 8 whole": replace(sliced, probes=8, slices="whole"),
    }


COMPARISONS = {"parts": parts, "precision": precisions, "rates": rates, "beside": beside}


def main() -> None:
    parser = argparse.ArgumentParser(description="What each part of the zeroth-order phase is worth, on the digits.")
    parser.add_argument("--model", type=DemoModel, default=DemoModel.MLP, choices=list(DemoModel))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--compare", choices=list(COMPARISONS), default="parts")
    parser.add_argument("--rounds", type=int, help="zeroth-order rounds; the demo's if not given")
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        warm = Warm(demo_run(seed, arguments.model, HIGH, LOW, rounds=arguments.rounds))
        pivot = warm.accuracy
        chosen = warm.run.zeroth_order
        assert isinstance(chosen, ZOWarmUpSettings)
        for name, spec in COMPARISONS[arguments.compare](chosen, arguments.model).items():
            final, hexadecimal, sent = warm.go_on(spec)
            forwards = 2 if spec.slices == "own" else 2 * spec.probes
            if not sent.probes:
                forwards = 1
            scalars, size = (
                len(sent.probes) + len(sent.projections),
                wire.ParticipateRequest(scalars=scalars_to_wire(sent)).ByteSize(),
            )
            print(
                f"{arguments.model} seed {seed} {spec.rounds} rounds  {name:<26} {scalars:3} scalars {forwards:3} forwards  "
                f"{size:3} bytes  "
                f"{100 * pivot:.1f} -> {100 * final:.1f} %  {hexadecimal[:8]}",
                flush=True,
            )


if __name__ == "__main__":
    main()
