"""A model of which a part never moves, with real processes: the constants travel once, and the versions are small."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from safetensors.numpy import load_file

from tests.e2e.test_algorithms import NAMES, ROUNDS, run_file
from zowarmup.cli.session.status import payload
from zowarmup.cli.stored_run import export
from zowarmup.common.messages.values import Phase, Tier
from zowarmup.common.settings.run import Model
from zowarmup.data.digits import part
from zowarmup.server.store.archive import open_archive
from zowarmup.server.store.fsck import check

NAME = "frozen_trunk:model"
WIDTH = 300
CODE = f"""
import torch

def model(shape, outputs):
    trunk = torch.nn.Linear(64, {WIDTH})
    trunk.requires_grad_(False)
    return torch.nn.Sequential(torch.nn.Flatten(), trunk, torch.nn.ReLU(), torch.nn.Linear({WIDTH}, outputs))
"""


def test_constants_are_fetched_once_and_are_in_no_version(
    fleet: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "frozen_trunk.py").write_text(CODE)
    running = fleet()
    monkeypatch.setitem(running.processes._environment, "PYTHONPATH", str(tmp_path))
    running.lead(replace(run_file(), model=Model(name=NAME)))
    for shard, (client, tier) in enumerate(NAMES.items(), 1):
        running.join(client, f"digits:{shard}/{len(NAMES)}", tier, "--allow-model", NAME)
    status = running.finished(len(NAMES))
    assert status.replicas.agree == tuple(NAMES)
    archive = open_archive(running.data_dir)
    layout = archive.layout
    assert layout.head_alone and [tensor.name for tensor in layout.tensors][:2] == ["3.weight", "3.bias"]
    constants = 4 * 65 * WIDTH
    for tier, phases in ((Tier.HIGH, (Phase.WARM_UP, Phase.ZEROTH_ORDER)), (Tier.LOW, (Phase.ZEROTH_ORDER,))):
        fetched = sum(payload(status.traffic, "down", tier, phase, ("base",)) for phase in Phase)
        members = sum(found == tier for found in NAMES.values())
        assert members * constants < fetched < members * 1.1 * constants, "each has fetched it, and once"
        assert phases
    uploaded = payload(status.traffic, "up", Tier.HIGH, Phase.WARM_UP, ("delta",))
    assert uploaded < 1.1 * 4 * layout.uploaded < constants, "a delta has what moves"
    running.processes.stop()
    report = check(running.data_dir)
    assert (report.problems, report.notes) == ([], [])
    assert status.version == 1 + ROUNDS
    exported = export(running.data_dir, None, tmp_path / "digits")
    tensors, digits = load_file(exported.files[0]), part("test")
    hidden = np.maximum(
        digits.batch(np.arange(50)).inputs.reshape(50, 64) @ tensors["1.weight"].T + tensors["1.bias"], 0
    )
    session = onnxruntime.InferenceSession(exported.files[1].read_bytes(), providers=["CPUExecutionProvider"])
    (logits, *_) = session.run(None, {"inputs": digits.batch(np.arange(50)).inputs})
    np.testing.assert_allclose(logits, hidden @ tensors["3.weight"].T + tensors["3.bias"], atol=1e-4)
