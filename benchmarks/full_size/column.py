"""One split of one seed: the fleet, its pivot, and every method after it."""

import argparse
import itertools
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.full_size.moves import Moves
from benchmarks.full_size.network import Images, Network, Trainer
from zowarmup.data.shards import shards


class OutOfTime(Exception):
    """The time given is used up."""


class Column:
    """One split of one seed: the fleet, its pivot, and the methods after it."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        high_percent: int,
        seed: int,
        device: torch.device,
        write: Callable[..., None],
    ) -> None:
        self.arguments, self.seed, self.device, self.write = arguments, seed, device, write
        self.high_percent = high_percent
        self.train = Images(arguments.path, "train", device)
        self.test = Images(arguments.path, "test", device)
        clients = arguments.clients
        self.mine = [
            torch.from_numpy(indices).to(device)
            for indices in shards(self.train.numbers, clients, Fraction(1, 10), seed)
        ]
        self.chance = np.random.default_rng([seed, 1])
        self.high = sorted(self.chance.permutation(clients)[: max(1, clients * high_percent // 100)].tolist())
        shape = (3, 32, 32)
        self.network = Network(device, arguments.model, shape)
        self.moves = Moves(self.network, self.train, self.mine, arguments.participants, seed, arguments.check)
        self.trainers = [
            Trainer(Network(device, arguments.model, shape), self.train)
            for _ in range(min(arguments.participants, len(self.high), arguments.streams))
        ]
        self.generator = torch.Generator(device)
        self.generator.manual_seed(seed)

    def on_test(self) -> float:
        return self.network.accuracy(self.test, self.arguments.validation, len(self.test.numbers))

    def on_validation(self) -> float:
        return self.network.accuracy(self.test, 0, self.arguments.validation)

    def fedavg_round(self, weights: Tensor, rate: float, chance: np.random.Generator) -> Tensor:
        """The mean of what the drawn high-tier clients train from `weights`."""
        drawn = chance.permutation(self.high)[: self.arguments.participants].tolist()
        total = torch.zeros_like(weights)
        for first in range(0, len(drawn), len(self.trainers)):
            together = drawn[first : first + len(self.trainers)]
            running = [
                (trainer, trainer.steps(weights, self.mine[client], rate, self.generator))
                for trainer, client in zip(self.trainers, together, strict=False)
            ]
            for _ in itertools.zip_longest(*(steps for _, steps in running)):
                pass
            for trainer, _ in running:
                if trainer.stream is not None:
                    torch.cuda.current_stream().wait_stream(trainer.stream)
                total += trainer.network.flat
            if self.device.type == "cuda":  # the next client's start overwrites what was summed
                for trainer, _ in running:
                    trainer.stream.wait_stream(torch.cuda.current_stream())  # type: ignore[union-attr]
        return total / len(drawn)

    def fedavg(self, weights: Tensor, rounds: int, rate: float, label: str) -> Tensor:
        chance = np.random.default_rng([self.seed, 2])
        for number in range(rounds):
            self.in_time()
            weights = self.fedavg_round(weights, rate, chance)
            if number % 25 == 24 or number + 1 == rounds:
                self.network.flat.copy_(weights)
                self.write(self, label, number + 1, rate=rate, accuracy=self.on_test(), validation=self.on_validation())
        return weights

    def in_time(self) -> None:
        if time.monotonic() > self.arguments.until:
            raise OutOfTime

    def after_pivot(
        self, pivot: Tensor, rounds: int, move: Callable[[int], None], label: str, rate: float, every: int
    ) -> float:
        """`rounds` of `move` from the pivot: the validation accuracy at the end."""
        self.network.module.eval()
        self.network.flat.copy_(pivot)
        lowest = 100.0
        for number in range(rounds):
            self.in_time()
            move(number)
            if (number + 1) % every == 0 or number + 1 == rounds:
                found = self.on_test()
                lowest = min(lowest, found)
                self.write(self, label, number + 1, rate=rate, accuracy=found, validation=self.on_validation())
        return self.on_validation()

    def best(
        self, label: str, pivot: Tensor, rounds: int, rates: list[Any], make: Callable[[Any], Callable[[int], None]]
    ) -> Any:
        """The rate of the highest validation accuracy after `rounds`, annealed to there."""
        scores = {}
        for rate in rates:
            self.network.flat.copy_(pivot)
            self.network.module.eval()
            scores[rate] = self.after_pivot(pivot, rounds, make(rate), f"{label}?", rate, rounds)
        return max(scores, key=lambda rate: scores[rate])

    def run(self) -> None:
        a = self.arguments
        start = self.network.initial.clone()
        pivot = self.fedavg(start, a.warmup, a.rate, "warmup")
        self.network.flat.copy_(pivot)
        few = max(2, a.rounds // 10)

        def head(rounds: int) -> Callable[[float], Callable[[int], None]]:
            return lambda rate: self.moves.head_moves(rate, rounds)

        def norm(rounds: int) -> Callable[[tuple[float, float]], Callable[[int], None]]:
            return lambda rates: self.moves.norm_moves(rates, rounds)

        for rate in a.head_rates:
            self.again(pivot)
            self.after_pivot(pivot, a.rounds, self.moves.head_moves(rate, a.rounds), "head", rate, 20)
        top = self.best("head", pivot, few, a.head_rates, head(few))
        chosen = self.best("norm", pivot, few, [(top, n) for n in (0.001, 0.002, 0.005, 0.01)], norm(few))
        self.again(pivot)
        self.after_pivot(pivot, a.rounds, self.moves.norm_moves(chosen, a.rounds), "norm", chosen, 20)
        rate = self.best("ceiling", pivot, few, [0.00003, 0.0001, 0.0003], lambda r: self.moves.ceiling_moves(r, few))
        self.again(pivot)
        self.after_pivot(pivot, a.rounds, self.moves.ceiling_moves(rate, a.rounds), "ceiling", rate, 20)
        raw = self.best("paper", pivot, few // 2, [1e-5, 1e-4, 1e-3], lambda r: self.moves.paper_moves(r))
        self.again(pivot)
        self.after_pivot(pivot, a.rounds, self.moves.paper_moves(raw), "paper", raw, 20)
        self.fedavg(pivot, a.rounds, a.rate, "high_only")

    def again(self, pivot: Tensor) -> None:
        self.network.flat.copy_(pivot)
        self.network.module.eval()
