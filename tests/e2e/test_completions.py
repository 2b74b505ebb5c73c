"""A fleet that trains adapters of a decoder on prompts and completions, with real processes; the result is one that `transformers` loads."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.language import DECODER, language_folder
from zowarmup.cli.session.status import payload
from zowarmup.cli.stored_run import export
from zowarmup.common.messages.values import Tier
from zowarmup.common.settings.data_card import PADDING, PREDICTED
from zowarmup.common.settings.run import Evaluation, Model, RunFile
from zowarmup.common.settings.text import Text
from zowarmup.data import load
from zowarmup.data.tokens import tokenised
from zowarmup.server.store.archive import open_archive
from zowarmup.server.store.fsck import check

NAMES = {"high-1": "high", "low-1": "low", "low-2": "low"}


def sayings(path: Path, examples: int, seed: int) -> Path:
    """Prompts of a few words, and what follows from the last."""
    random, lines = np.random.default_rng(seed), ["prompt\tcompletion"]
    for _ in range(examples):
        word, follows = random.choice([["fine", "good film"], ["dull", "bad plot"], ["great", "awful"]])
        lines.append(f"{' '.join(random.choice(['the', 'cast', 'and'], random.integers(1, 4)))} {word}\t{follows}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_adapters_learn_completions_and_the_result_is_a_model_of_its_family(
    fleet: Callable[[], Any], tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    folder, held_out = language_folder(tmp_path / "model", DECODER), sayings(tmp_path / "held-out.tsv", 40, 0)
    running, text = fleet(), Text(template="{prompt} is", most_tokens=10)
    everyone: dict[str, Any] = {"clients_per_round": len(NAMES), "quorum": 1.0, "learn_deadline": False}
    running.lead(
        RunFile(
            name="sayings",
            seed=3,
            draws="seed",
            model=Model(name=f"hf:{folder}", task="completion", base="int8"),
            text=text,
            warmup=warmup_settings(rounds=1, clients_per_round=1, quorum=1.0, learn_deadline=False, rate=2.0),
            zeroth_order=zeroth_order_settings(
                rounds=12, train="lora:r=4,modules=q,v,o,up,down", probes=8, eps=0.02, **everyone
            ),
            evaluation=Evaluation(data=f"tsv:{held_out}", every=100),
        )
    )
    for number, (client, tier) in enumerate(NAMES.items(), 1):
        running.join(client, f"tsv:{sayings(tmp_path / f'{client}.tsv', 24, number)}", tier)
    status = running.finished(len(NAMES))
    assert status.replicas.agree == tuple(NAMES)
    archive = open_archive(running.data_dir)
    assert all(tensor.name.endswith("lora_b") for tensor in archive.layout.tensors)
    assert payload(status.traffic, "up", Tier.LOW) < 12 * len(NAMES) * 300, "8 scalars a round"
    evaluated = [version.evaluation for version in archive.history.versions.values() if version.evaluation]
    begun, done = evaluated[0].metrics["perplexity"], evaluated[-1].metrics["perplexity"]
    assert done < begun
    running.processes.stop()
    report = check(running.data_dir)
    assert (report.problems, report.notes) == ([], [])

    files = export(running.data_dir, None, tmp_path / "tuned").files
    assert [file.name for file in files[2:]] == ["config.json", "tokenizer.json", "model.safetensors"]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "tuned", attn_implementation="eager")
    data = tokenised(load(f"tsv:{held_out}"), text, (tmp_path / "tuned" / "tokenizer.json").read_bytes())
    summed = tokens = 0.0
    with torch.no_grad():
        for row in data.batch(np.arange(len(data))).inputs:
            given = torch.from_numpy(row[row != PADDING])
            losses = torch.nn.functional.cross_entropy(
                theirs(given[None] % PREDICTED).logits[0, :-1], given[1:] % PREDICTED, reduction="none"
            )
            summed += float(losses[given[1:] >= PREDICTED].sum())
            tokens += int((given[1:] >= PREDICTED).sum())
    assert math.exp(summed / tokens) == pytest.approx(done, rel=1e-4)
