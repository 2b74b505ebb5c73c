"""Differential privacy with real processes: a run to its end, what is shown of it, and that its noise is in no ledger."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from tests.algorithms import changed
from tests.e2e.test_algorithms import NAMES, run_file
from tests.e2e.test_rounds_end import ledger_of
from zowarmup.common.algorithms.private_release import STEPS
from zowarmup.common.messages.values import Scalars
from zowarmup.common.settings.privacy import Privacy
from zowarmup.server.core.events import Contributed
from zowarmup.server.store.archive import open_archive
from zowarmup.server.store.fsck import check


def test_a_private_run_shows_what_it_tells_and_its_ledger_has_no_noise_apart(fleet: Callable[[], Any]) -> None:
    run = run_file(slices="whole", whitening=0, train="all", probes=4, head_projections=4)
    run = replace(
        run, warmup=changed(run.warmup, rounds=0), privacy=Privacy(mode="local", epsilon=8.0, releases=5, clip=0.5)
    )
    private = fleet()
    private.lead(run)
    for shard, (client, tier) in enumerate(NAMES.items(), 1):
        private.join(client, f"digits:{shard}/{len(NAMES)}", tier)
    status = private.finished(len(NAMES))
    assert status.replicas.agree == tuple(NAMES)
    budget = run.privacy.budget(4)
    assert status.privacy is not None
    assert asdict(status.privacy) == {
        "mode": "local",
        "epsilon": budget.epsilon(4),
        "epsilon_budget": budget.epsilon(5),
        "delta": 1e-5,
        "releases": 4,
        "releases_budget": 5,
    }
    kept = [json.loads((private.folder / "clients" / name / "releases.json").read_text()) for name in NAMES]
    assert [one["count"] for one in kept] == [4, 4, 4]

    archive = open_archive(private.data_dir)
    assert not check(private.data_dir).problems, "and a replay makes the same versions"
    given = contributed(private)
    assert len(given) == 12
    assert {(len(one.probes), len(one.projections)) for _, one in given} == {(4, 4)}
    # All that the ledger has of a release is the noised mean: whole steps of the grid, of which the noise has thousands.
    examples = {name: client.examples for name, client in archive.state.clients.items()}
    step = 2 * 0.5 * np.sqrt(8) * budget.multiplier / STEPS
    for name, scalars in given:
        steps = np.array([*scalars.probes, *scalars.projections]) * examples[name] / step
        assert np.abs(steps - np.rint(steps)).max() < min(0.25, 2**-23 * np.abs(steps).max()), "as float32 has them"
        assert np.abs(steps).max() > STEPS / 20
    exported = private.run_once(
        "zowarmup.cli.main", "export", "--data-dir", str(private.data_dir), "--out", str(private.folder / "model")
    )
    assert exported.returncode == 0, exported.stderr
    content = (private.folder / "model.safetensors").read_bytes()
    said = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]["privacy"]
    assert said.startswith("local differential privacy of one example of one client: epsilon ")
    assert said.endswith("of 8 at delta 1e-05, 4 of 5 releases")


def contributed(private: Any) -> list[tuple[str, Scalars]]:
    events = [event for _, event in ledger_of(private) if isinstance(event, Contributed)]
    return [(event.client, event.contribution) for event in events if isinstance(event.contribution, Scalars)]
