"""What HeteroFL makes of a fleet, beside FedAvg on the high tier alone: warm-ups on the digits in one process.

    python -m benchmarks.half_width --model mlp --high 1 5 --seeds 0 1 2
    python -m benchmarks.half_width --clients 3 --high 0 1 3 --alpha 1000 --seeds 0 --rounds 3 30

The same code as in the processes (training, algorithms, grid, seeds) without a network between; everyone takes part in every
round. One line a fleet, algorithm and seed: held-out accuracy at some rounds, what a round's deltas take on either tier, and
how much larger the low tier's root mean square is than the high tier's, by the last round and the largest.
"""

import argparse
import threading
from typing import Any

import numpy as np

from zowarmup.client.work.training import Trainer
from zowarmup.common.algorithms import settings_class
from zowarmup.common.algorithms.protocol import Start, Trained
from zowarmup.common.algorithms.vectors import norm
from zowarmup.common.algorithms.zowarmup import ZOWarmUpSettings
from zowarmup.common.exact.replica import Replica
from zowarmup.common.messages.values import Phase, Tier, Work
from zowarmup.common.models.construction import build
from zowarmup.common.models.description import describe, flatten
from zowarmup.common.models.export import export_program
from zowarmup.common.settings.run import ClientSpec, Model
from zowarmup.data import load
from zowarmup.data.card import card_of
from zowarmup.lab.demo.models import DemoModel
from zowarmup.server.aggregation.evaluation import Evaluator
from zowarmup.server.core.contributions import carried_out, settle_on_grid
from zowarmup.server.core.sampling import Draws

ALGORITHMS = ("fedavg", "heterofl")


def run(model: str, name: str, clients: int, high: int, alpha: float, seed: int, shown: list[int]) -> str:
    """One warm-up, as a line."""
    held_out = load("digits:test")
    warmup: Any = settings_class("warmup", name)(algorithm=name, rounds=max(shown))
    spec = ClientSpec(
        model=Model(name=model),
        card=card_of(held_out, "digits:test"),
        warmup=warmup,
        zeroth_order=ZOWarmUpSettings(rounds=0),
    )
    module = build(spec.model, held_out.shape, held_out.classes, seed)
    layout = describe(module, held_out.shape)
    weights = flatten(module, layout)
    replica = Replica(layout, settle_on_grid(weights, layout), weights, 0)
    algorithm = spec.warmup.build(layout)
    evaluator = Evaluator(export_program(module, layout, held_out.shape), layout, spec.task, held_out)
    trainers = []
    for number in range(clients):
        tier = Tier.HIGH if number < high else Tier.LOW
        data = load(f"digits:{number + 1}/{clients},alpha={alpha:g},seed={seed}")
        if tier in spec.warmup.tiers:
            trainers.append((tier, len(data), Trainer(spec, layout, data, 1, threading.Event(), tier)))
    accuracy, ratios, sizes = [], [], {}
    for number in range(1, max(shown) + 1):
        deltas, means = [], dict[Tier, list[float]]()
        for (tier, examples, trainer), drawn in zip(trainers, Draws(seed).seeds(number, len(trainers)), strict=True):
            _, content = trainer.contribute(replica, Work(number, Phase.WARM_UP, replica.version, drawn, 0.0))
            delta = np.frombuffer(content, np.float32)
            deltas.append((examples, delta))
            means.setdefault(tier, []).append(norm(delta) / delta.size**0.5)
            sizes[tier] = delta.nbytes
        start = Start(replica.weights, replica.grid)
        update = algorithm.aggregate(start, [Trained(examples, delta) for examples, delta in deltas]).update
        assert update is not None
        moved = carried_out(update, layout.size)
        replica.grid, replica.version = settle_on_grid(moved, layout), number
        replica.weights[:] = moved
        if len(means) == 2:
            ratios.append(float(np.median(means[Tier.LOW]) / np.median(means[Tier.HIGH])))
        if number in shown:
            accuracy.append(f"{100 * evaluator.evaluate(replica.weights).metrics['accuracy']:.1f}")
    told = f"; low over high {ratios[-1]:.2f}, at most {max(ratios):.2f}" if ratios else ""
    bytes_up = ", ".join(f"{size} bytes ({tier})" for tier, size in sizes.items())
    return f"{model} {high} of {clients} high, seed {seed}  {name:<8}  {' '.join(accuracy)} %; {bytes_up}{told}"


def main() -> None:
    parser = argparse.ArgumentParser(description="HeteroFL beside FedAvg on the high tier alone, on the digits.")
    parser.add_argument("--model", type=DemoModel, default=DemoModel.MLP, choices=list(DemoModel))
    parser.add_argument("--high", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--alpha", type=float, default=0.1, help="how unlike the clients' data are")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, nargs="+", default=[10, 50, 200], help="those of which it is told")
    arguments = parser.parse_args()
    model, clients, alpha = arguments.model.value, arguments.clients, arguments.alpha
    for high in arguments.high:
        for name in ALGORITHMS if high else ALGORITHMS[1:]:
            for seed in arguments.seeds:
                print(run(model, name, clients, high, alpha, seed, arguments.rounds), flush=True)


if __name__ == "__main__":
    main()
