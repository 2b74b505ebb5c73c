"""What a table of fine-tuning is to be read between: an untrained model, a linear probe, and back-propagation through everything.

    python -m benchmarks.paper.sst2_brackets MODEL_DIR TRAIN.tsv DEV.tsv TEST.tsv OUT.csv

All data in one place. `zero-shot`: a sentence is as near to "It was great." as to "It was terrible.", by the cosine of the means of the last
layer's states, which is what a model of sentence embeddings knows without a label. `linear probe`: logistic regression on what the head of a run reads, with
the penalty chosen on DEV. `AdamW`: all layers and the head, at the learning rate and after the epoch that DEV chose with the first seed. A line is
method,seed,accuracy,loss,forwards,uplink_bytes, of TEST; forwards count a pass of back-propagation three times, and nothing is sent.
"""

import csv
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from zowarmup.common.algorithms.protocol import TRAINING_FORWARDS
from zowarmup.common.models.construction import build
from zowarmup.common.settings.language import Language
from zowarmup.common.settings.run import Model
from zowarmup.common.settings.text import Text
from zowarmup.data import load
from zowarmup.data.dataset import Dataset
from zowarmup.data.tokens import tokenised
from zowarmup.server.setup.language_directory import LanguageDirectory, load_body, read_directory

SEEDS = (0, 1, 2)
PENALTIES = (0.01, 0.03, 0.1, 0.3)
RATES = (2e-5, 5e-5, 1e-4)
EPOCHS, BATCH = 3, 32
WORDS = ("It was terrible.", "It was great.")
Scores = tuple[float, float]
"""Accuracy, and loss in nats."""


def module(found: LanguageDirectory, folder: Path, seed: int) -> nn.Module:
    """The run's model at its pretrained weights, with a new head."""
    made = build(Model(name="hf:model"), (64,), 2, seed, language=Language(architecture=found.architecture))
    load_body(made.get_submodule("body"), folder)
    return made


def batches(data: Dataset, order: np.ndarray, size: int = 64) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs and labels, in this order."""
    cut = [order[low : low + size] for low in range(0, len(order), size)]
    return [(torch.from_numpy(data.batch(one).inputs), torch.from_numpy(data.targets[one])) for one in cut]


def by_length(data: Dataset) -> np.ndarray:
    assert data.lengths is not None  # they are texts
    return np.argsort(data.lengths, kind="stable")


@torch.no_grad()
def scores(model: nn.Module, data: Dataset) -> Scores:
    """Of a model on a data set."""
    model.eval()
    loss = right = 0.0
    for inputs, labels in batches(data, by_length(data)):
        logits = model(inputs)
        loss += nn.functional.cross_entropy(logits, labels, reduction="sum").item()
        right += (logits.argmax(1) == labels).sum().item()
    return right / len(data), loss / len(data)


@torch.no_grad()
def features(model: nn.Module, data: Dataset) -> torch.Tensor:
    """What the head reads, in the order of the data."""
    read: list[torch.Tensor] = []
    handle = next(part for part in list(model.modules())[::-1] if type(part) is nn.Linear).register_forward_pre_hook(
        lambda layer, inputs: read.append(inputs[0])
    )
    order = by_length(data)
    for inputs, _ in batches(data, order):
        model.eval()(inputs)
    handle.remove()
    return torch.cat(read)[np.argsort(order)]


def fitted(rows: torch.Tensor, labels: torch.Tensor, penalty: float) -> nn.Linear:
    """Logistic regression."""
    head = nn.Linear(rows.shape[1], 2)
    nn.init.zeros_(head.weight)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=300)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(head(rows), labels) + penalty / 2 * (head.weight**2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return head


@torch.no_grad()
def of_head(head: nn.Linear, rows: torch.Tensor, labels: torch.Tensor) -> Scores:
    logits = head(rows)
    return (logits.argmax(1) == labels).float().mean().item(), nn.functional.cross_entropy(logits, labels).item()


def linear_probe(model: nn.Module, train: Dataset, dev: Dataset, test: Dataset) -> Scores:
    rows = {data: (features(model, data), torch.from_numpy(data.targets)) for data in (train, dev, test)}
    middle, scale = rows[train][0].mean(0), rows[train][0].std(0).mean()
    ready = {data: ((found - middle) / scale, labels) for data, (found, labels) in rows.items()}
    heads = {penalty: fitted(*ready[train], penalty) for penalty in PENALTIES}
    best = min(PENALTIES, key=lambda penalty: of_head(heads[penalty], *ready[dev])[1])
    print(f"linear probe: penalty {best}", file=sys.stderr)
    return of_head(heads[best], *ready[test])


def zero_shot(model: nn.Module, test: Dataset, words: Dataset) -> Scores:
    """The last of the layers' means is the last layer's."""

    def last(data: Dataset) -> torch.Tensor:
        return nn.functional.normalize(features(model, data)[:, -hidden:], dim=1)

    hidden = int(model.get_submodule("body").get_parameter("embeddings.word_embeddings.weight").shape[1])
    logits, labels = last(test) @ last(words).T, torch.from_numpy(test.targets)
    return (logits.argmax(1) == labels).float().mean().item(), nn.functional.cross_entropy(logits, labels).item()


def adamw(model: nn.Module, train: Dataset, seed: int, rate: float, epochs: int, watched: Dataset) -> list[Scores]:
    """Of the watched data after each epoch; the learning rate falls linearly to zero over EPOCHS."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    steps = EPOCHS * -(-len(train) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    chance, found = np.random.default_rng(seed), list[Scores]()
    for epoch in range(epochs):
        for inputs, labels in batches(train, chance.permutation(len(train)), BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        found.append(scores(model, watched))
        print(f"AdamW, seed {seed}, rate {rate:g}, epoch {epoch + 1}: {found[-1]}", file=sys.stderr)
    return found


def main() -> None:
    folder, *paths, out = map(Path, sys.argv[1:])
    torch.set_num_threads(1)
    found = read_directory(folder)
    train, dev, test = (tokenised(load(f"tsv:{path}"), Text(most_tokens=64), found.tokenizer) for path in paths)
    said = out.with_suffix(".words.tsv")
    said.write_text("".join(f"{text}\t{label}\n" for label, text in enumerate(WORDS)), encoding="utf-8")
    words = tokenised(load(f"tsv:{said}"), Text(most_tokens=64), found.tokenizer)
    said.unlink()
    whole = module(found, folder, 0)
    rows: list[tuple[object, ...]] = [
        ("zero-shot", 0, *zero_shot(whole, test, words), 0, 0),
        ("linear probe", 0, *linear_probe(whole, train, dev, test), len(train), 0),
    ]
    tried = {rate: adamw(module(found, folder, SEEDS[0]), train, SEEDS[0], rate, EPOCHS, dev) for rate in RATES}
    rate, epochs = max(
        ((rate, epoch + 1) for rate in RATES for epoch in range(EPOCHS)), key=lambda one: tried[one[0]][one[1] - 1][0]
    )
    for seed in SEEDS:
        accuracy, loss = adamw(module(found, folder, seed), train, seed, rate, epochs, test)[-1]
        rows.append(("AdamW", seed, accuracy, loss, TRAINING_FORWARDS * epochs * len(train), 0))
    with out.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(
            [("method", "seed", "accuracy", "loss", "forwards", "uplink_bytes"), *rows]
        )


if __name__ == "__main__":
    main()
