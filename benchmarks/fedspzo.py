"""FedSPZO beside probes of the whole network: processor time at an equal variance of the estimate.

    python -m benchmarks.fedspzo MODEL_DIR TEXTS [--cut 3] [--examples 16] [--train norm] [--repeats 5]

MODEL_DIR is a folder in Hugging Face's form, TEXTS a tsv of sentences and labels. A linear head is fitted to the features first, so that
gradients are those of a model that is being fine-tuned. Each row is a round of a client, as a device computes it: `contribute` of
the run's own program on one thread, head's projections included, every probe on all examples. Beside it is zowarmup's with the same `train`
and `slices = "whole"`, whose time and variance are proportional and inversely so to its number of probes. The variance is that over
directions at the very batch, summed over the parameters of both parts, in closed form (tests/unit/common/algorithms/test_fedspzo.py) from
the mean squares of derivatives that `contribute` measured along 64 directions of either part; the parts' own are printed beside it. Rows
with P1 = 0 move what lies above the cut alone, and so does what they are compared with.
"""

import argparse
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from zowarmup.client.work.probing import Prober
from zowarmup.common.algorithms.fedspzo import FedSPZOSettings
from zowarmup.common.algorithms.zowarmup import ZOWarmUpSettings
from zowarmup.common.exact.grid import Grid
from zowarmup.common.exact.layout import Layout
from zowarmup.common.exact.replica import Replica
from zowarmup.common.messages.values import Phase, Scalars, Work
from zowarmup.common.models.base import Constant
from zowarmup.common.models.construction import build
from zowarmup.common.models.description import constants_of, describe, flatten
from zowarmup.common.models.export import export_program
from zowarmup.common.models.program import Program
from zowarmup.common.settings.language import Language
from zowarmup.common.settings.run import Model
from zowarmup.common.settings.text import Text
from zowarmup.common.tasks import task_class
from zowarmup.data import Dataset, load
from zowarmup.data.card import card_of
from zowarmup.data.tokens import tokenised
from zowarmup.server.setup.language_directory import load_body, read_directory

TOKENS, FITTED, DIRECTIONS = 64, 512, 64
DECAY = 0.1
Tried = tuple[Literal["apart", "nested"], int, int]
TRIED: list[Tried] = [
    *(("nested", 4, p2) for p2 in (2, 4, 8)),
    *(("apart", p1, p2) for p1, p2 in ((8, 8), (8, 16), (4, 16), (2, 16))),
]
ALONE: list[Tried] = [("apart", 0, 8)]


@dataclass(frozen=True)
class Subject:
    """A model of which something moves, cut or in one piece, and what probes it."""

    layout: Layout
    replica: Replica
    prober: Callable[[Any], Prober]

    def round(self, settings: Any, number: int) -> Scalars:
        work = Work(number, Phase.ZEROTH_ORDER, 3, 1000 + number, 60.0)
        return self.prober(settings).contribute(self.replica, work)


def made(
    folder: Path, data: Dataset, train: str, cut: int | None, only_above: bool, head: NDArray[np.float32]
) -> Subject:
    """The model with a fitted head; `head` empty: at its initial one."""
    language = Language(architecture=read_directory(folder).architecture, cut=cut)
    module = build(Model(name=f"hf:{folder}"), data.shape, 2, 0, language=language)
    load_body(module.get_submodule("body"), folder)
    layout = describe(module, data.shape, train=train, pretrained=True, only_above=only_above)
    weights = flatten(module, layout)
    start = layout.block("head").start
    weights[start : start + head.size] = head
    constants = {name: Constant("F32", tensor.detach().numpy()) for name, tensor in constants_of(module).items()}
    grid = Grid.choose(weights[: layout.trainable], edges=layout.edges)
    for low, high, here in grid.within(0, layout.trainable):
        weights[low:high] = here.quantise(weights[low:high])
    replica = Replica(layout, grid, weights, 3)
    program = Program(export_program(module, layout, data.shape), layout, replica.weights, constants=constants)
    task = task_class("classification")(card_of(data, "texts", TOKENS))
    return Subject(layout, replica, lambda spec: Prober(spec, replica, program, task, data, threading.Event()))


