"""Each algorithm with real processes: a short run on the digits, and the same bits everywhere."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.algorithms import changed, warmup_settings, zeroth_order_settings
from tests.e2e.conftest import wait_until
from zowarmup.cli.session.status import payload
from zowarmup.common.exact.submodel import half_width
from zowarmup.common.messages.values import Phase, Tier
from zowarmup.common.settings.run import Evaluation, Model, RunFile
from zowarmup.server.store.archive import open_archive
from zowarmup.server.store.fsck import check

NAMES = {"high-1": "high", "low-1": "low", "low-2": "low"}
ROUNDS = 4
PROBED = {"train": "all", "probes": 8, "head_projections": 4, "whitening": 0}
ALGORITHMS: dict[str, dict[str, Any]] = {
    "the defaults": {},
    "decomfl, whitened, bytes": {"algorithm": "decomfl", "head_projections": 16, "scalars": "byte"},
    "everything, whitened": {**PROBED, "whitening": 3},
    "exact projections": {"probes": 8, "head_projections": 4, "gradient_projections": 24},
    "decomfl, local steps": {**PROBED, "algorithm": "decomfl", "local_steps": 2, "rate": 0.05},
    "head alone": {"train": "head", "head_projections": 16, "whitening": 0},
    "biases": {"train": "norm", "probes": 8, "head_projections": 4, "whitening": 0},
    "adam": {**PROBED, "step": "adam", "beta2": 0.9, "rate": 0.01},
    "gaussian": {**PROBED, "directions": "gaussian", "rate": 0.1},
    "mixed": {"probes": 8, "head_projections": 4, "algorithm": "mixed", "rate": 0.1},
    "fedkseed, biases": {
        "algorithm": "fedkseed",
        "pool": 64,
        "probes": 8,
        "step": "raw",
        "rate": 1e-4,
        "train": "norm",
    },
    "bytes": {**PROBED, "scalars": "byte"},
    "decomfl, nibbles": {**PROBED, "algorithm": "decomfl", "head_projections": 5, "scalars": "nibble"},
}


def run_file(**settings: Any) -> RunFile:
    everyone = {"clients_per_round": len(NAMES), "quorum": 1.0, "learn_deadline": False, "snapshot_every": 1000}
    return RunFile(
        name="algorithms",
        seed=3,
        draws="seed",
        model=Model(name="mlp"),
        warmup=warmup_settings(rounds=1, clients_per_round=1, quorum=1.0, learn_deadline=False),
        zeroth_order=zeroth_order_settings(rounds=ROUNDS, **everyone, **settings),  # type: ignore[arg-type]
        evaluation=Evaluation(data="digits:test", every=1000),
    )


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_method_moves_every_replica_alike(name: str, fleet: Callable[[], Any]) -> None:
    settings = ALGORITHMS[name]
    mixed = fleet()
    run = run_file(**settings)
    mixed.lead(run)
    for shard, (client, tier) in enumerate(NAMES.items(), 1):
        mixed.join(client, f"digits:{shard}/{len(NAMES)}", tier)
    status = mixed.finished(len(NAMES))
    assert status.replicas.agree == tuple(NAMES), "the coordinator's and every client's digest are equal"
    assert status.version == 1 + ROUNDS
    archive = open_archive(mixed.data_dir)
    stepped, buffer = sorted(archive.history.commits), archive.layout.whitening
    if settings.get("algorithm") == "mixed":
        assert stepped == [], "a mean of deltas is a snapshot"
        uploaded = payload(status.traffic, "up", Tier.HIGH, Phase.ZEROTH_ORDER, ("delta",))
        assert uploaded == pytest.approx(ROUNDS * 4 * archive.layout.size, rel=0.02)
    else:
        whitened = [] if buffer is None else [2]  # the first round gives a snapshot and no steps
        kept = [*([1, 2] if whitened else [0, 1]), 1 + ROUNDS]  # the last one is taken once the run is over
        wait_until(lambda: sorted(open_archive(mixed.data_dir).state.snapshots) == kept, 20, "the last snapshot")
        assert stepped == list(range(2 + len(whitened), 2 + ROUNDS))
        assert (buffer is not None) is (run.zeroth_order.whitens > 0)
    mixed.processes.stop()
    report = check(mixed.data_dir)
    assert (report.problems, report.notes) == ([], []), "every version comes out of its contributions again"
    assert len(archive.state.moments) == (3 if settings.get("step") == "adam" else 0)
    since = archive.history.since(min(stepped) - 1, 1 + ROUNDS) if stepped else ()
    steps = [step for commit in since or () for step in commit.steps]
    if settings.get("algorithm") == "decomfl":
        both = settings.get("local_steps", 1)
        lengths = [("trunk", both * 8)] if settings.get("train") else []
        lengths.append(("head", both * settings["head_projections"]))
        assert [(step.block.name, len(step.ticks)) for step in steps] == lengths * len(stepped)
    exact = "algorithm" not in settings
    if exact and ((train := settings.get("train")) in ("head", "norm") or not settings):
        assert {step.block.name for step in steps} == {"head"} | ({"probed"} if train == "norm" else set())
        assert archive.layout.edges[-1] - archive.layout.edges[0] == (128 if train == "norm" else 0)
    if settings.get("algorithm") == "fedkseed":
        assert len(steps) == ROUNDS and {(step.seed, step.block.name) for step in steps} == {(steps[0].seed, "probed")}
        assert max(len(step.ticks) for step in steps) <= 64
    if settings.get("scalars") and buffer is None:
        sent = sum(payload(status.traffic, "up", tier, Phase.ZEROTH_ORDER, ("contribution",)) for tier in Tier)
        values = 8 + 4 if settings["scalars"] == "byte" else 4 + 3
        assert sent / (ROUNDS * len(NAMES)) == 1 + values + 1 + 2 + 2 + 2 + 2, "with an exponent, and what frames it"
    if "gradient_projections" in settings:
        up = {tier: payload(status.traffic, "up", tier, Phase.ZEROTH_ORDER, ("contribution",)) for tier in Tier}
        assert up[Tier.HIGH] / ROUNDS == pytest.approx(4 * (24 + 4), abs=16)
        assert up[Tier.LOW] / (2 * ROUNDS) == pytest.approx(4 * (8 + 4), abs=16)


@pytest.mark.parametrize("rounds", [0, 2])
def test_heterofl_trains_both_tiers_and_the_low_one_uploads_half(rounds: int, fleet: Callable[[], Any]) -> None:
    """A run of HeteroFL alone ends after its warm-up; with zeroth-order rounds it goes on with them."""
    both, trained = fleet(), 3
    plain = run_file(**PROBED)
    warmup = changed(plain.warmup, "heterofl", rounds=trained, clients_per_round=len(NAMES))
    both.lead(replace(plain, warmup=warmup, zeroth_order=replace(plain.zeroth_order, rounds=rounds)))
    for shard, (client, tier) in enumerate(NAMES.items(), 1):
        both.join(client, f"digits:{shard}/{len(NAMES)},alpha=1000", tier)
    status = both.finished(len(NAMES))
    assert status.replicas.agree == tuple(NAMES)
    assert (status.version, status.pivot_version) == (trained + rounds, trained)

    def kept() -> bool:
        return {trained, trained + rounds} <= set(open_archive(both.data_dir).state.snapshots)

    wait_until(kept, 60, "the snapshots of the pivot and the end")
    archive = open_archive(both.data_dir)
    size = {Tier.HIGH: archive.layout.size, Tier.LOW: half_width(archive.layout).layout.size}
    assert 0.25 < size[Tier.LOW] / size[Tier.HIGH] < 0.51
    for tier, count in ((Tier.HIGH, 1), (Tier.LOW, 2)):
        uploaded = payload(status.traffic, "up", tier, Phase.WARM_UP, ("delta",))
        assert uploaded / (trained * count) == pytest.approx(4 * size[tier], rel=0.02)
        fetched = payload(status.traffic, "down", tier, None, ("snapshot",))
        assert fetched / count == pytest.approx((trained + 1) * 4 * archive.layout.size, rel=0.02), "whole models"
    assert status.pivot_evaluation is not None and status.value(status.pivot_evaluation) > 0.8
    both.processes.stop()
    report = check(both.data_dir)
    assert (report.problems, report.notes) == ([], [])
