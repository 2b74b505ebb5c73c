"""A device with 200 MB: a low-tier client goes through zeroth-order rounds of ResNet18, and torch does not get as far
as one forward pass."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.faults.memory import MemoryGroup, NoGroup, memory_group
from zowarmup.common.settings.run import Evaluation, Model, RunFile

LIMIT_BYTES = 200_000_000
BATCH = 32
ROUNDS = 2
MODEL = Model(name="resnet18")
SHAPE, CLASSES = (3, 32, 32), 10
# All that a client of torch cannot do without: the model, and its forward pass over the batch that the low tier takes.
TORCH = f"""
import torch
from zowarmup.common.models.construction import build
from zowarmup.common.settings.run import Model
torch.set_num_threads(1)
model = build(Model(name={MODEL.name!r}), {SHAPE}, {CLASSES}, 0).eval()
with torch.inference_mode():
    print(tuple(model(torch.zeros({BATCH}, *{SHAPE})).shape))
"""


@pytest.fixture
def small() -> Iterator[MemoryGroup]:
    try:
        with memory_group(LIMIT_BYTES) as group:
            yield group
    except NoGroup as reason:
        why = f"a memory limit needs a control group, and none can be made here: {reason}"
        pytest.skip(why)  # the kernel's business: nothing that can be installed


def test_resnet18_on_the_low_tier_fits_where_torch_is_killed(
    fleet: Callable,  # type: ignore[type-arg]
    small: MemoryGroup,
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-c", TORCH]
    outside = subprocess.run(command, capture_output=True, text=True, check=True)
    assert outside.stdout.strip() == str((BATCH, CLASSES)), "without the limit it does its work"
    inside = subprocess.run(small.command(command), capture_output=True, text=True, check=False)
    assert (inside.returncode, inside.stdout) == (-9, "")
    assert small.killed == 1

    chance = np.random.default_rng(1)
    labels = np.arange(2 * BATCH) % CLASSES
    for part in ("local", "held-out"):
        np.savez(tmp_path / f"{part}.npz", x=chance.integers(0, 256, (2 * BATCH, *SHAPE), dtype=np.uint8), y=labels)
    whole = fleet()
    whole.lead(
        RunFile(
            name="small",
            model=MODEL,
            warmup=warmup_settings(rounds=0),
            # Two probes over two batches: each forward pass has a whole one.
            zeroth_order=zeroth_order_settings(
                rounds=ROUNDS,
                clients_per_round=1,
                learn_deadline=False,
                train="all",
                probes=2,
                rate=0.003,
                micro_batch=BATCH,
            ),
            evaluation=Evaluation(data=f"npz:{tmp_path / 'held-out.npz'}", every=100),
        ),
        measured=True,
    )
    whole.until(lambda status: True, 120, "the coordinator")
    client = [sys.executable, "-m", "zowarmup.client.main", "--server", whole.address, "--name", "pi"]
    client += ["--data", f"npz:{tmp_path / 'local.npz'}", "--state-dir", str(tmp_path / "pi")]
    done = subprocess.run(small.command(client), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "tier low: training needs" in done.stderr, "it saw by itself that this is all it can carry"
    assert "limit of control group" in done.stderr
    status = whole.finished(1)
    assert status.version == ROUNDS
    assert status.replicas.agree == ("pi",)
    assert small.killed == 1, "only torch"
    (pi,) = status.clients
    assert pi.peak_memory_bytes < LIMIT_BYTES, "and not by grace of what the kernel can take back"
