"""What members that lie do to a model, by how contributions are aggregated: a warm-up on the digits in one process.

    python -m benchmarks.liars --seeds 0 1 2 --out benchmarks/results/liars.csv
    python -m benchmarks.liars --table benchmarks/results/liars.csv

Ten clients of the high tier train the demo's MLP by FedAvg on shards of the digits, for 20 rounds with everyone in each.
Training and aggregation are the processes' own code. The last clients lie, as `ATTACKS` says. A row for each aggregate,
attack, number of liars and seed: held-out accuracy after the last round, in percent.
"""

import argparse
import csv
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from zowarmup.client.work.training import Trainer
from zowarmup.common.algorithms.fedavg import FedAvgSettings
from zowarmup.common.algorithms.protocol import Start, Trained
from zowarmup.common.algorithms.zowarmup import ZOWarmUpSettings
from zowarmup.common.exact.replica import Replica
from zowarmup.common.messages.values import Phase, Tier, Work
from zowarmup.common.models.construction import build
from zowarmup.common.models.description import describe, flatten
from zowarmup.common.models.export import export_program
from zowarmup.common.settings.run import ClientSpec, Model
from zowarmup.data import Dataset, load
from zowarmup.data.card import card_of
from zowarmup.server.aggregation.evaluation import Evaluator
from zowarmup.server.core.contributions import carried_out, settle_on_grid
from zowarmup.server.core.sampling import Draws

CLIENTS = 10
Values = NDArray[np.float32]

AGGREGATES: dict[str, dict[str, object]] = {
    "mean, nothing bounded": {"clip": 0.0, "most_times_median": 0.0},
    "mean and clip": {},
    "trimmed": {"aggregate": "trimmed", "weighting": "uniform"},
    "median": {"aggregate": "median", "weighting": "uniform"},
}


@dataclass(frozen=True)
class Attack:
    """What a liar does: `sends` in the place of its delta, by a generator of its own; `claims` examples (0: what it holds);
    `flips` its labels before it trains."""

    sends: Callable[[Values, np.random.Generator], Values] = lambda delta, chance: delta
    claims: int = 0
    flips: bool = False


def _noise(delta: Values, chance: np.random.Generator) -> Values:
    """Of ten times the delta's length."""
    noise = chance.normal(size=delta.size)
    return (10 * np.linalg.norm(delta) / np.linalg.norm(noise) * noise).astype(np.float32)


ATTACKS = {
    "sign flip": Attack(lambda delta, chance: -delta),
    "scaled": Attack(lambda delta, chance: -100 * delta),
    "random": Attack(_noise),
    "label flip": Attack(flips=True),
    "count lies": Attack(lambda delta, chance: -delta, claims=(1 << 48) - 1),
}


def trained(aggregate: str, attack: Attack, liars: int, alpha: float, rounds: int, seed: int) -> float:
    """Held-out accuracy, 0 to 1, after all rounds."""
    held_out = load("digits:test")
    settings: dict[str, object] = {"rounds": rounds, **AGGREGATES[aggregate]}
    spec = ClientSpec(
        model=Model(name="mlp"),
        card=card_of(held_out, "digits:test"),
        warmup=FedAvgSettings(**settings),  # type: ignore[arg-type]
        zeroth_order=ZOWarmUpSettings(rounds=0),
    )
    module = build(spec.model, held_out.shape, held_out.classes, seed)
    layout = describe(module, held_out.shape)
    weights = flatten(module, layout)
    replica = Replica(layout, settle_on_grid(weights, layout), weights, 0)
    algorithm = spec.warmup.build(layout)
    data = [load(f"digits:{number + 1}/{CLIENTS},alpha={alpha:g},seed={seed}") for number in range(CLIENTS)]
    honest = CLIENTS - liars
    if attack.flips:
        data = [_flipped(shard) if number >= honest else shard for number, shard in enumerate(data)]
    trainers = [Trainer(spec, layout, shard, 1, threading.Event(), Tier.HIGH) for shard in data]
    chance = np.random.default_rng(seed)
    for number in range(1, rounds + 1):
        deltas = []
        for client, drawn in enumerate(Draws(seed).seeds(number, CLIENTS)):
            work = Work(number, Phase.WARM_UP, replica.version, drawn, 0.0)
            delta = np.frombuffer(trainers[client].contribute(replica, work)[1], np.float32)
            lies = client >= honest
            claimed = attack.claims if lies and attack.claims else len(data[client])
            deltas.append((claimed, attack.sends(delta, chance) if lies else delta))
        start = Start(replica.weights, replica.grid)
        update = algorithm.aggregate(start, [Trained(examples, delta) for examples, delta in deltas]).update
        assert update is not None
        moved = carried_out(update, layout.size)
        replica.grid, replica.version = settle_on_grid(moved, layout), number
        replica.weights[:] = moved
    evaluator = Evaluator(export_program(module, layout, held_out.shape), layout, spec.task, held_out)
    return evaluator.evaluate(replica.weights).metrics["accuracy"]


def _flipped(shard: Dataset) -> Dataset:
    """Class k becomes 9 - k."""
    return replace(shard, targets=shard.classes - 1 - shard.targets)


def rows(alphas: Sequence[float], rounds: int, chosen: Sequence[int]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for alpha in alphas:
        for name, attack, liars in _cases():
            for aggregate in AGGREGATES:
                for seed in chosen:
                    try:
                        accuracy = f"{100 * trained(aggregate, attack, liars, alpha, rounds, seed):.1f}"
                    except (ValueError, ArithmeticError):
                        accuracy = "lost"  # beyond float32 or any grid: the coordinator abandons such a round
                    row = {"alpha": alpha, "attack": name, "liars": liars, "aggregate": aggregate, "seed": seed}
                    found.append({**row, "accuracy": accuracy})
                    print(", ".join(map(str, found[-1].values())), file=sys.stderr, flush=True)
    return found


def _cases() -> list[tuple[str, Attack, int]]:
    honest = [("none", Attack(), 0)]
    return honest + [(name, attack, liars) for name, attack in ATTACKS.items() for liars in (1, 3)]


def table(path: Path) -> str:
    """The means over seeds, in Markdown."""
    found: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            place = found.setdefault((row["alpha"], row["attack"], row["liars"]), {})
            accuracy = float("nan") if row["accuracy"] == "lost" else float(row["accuracy"])
            place.setdefault(row["aggregate"], []).append(accuracy)
    lines = ["| alpha | attack | liars of 10 | " + " | ".join(AGGREGATES) + " |", "|---" * (3 + len(AGGREGATES)) + "|"]
    for case, columns in found.items():
        cells = [f"{mean(columns[name]):.1f}".replace("nan", "lost") for name in AGGREGATES]
        lines.append(f"| {' | '.join([*case, *cells])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Members that lie, by how contributions are aggregated, on the digits."
    )
    parser.add_argument("--alpha", type=float, nargs="+", default=[1.0], help="how unlike the clients' data are")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help="the rows, as CSV; otherwise on standard output")
    parser.add_argument("--table", type=Path, metavar="CSV", help="print the table of such a file instead")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(arguments.table))
        return
    found = rows(arguments.alpha, arguments.rounds, arguments.seeds)
    with arguments.out.open("w", newline="") if arguments.out else sys.stdout as file:
        writer = csv.DictWriter(file, list(found[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)


if __name__ == "__main__":
    main()
