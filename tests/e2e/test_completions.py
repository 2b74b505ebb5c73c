"""A fleet that trains adapters of a decoder on prompts and what follows, with real processes; the result is one that `transformers` loads."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.language import DECODER, language_folder, questions, sayings
from zowarmup.cli.session.status import payload
from zowarmup.cli.stored_run import export
from zowarmup.common.messages.values import Tier
from zowarmup.common.settings.data_card import PADDING, PREDICTED
from zowarmup.common.settings.run import Evaluation, Model, RunFile
from zowarmup.common.settings.text import Text
from zowarmup.common.tasks import task_class
from zowarmup.data import Dataset, load
from zowarmup.data.tokens import tokenised
from zowarmup.server.store.archive import open_archive
from zowarmup.server.store.fsck import check

NAMES = {"high-1": "high", "low-1": "low", "low-2": "low"}


def losses(theirs: Any, row: Any) -> torch.Tensor:
    """-log p, by `transformers`, of each token of a row that is to be predicted."""
    given = torch.from_numpy(row[row != PADDING])
    logits = theirs(given[None] % PREDICTED).logits[0, :-1]
    found = torch.nn.functional.cross_entropy(logits, given[1:] % PREDICTED, reduction="none")
    return found[given[1:] >= PREDICTED]


def perplexity(theirs: Any, data: Dataset) -> float:
    return math.exp(torch.cat([losses(theirs, row) for row in data.batch(np.arange(len(data))).inputs]).mean().item())


def accuracy(theirs: Any, data: Dataset) -> float:
    inputs, labels = data.batch(np.arange(len(data)))
    scores = [[-losses(theirs, row).mean().item() for row in rows if row[0] != PADDING] for rows in inputs]
    return float(np.mean([np.argmax(one) == label for one, label in zip(scores, labels, strict=True)]))


CASES: dict[str, tuple[Any, str, Any, Any]] = {
    "completion": (sayings, "tsv", "int8", perplexity),
    "multiple_choice": (questions, "jsonl", "bfloat16", accuracy),
}


@pytest.mark.parametrize("task", CASES)
def test_adapters_learn_what_follows_and_the_result_is_a_model_of_its_family(
    task: str, fleet: Callable[[], Any], tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    written, kind, base, by_theirs = CASES[task]
    folder, held_out = language_folder(tmp_path / "model", DECODER), written(tmp_path / f"held-out.{kind}", 40, 0)
    running, text = fleet(), Text(template="{prompt} is", most_tokens=10)
    everyone: dict[str, Any] = {"clients_per_round": len(NAMES), "quorum": 1.0, "learn_deadline": False}
    running.lead(
        RunFile(
            name="sayings",
            seed=3,
            draws="seed",
            model=Model(name=f"hf:{folder}", task=task, base=base),
            text=text,
            warmup=warmup_settings(rounds=1, clients_per_round=1, quorum=1.0, learn_deadline=False, rate=2.0),
            zeroth_order=zeroth_order_settings(
                rounds=12, train="lora:r=4,modules=q,v,o,up,down", probes=8, eps=0.02, **everyone
            ),
            evaluation=Evaluation(data=f"{kind}:{held_out}", every=100),
        ),
        measured=task == "completion",  # the coordinator then builds and measures the model itself
    )
    for number, (client, tier) in enumerate(NAMES.items(), 1):
        running.join(client, f"{kind}:{written(tmp_path / f'{client}.{kind}', 24, number)}", tier)
    status = running.finished(len(NAMES))
    assert status.replicas.agree == tuple(NAMES)
    archive = open_archive(running.data_dir)
    assert all(tensor.name.endswith("lora_b") for tensor in archive.layout.tensors)
    assert payload(status.traffic, "up", Tier.LOW) < 12 * len(NAMES) * 300, "8 scalars a round"
    evaluated = [version.evaluation for version in archive.history.versions.values() if version.evaluation]
    begun, done = evaluated[0], evaluated[-1]
    assert done.loss < begun.loss
    (metric,) = done.metrics
    running.processes.stop()
    report = check(running.data_dir)
    assert (report.problems, report.notes) == ([], [])

    files = export(running.data_dir, None, tmp_path / "tuned").files
    assert [file.name for file in files[2:]] == ["config.json", "tokenizer.json", "model.safetensors"]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "tuned", attn_implementation="eager")
    data = tokenised(load(f"{kind}:{held_out}"), text, (tmp_path / "tuned" / "tokenizer.json").read_bytes())
    batch, judge = data.batch(np.arange(len(data))), task_class(task)(data)
    session = onnxruntime.InferenceSession(files[1].read_bytes(), providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {"inputs": batch.inputs})
    assert judge.evaluate(judge.measure(outputs, batch), len(data)) == pytest.approx(done.metrics, rel=1e-4)
    with torch.no_grad():
        assert by_theirs(theirs, data) == pytest.approx(done.metrics[metric], rel=1e-4)
