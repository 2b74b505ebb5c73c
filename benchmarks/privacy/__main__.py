"""Accuracy against epsilon, and what an attacker makes of the scalars: runs of a fleet in this process, each attacked afterwards.

    python -m benchmarks.privacy digits --seeds 0 1 2 --out FILE
    python -m benchmarks.privacy sst2 --model ~/models/minilm --data ~/data/sst2 --seeds 0 1 2 --out FILE

digits: the MLP at random weights, ten low-tier clients, Dirichlet 0.1, 150 rounds of all. sst2: the exact head on MiniLM, twenty low-tier
clients, Dirichlet 0.1, 400 rounds of ten. Nothing has been trained before the first private round. A row for each mode, epsilon (delta 1e-5)
and seed: held-out accuracy after the last round, and the advantage of the informed attacker (`attack`); the blind one's is in a file beside
it. "off" has the run's defaults; "plain" is off, too, with the settings that the private runs have, so what is lost without any noise. "aggregate"
is with shared directions, and so are "shared_off" and "shared_plain".
"""

import argparse
import csv
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import zowarmup as zw
from benchmarks.privacy.attack import attacked, names_of
from zowarmup.data import Dataset
from zowarmup.data.tokens import tokenised

FIELDS = ("task", "mode", "epsilon", "seed", "accuracy", "attack_advantage")
EPSILONS = (8.0, 4.0, 2.0)
PAIRS, ATTACKED = 40, 5
"""Guesses of each client, and how many clients are attacked."""


@dataclass(frozen=True)
class Task:
    """A fleet: its run's tables, and of the private runs what differs."""

    run: dict[str, Any]
    clients: int
    train: Any
    held_out: Any
    rounds: dict[str, Any]
    private: dict[str, Any]
    clip: float


def digits(_: argparse.Namespace) -> Task:
    """The demo's data and model."""
    return Task(
        run={},
        clients=10,
        train="digits",
        held_out="digits:test",
        rounds={"rounds": 150},
        private={"rate": 1.6},
        clip=1.0,
    )


def sst2(arguments: argparse.Namespace) -> Task:
    """A pretrained model's head."""
    data = Path(arguments.data).expanduser()
    return Task(
        run={"model": {"name": f"hf:{Path(arguments.model).expanduser()}"}, "text": {"most_tokens": 64}},
        clients=20,
        train=f"tsv:{data}/train.tsv",
        held_out=f"tsv:{data}/test.tsv",
        rounds={"rounds": 400, "clients_per_round": 10, "minimum_clients": 20},
        private={"rate": arguments.rate or 0.4},
        clip=arguments.clip or 1.0,
    )


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


def readable(run: Any, data: Dataset) -> Dataset:
    """As the model reads it: of texts, their tokens."""
    if not data.is_text:
        return data
    tokenizer = run._archive.tokenizer
    return tokenised(data, run.settings.text, tokenizer.read_bytes())


def main() -> None:
    """Write a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--modes", nargs="+", default=["off", "plain", "local"])
    parser.add_argument("--model")
    parser.add_argument("--data")
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
                    None if task.run else "mlp",
                    shards,
                    task.held_out,
                    {**task.run, "privacy": privacy},
                    zeroth_order=rounds,
                    high=0,
                    seed=seed,
                    evaluate_every=1000,
                    data_dir=Path(folder) / "run",
                    show=False,
                )
                trained = time.monotonic() - start
                data = {name: readable(run, shard) for name, shard in zip(names, shards, strict=True)}
                chosen, others = ({name: data[name] for name in some} for some in (names[:ATTACKED], names[ATTACKED:]))
                nobodys = readable(run, zw.dataset(task.held_out))
                told = attacked(run.data_dir, chosen, nobodys, PAIRS, seed, others)
                accuracy = run.history[-1].metrics[run.metric.name]
            row = (arguments.task, mode, epsilon, seed, f"{100 * accuracy:.1f}", f"{told.informed:.3f}")
            rows.writerow((*row, f"{told.blind:.3f}"))
            out.flush()
            seconds = f"{trained:.0f} s, attack {time.monotonic() - start - trained:.0f} s"
            print(*row, f"{told.blind:.3f}", f"{told.guesses} guesses, {seconds}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    np.seterr(over="ignore")
    main()
