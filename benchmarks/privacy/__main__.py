"""Accuracy against epsilon, and what an attacker makes of the scalars: runs of a fleet in this process, each attacked afterwards.

    python -m benchmarks.privacy digits --seeds 0 1 2 --out FILE
    python -m benchmarks.privacy sst2 --model ~/models/minilm --data ~/data/sst2 --features FEATURES.npz --seeds 0 1 2 --out FILE

digits: the MLP at random weights, ten low-tier clients, Dirichlet 0.1, 150 rounds of all. sst2: the exact head on what MiniLM makes of 6,920
sentences in each of its layers, twenty low-tier clients, Dirichlet 0.1, ROUNDS rounds of all. MiniLM does not move, so it is run once,
before all runs, and its features, which are kept in FEATURES.npz, are the runs' data: a device computes the same of its sentences, once a run. With
`--validate` it is held against dev.tsv and not against test.tsv. Rate and clip were chosen on dev.tsv, by the computation in docs/method.md.

Nothing has been trained before the first private round. A row for each mode, epsilon (delta 1e-5) and seed: held-out accuracy after the last
round, and the advantage of the informed attacker (`attack`); the blind one's is in a file beside it. "off" has the run's defaults; "plain" is
off, too, with the settings that the private runs have, so what is lost without any noise. "aggregate" is with shared directions, and so are "shared_off" and
"shared_plain".
"""

import argparse
import csv
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import zowarmup as zw
from benchmarks.paper.sst2_brackets import features, module
from benchmarks.privacy.attack import attacked, names_of
from zowarmup.common.algorithms.probe_plan import DECAY
from zowarmup.common.settings.text import Text
from zowarmup.data import load
from zowarmup.data.tokens import tokenised
from zowarmup.server.setup.language_directory import read_directory

FIELDS = ("task", "mode", "epsilon", "seed", "accuracy", "attack_advantage")
EPSILONS = (8.0, 4.0, 2.0)
PAIRS, ATTACKED = 40, 5
"""Guesses of each client, and how many clients are attacked."""
PARTS = ("train", "dev", "test")
ROUNDS, RATE, CLIP = 50, 0.2, 5.0
"""Of sst2 (docs/method.md has why)."""


@dataclass(frozen=True)
class Task:
    """A fleet: its model and data, and of the private runs what differs."""

    model: Any
    clients: int
    train: Any
    held_out: Any
    rounds: dict[str, Any]
    private: dict[str, Any]
    clip: float


def digits(_: argparse.Namespace) -> Task:
    """The demo's data and model."""
    return Task(
        model="mlp",
        clients=10,
        train="digits",
        held_out="digits:test",
        rounds={"rounds": 150},
        private={"rate": 1.6},
        clip=1.0,
    )


def sst2(arguments: argparse.Namespace) -> Task:
    """A pretrained model's head, which decays as it does there by itself."""
    if not arguments.features.exists():
        keep(arguments.features, Path(arguments.model).expanduser(), Path(arguments.data).expanduser())
    with np.load(arguments.features) as kept:
        parts = {name: (kept[f"{name}_x"], kept[f"{name}_y"]) for name in PARTS}
    return Task(
        model=Head,
        clients=20,
        train=parts["train"],
        held_out=parts["dev" if arguments.validate else "test"],
        rounds={"rounds": arguments.rounds or ROUNDS, "weight_decay": DECAY},
        private={"rate": arguments.rate or RATE, "head_projections": arguments.projections},
        clip=arguments.clip or CLIP,
    )


class Head(nn.Module):
    """A head on features, below which is a 0 that does not move: a model is more than its head."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1))
        self.classifier = nn.Linear(math.prod(shape), classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(inputs.flatten(1) + self.shift)
        return logits


def keep(file: Path, model: Path, folder: Path) -> None:
    """Write what the head reads, float32 (n, 1, layers, hidden): in the form of images, since rows would be standardised, which a model's
    features are not; and labels."""
    found = read_directory(model)
    made, arrays = module(found, model, 0), dict[str, Any]()
    for name in PARTS:
        data = tokenised(load(f"tsv:{folder}/{name}.tsv"), Text(most_tokens=64), found.tokenizer)
        arrays[f"{name}_x"] = features(made, data).numpy().reshape(len(data), 1, -1, found.architecture.hidden)
        arrays[f"{name}_y"] = data.targets
    np.savez(file, **arrays)


TASKS = {"digits": digits, "sst2": sst2}


def variants(task: Task) -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    """Mode, epsilon, settings of the rounds and of privacy."""
    yield "off", "inf", task.rounds, {"mode": "off"}
    plain = {"whitening": 0, "slices": "whole", "probes": 8}
    yield "plain", "inf", {**task.rounds, **plain, **task.private}, {"mode": "off"}
    for epsilon in EPSILONS:
        privacy = {"mode": "local", "epsilon": epsilon, "clip": task.clip}
        yield "local", f"{epsilon:g}", {**task.rounds, **task.private}, privacy
    shared = {**task.rounds, "algorithm": "decomfl"}
    yield "shared_off", "inf", shared, {"mode": "off"}
    yield "shared_plain", "inf", {**shared, **plain, **task.private}, {"mode": "off"}
    for epsilon in EPSILONS:
        privacy = {"mode": "aggregate", "secure_aggregation": True, "epsilon": epsilon, "clip": task.clip}
        yield "aggregate", f"{epsilon:g}", {**shared, **task.private}, privacy


def main() -> None:
    """Write a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--modes", nargs="+", default=["off", "plain", "local"])
    parser.add_argument("--model")
    parser.add_argument("--data")
    parser.add_argument(
        "--features",
        type=Path,
        default=Path("sst2_features.npz"),
        help="sst2: where they are kept, and read from where they are",
    )
    parser.add_argument("--validate", action="store_true", help="sst2: on dev.tsv")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--projections", type=int, default=64)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--clip", type=float)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    task = TASKS[arguments.task](arguments)
    out = arguments.out.open("a", newline="") if arguments.out else sys.stdout
    rows = csv.writer(out, lineterminator="\n")
    if not arguments.out or not arguments.out.stat().st_size:
        rows.writerow((*FIELDS, "blind_advantage"))
    for seed in arguments.seeds:
        shards = zw.divide(task.train, clients=task.clients, alpha=0.1, seed=seed)
        names = names_of(0, task.clients)
        for mode, epsilon, rounds, privacy in variants(task):
            if mode not in arguments.modes:
                continue
            start = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                run = zw.simulate(
                    task.model,
                    shards,
                    task.held_out,
                    {"privacy": privacy},
                    zeroth_order=rounds,
                    high=0,
                    seed=seed,
                    evaluate_every=1000,
                    data_dir=Path(folder) / "run",
                    show=False,
                )
                trained = time.monotonic() - start
                data = dict(zip(names, shards, strict=True))
                chosen, others = ({name: data[name] for name in some} for some in (names[:ATTACKED], names[ATTACKED:]))
                told = attacked(run.data_dir, chosen, zw.dataset(task.held_out), PAIRS, seed, others)
                accuracy = run.history[-1].metrics[run.metric.name]
            row = (arguments.task, mode, epsilon, seed, f"{100 * accuracy:.1f}", f"{told.informed:.3f}")
            rows.writerow((*row, f"{told.blind:.3f}"))
            out.flush()
            seconds = f"{trained:.0f} s, attack {time.monotonic() - start - trained:.0f} s"
            print(*row, f"{told.blind:.3f}", f"{told.guesses} guesses, {seconds}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    np.seterr(over="ignore")
    main()
