"""A fleet that fine-tunes a language model on texts, with real processes: a model's folder is the coordinator's alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.language import DECODER, ENCODER, language_folder
from zowarmup.cli.session.status import payload
from zowarmup.cli.stored_run import export
from zowarmup.common.messages.values import Tier
from zowarmup.common.settings.run import Evaluation, Model, RunFile
from zowarmup.common.settings.text import Text
from zowarmup.data import load
from zowarmup.data.tokens import tokenised
from zowarmup.server.store.archive import open_archive
from zowarmup.server.store.fsck import check

NAMES = {"high-1": "high", "low-1": "low", "low-2": "low"}
ROUNDS = 20
SAID = {"good": ["fine", "good", "great"], "bad": ["dull", "bad", "awful"]}


def reviews(path: Path, examples: int, seed: int) -> Path:
    """Films of which a word or two says what they are."""
    random, lines = np.random.default_rng(seed), ["label\ttext"]
    for _ in range(examples):
        label = random.choice(list(SAID))
        middle = " ".join(random.choice(["the", "film", "plot", "cast", "and", "it"], random.integers(1, 6)))
        lines.append(f"{label}\t{middle} is {random.choice(SAID[label])} {random.choice(['', 'very', 'film'])}")
    path.write_text("\n".join(lines) + "\n")
    return path


BLOCKS = {
    "encoder": (),
    "decoder": ("trunk",),
    "encoder, prefixes": ("trunk",),
    "encoder, cut": ("lower", "upper"),
    "decoder, cut, nested": ("lower", "upper"),
    "encoder, the upper part alone": ("upper",),
}
BASES: dict[str, Any] = {"decoder": "bfloat16"}
VERBALIZERS = dict.fromkeys(("decoder", "decoder, cut, nested"), (" bad", " good"))
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "encoder": (ENCODER, {"train": "auto", "probes": 4}),
    "decoder": (DECODER, {"train": "norm", "probes": 4}),
    "encoder, prefixes": (ENCODER, {"train": "prefix:3", "probes": 4, "eps": 0.1}),
    "encoder, cut": (ENCODER, {"algorithm": "fedspzo", "cut": 1, "probes": (4, 4), "rate": 0.1}),
    "decoder, cut, nested": (DECODER, {"algorithm": "fedspzo", "cut": 1, "probes": (2, 3), "split": "nested"}),
    "encoder, the upper part alone": (ENCODER, {"algorithm": "fedspzo", "cut": 1, "probes": (0, 4)}),
}
# Of which the coordinator also builds and measures the model itself: one of each kind of work.
MEASURED = ("encoder", "decoder, cut, nested")


@pytest.mark.parametrize("name", SETTINGS)
def test_texts_are_learnt_and_all_replicas_are_equal(name: str, fleet: Callable[[], Any], tmp_path: Path) -> None:
    config, rules = SETTINGS[name]
    base = BASES.get(name, "float32")
    folder = language_folder(tmp_path / "model", config, dtype=getattr(torch, base))
    held_out = reviews(tmp_path / "held-out.tsv", 120, 0)
    running, text = fleet(), Text(template="{text} it", most_tokens=16, verbalizers=VERBALIZERS.get(name, ()))
    everyone: dict[str, Any] = {"clients_per_round": len(NAMES), "quorum": 1.0, "learn_deadline": False}
    running.lead(
        RunFile(
            name="reviews",
            seed=3,
            draws="seed",
            model=Model(name=f"hf:{folder}", base=base),
            text=text,
            warmup=warmup_settings(rounds=1, clients_per_round=1, quorum=1.0, learn_deadline=False, rate=0.02),
            zeroth_order=zeroth_order_settings(rounds=ROUNDS, **rules, **everyone),
            evaluation=Evaluation(data=f"tsv:{held_out}", every=100),
        ),
        measured=name in MEASURED,
    )
    for number, (client, tier) in enumerate(NAMES.items(), 1):
        running.join(client, f"tsv:{reviews(tmp_path / f'{client}.tsv', 60, number)}", tier)
    status = running.finished(len(NAMES))
    assert status.replicas.agree == tuple(NAMES)
    archive = open_archive(running.data_dir)
    stepped = sorted(archive.history.commits)
    commits = archive.history.since(stepped[0] - 1, stepped[-1]) or ()
    moved = {step.block.name for commit in commits for step in commit.steps}
    assert moved == {"head", *BLOCKS[name]}
    layout, record = archive.layout, archive.state.program
    sizes = {artifact.name: artifact.size_bytes for artifact in record.artifacts}
    for artifact in ("base", "tokenizer"):
        for tier, members in ((Tier.HIGH, 1), (Tier.LOW, 2)):
            fetched = sum(row.payload_bytes for row in status.traffic if (row.kind, row.tier) == (artifact, tier))
            assert members * sizes[artifact] < fetched < members * (sizes[artifact] + 200), "each has fetched it once"
    assert payload(status.traffic, "up", Tier.HIGH) < 2 * 4 * layout.size + 12 * 4096, "a delta has what moves"
    evaluated = [version.evaluation for version in archive.history.versions.values() if version.evaluation]
    found = [evaluation.metrics["accuracy"] for evaluation in evaluated]
    assert found[-1] > 0.7, "guessing gets half"
    running.processes.stop()
    report = check(running.data_dir)
    assert (report.problems, report.notes) == ([], [])
    exported = export(running.data_dir, None, tmp_path / "reviews")
    assert (len(exported.files), bool(exported.remark)) == ((2, True) if "prefixes" in name else (5, False))
    weights, theirs = load_file(exported.files[0]), load_file(folder / "model.safetensors")
    kept = [name for name in theirs if name != "position_ids" and theirs[name].ndim == 2]
    assert all(torch.equal(weights[f"body.{name}"], theirs[name].to(torch.float32)) for name in kept), (
        "what is not trained is as it was"
    )
    session = onnxruntime.InferenceSession(exported.files[1].read_bytes(), providers=["CPUExecutionProvider"])
    data = tokenised(load(f"tsv:{held_out}"), text, (folder / "tokenizer.json").read_bytes())
    batch = data.batch(np.arange(len(data)))
    (logits, *_) = session.run(None, {"inputs": batch.inputs})
    assert (logits.argmax(1) == batch.targets).mean() == pytest.approx(found[-1])
