"""The main job, with real processes: warm-up, pivot and zeroth-order rounds across a mixed fleet."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.e2e.conftest import fleets
from zowarmup.cli.session.status import Status, payload
from zowarmup.common.messages.values import Phase, Tier
from zowarmup.common.settings.run import Evaluation, Model, RunFile
from zowarmup.server.store.archive import Archive, open_archive

RUN = RunFile(
    name="e2e",
    seed=3,
    draws="seed",
    model=Model(name="mlp"),
    warmup=warmup_settings(rounds=2, clients_per_round=1, quorum=1.0, learn_deadline=False),
    zeroth_order=zeroth_order_settings(
        rounds=6, clients_per_round=4, quorum=1.0, learn_deadline=False, probes=8, head_projections=4
    ),
    evaluation=Evaluation(data="digits:test", every=100),
)
NAMES = {"high-1": "high", "low-1": "low", "low-2": "low", "low-3": "low"}


def join_all(fleet, names=NAMES) -> None:  # type: ignore[no-untyped-def]
    for shard, (name, tier) in enumerate(names.items(), 1):
        fleet.join(name, f"digits:{shard}/{len(names)}", tier)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, prepared_models: Path) -> Iterator[tuple[Status, Archive]]:
    """What has become of RUN."""
    with fleets(tmp_path_factory.mktemp("mixed"), prepared_models) as make:
        mixed = make()
        mixed.lead(RUN, measured=True)
        join_all(mixed)
        status = mixed.finished(len(NAMES))
        yield status, open_archive(mixed.data_dir)


def test_a_mixed_fleet_trains_one_model_bit_for_bit(trained: tuple[Status, Archive]) -> None:
    status, archive = trained
    assert status.replicas.agree == tuple(NAMES), "the coordinator's and every client's digest are equal"
    assert status.version == 8
    assert status.pivot_version == 2
    for phase, tier, sent in ((Phase.WARM_UP, Tier.LOW, 0), (Phase.WARM_UP, Tier.HIGH, 2)):
        contributed = [t for t in status.traffic if (t.kind, t.tier, t.phase) == ("contribution", tier, phase)]
        assert sum(t.messages for t in contributed) == sent
    layout = archive.layout
    size, uploaded = layout.size, payload(status.traffic, "up", Tier.HIGH, Phase.WARM_UP, ("delta",))
    assert uploaded == pytest.approx(2 * 4 * layout.uploaded, rel=0.02)
    snapshots = payload(status.traffic, "down", Tier.LOW, None, ("snapshot",))
    assert snapshots == pytest.approx(2 * 3 * 4 * size, rel=0.02), (
        "at the pivot, and once its head reads whitened features"
    )
    weights, _ = archive.weights(8)
    assert archive.digest(8) == status.digest
    assert weights.shape == (size,)


def test_the_zeroth_order_phase_is_deterministic(
    trained: tuple[Status, Archive],
    fleet: Callable,  # type: ignore[type-arg]
    tmp_path: Path,
) -> None:
    """From one warm snapshot, the same seeds and participants give the same bits: whoever arrives first, and whether
    a client is of the high tier or the low."""
    chance = np.random.default_rng(0)
    _, archive = trained
    weights, _ = archive.weights(2)
    save_file(
        {name: view.copy() for name, view in archive.layout.views(weights).items()}, tmp_path / "warm.safetensors"
    )

    run = replace(
        RUN,
        model=replace(RUN.model, weights=str(tmp_path / "warm.safetensors")),
        warmup=replace(RUN.warmup, rounds=0),
    )
    digests = []
    for tiers in (("low",) * 4, ("high", "low", "low", "low")):
        members = list(zip(enumerate(NAMES, 1), tiers, strict=True))
        chance.shuffle(members)
        again = fleet()
        again.lead(run)
        for (shard, name), tier in members:
            again.join(name, f"digits:{shard}/4", tier)
        status = again.finished(4)
        assert len(status.replicas.agree) == 4
        digests.append(status.digest)
    assert digests[0] == digests[1]


def test_resnet18_goes_the_whole_way(fleet: Callable, tmp_path: Path) -> None:  # type: ignore[type-arg]
    """With BatchNorm it does in tests/e2e/test_plan.py."""
    chance = np.random.default_rng(1)
    for part in ("a", "b", "held-out"):
        labels = np.arange(12) % 10
        images = chance.integers(0, 256, (12, 3, 32, 32), dtype=np.uint8) // 2 + (labels * 12)[:, None, None, None]
        np.savez(tmp_path / f"{part}.npz", x=images.astype(np.uint8), y=labels)
    run = RunFile(
        name="resnet18",
        model=Model(name="resnet18"),
        warmup=warmup_settings(
            rounds=1, clients_per_round=1, quorum=1.0, learn_deadline=False, epochs=1, batch=6, rate=0.01
        ),
        zeroth_order=zeroth_order_settings(
            rounds=2,
            clients_per_round=2,
            quorum=1.0,
            learn_deadline=False,
            probes=4,
            head_projections=4,
            rate=0.003,
            micro_batch=8,
        ),
        evaluation=Evaluation(data=f"npz:{tmp_path / 'held-out.npz'}", every=100),
    )
    whole = fleet()
    whole.lead(run)
    whole.join("high-1", f"npz:{tmp_path / 'a.npz'}", "high")
    whole.join("low-1", f"npz:{tmp_path / 'b.npz'}", "low")
    status = whole.finished(2, seconds=180)
    assert status.replicas.agree == ("high-1", "low-1")
    assert open_archive(whole.data_dir).layout.trainable == 11_173_962
    assert payload(status.traffic, "up", Tier.HIGH, Phase.WARM_UP, ("delta",)) > 44_600_000