def fitted_head(subject: Subject, data: Dataset, settings: Any) -> NDArray[np.float32]:
    """A linear head by logistic regression on the features, its weights held small."""
    rows = np.concatenate(list(subject.prober(settings).features(np.arange(len(data)))))
    features, labels = torch.from_numpy(rows), torch.from_numpy(data.targets)
    weight, bias = torch.zeros(2, rows.shape[1], requires_grad=True), torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        logits = torch.nn.functional.linear(features, weight, bias)
        loss = torch.nn.functional.cross_entropy(logits, labels) + DECAY / 2 * (weight**2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    found: NDArray[np.float32] = torch.cat((weight.detach().reshape(-1), bias.detach())).numpy()
    return found


def milliseconds(subject: Subject, settings: Any, repeats: int) -> float:
    """Processor time of a round, of one device that has taken part before."""
    prober, taken = subject.prober(settings), list[float]()
    for number in range(1, repeats + 2):
        work = Work(number, Phase.ZEROTH_ORDER, 3, 1000 + number, 60.0)
        began = time.process_time()
        prober.contribute(subject.replica, work)
        taken.append(1000 * (time.process_time() - began))
    return statistics.median(taken[1:])


def variance(sizes: list[int], squares: list[float], split: str, p1: int, p2: int) -> list[float]:
    """Of the estimate, by part, from how many parameters the parts have and the squares of their gradients."""
    if len(sizes) == 1:
        return [(sizes[0] - 1) * squares[0] / p2]
    (lower, upper), (below, above) = sizes, squares
    if split == "whole":
        return [((lower - 1) * below + lower * above) / p1, ((upper - 1) * above + upper * below) / p1]
    if split == "apart":
        return [(lower - 1) * below / p1, (upper - 1) * above / p2]
    rest = above / (p2 - 1) if p2 > 2 else below
    return [((lower - 1) * below + lower * above / p2) / p1, ((upper - 1) * above + upper * rest) / (p1 * p2)]


def rows(arguments: argparse.Namespace, data: Dataset, head: NDArray[np.float32]) -> None:
    folder, cut, train, repeats = arguments.model, arguments.cut, arguments.train, arguments.repeats
    shared: dict[str, Any] = {"rounds": 100, "train": train, "slices": "whole", "whitening": 0}
    for only_above in (False, True):
        parted = made(folder, data, train, cut, only_above, head)
        sizes = [block.size for block in parted.layout.blocks if block.name in ("lower", "upper")]
        measured = FedSPZOSettings(**shared, cut=cut, probes=(0 if only_above else DIRECTIONS, DIRECTIONS))
        found = np.square(parted.round(measured, 1).probes).reshape(len(sizes), -1).mean(1).tolist()
        edge = parted.layout.block("head").start
        upper = "layers:" + ",".join(tensor.name for tensor in parted.layout.tensors if tensor.stop <= edge)
        of = upper if only_above else train
        whole = made(folder, data, of, None, False, head)
        probes = 8
        reference = milliseconds(whole, ZOWarmUpSettings(**{**shared, "train": of}, probes=probes), repeats)
        each = variance(sizes, found, "whole", probes, probes)
        print(f"\nparameters {sizes}, mean square of a derivative {[f'{value:.3g}' for value in found]}")
        print(f"zowarmup, {probes} probes: {reference:.0f} ms\n")
        print(
            "| split | P1, P2 | ms | zowarmup of that variance, ms | times less | by part |\n|---|---|---|---|---|---|"
        )
        for split, p1, p2 in ALONE if only_above else TRIED:
            own = milliseconds(parted, FedSPZOSettings(**shared, cut=cut, probes=(p1, p2), split=split), repeats)
            varies = variance(sizes, found, split, p1, p2)
            equal = reference * sum(each) / sum(varies)
            parts = ", ".join(f"{reference * a / b / own:.2f}" for a, b in zip(each, varies, strict=True))
            print(f"| {split} | {p1}, {p2} | {own:.0f} | {equal:.0f} | {equal / own:.2f} | {parts} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="FedSPZO beside probes of the whole network.")
    parser.add_argument("model", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--cut", type=int, default=3)
    parser.add_argument("--examples", type=int, default=16)
    parser.add_argument("--train", default="norm")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    texts = load(f"tsv:{arguments.texts}")
    tokenizer = (arguments.model / "tokenizer.json").read_bytes()
    data = tokenised(texts, Text(most_tokens=TOKENS), tokenizer)
    fitted = data.select(np.arange(FITTED))
    plain = ZOWarmUpSettings(rounds=1, train="norm")
    nothing = np.empty(0, np.float32)
    head = fitted_head(made(arguments.model, fitted, "norm", None, False, nothing), fitted, plain)
    batch = data.select(np.arange(FITTED, FITTED + arguments.examples))
    print(
        f"{arguments.examples} examples, mean length {np.count_nonzero(batch.inputs >= 0) / len(batch):.0f}, train = {arguments.train!r}, cut = {arguments.cut}"
    )
    rows(arguments, batch, head)


if __name__ == "__main__":
    main()
