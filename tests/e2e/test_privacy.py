"""Differential privacy with real processes: a run to its end, what is shown of it, and that its noise is in no ledger."""

import base64
import json
import signal
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.algorithms import changed
from tests.e2e.test_algorithms import NAMES, run_file
from tests.e2e.test_rounds_end import ledger_of
from tests.e2e.test_secure_aggregation import CLIENTS, METHODS, events_of, join
from tests.e2e.test_secure_aggregation import run_file as run_of_sums
from zowarmup.common.algorithms.private_release import STEPS
from zowarmup.common.messages.masking import Keys
from zowarmup.common.messages.values import Scalars
from zowarmup.common.secure_aggregation.roster import Stage
from zowarmup.common.settings.privacy import Privacy
from zowarmup.server.core.events import Contributed, RoundClosed
from zowarmup.server.core.evolve import evolve
from zowarmup.server.core.masking import sum_of
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
    said = exported_card(private)
    assert said.startswith("local differential privacy of one example of one client: epsilon ")
    assert said.endswith("of 8 at delta 1e-05, 4 of 5 releases")


def test_devices_that_share_the_noise_agree_and_nobody_sees_more_than_their_sum(
    fleet: Callable[[], Any], tmp_path: Path
) -> None:
    """One of six is killed as it is asked for its masked part: it takes its noise along, and five are enough; then it comes back."""
    made, known = fleet(), tmp_path / "known"
    known.mkdir()
    shared = {**METHODS["shared directions"], "slices": "whole", "rounds": 3, "quorum": 0.5, "minimum_clients": 0}
    privacy = Privacy(mode="aggregate", epsilon=8.0, releases=20, secure_aggregation=True)
    run = replace(run_of_sums(CLIENTS, **shared), privacy=privacy)
    made.lead(run)
    names = [join(made, number, Stage.MASKED if number == CLIENTS else None, known) for number in range(1, CLIENTS + 1)]
    assert made.code(names[-1], 120) == -signal.SIGKILL, made.logged(names[-1])
    names[-1] = join(made, CLIENTS, None, known)
    status = made.finished(CLIENTS)
    assert {client.digest for client in status.clients} == {status.digest}, "bit for bit"
    assert status.privacy is not None and status.privacy.mode == "aggregate"
    budget = privacy.budget(3)
    assert status.privacy.epsilon == budget.epsilon(status.privacy.releases)
    made.processes.stop()
    assert "by noise that a round's devices share, of whom 1 may tell theirs: epsilon " in exported_card(made)
    assert not check(made.data_dir).problems, "and a replay makes the same versions"

    state, rounds, drawn = None, 0, CLIENTS
    for event in events_of(made):
        state = evolve(state, event)
        assert not isinstance(event, Contributed) or isinstance(event.contribution, Keys)
        if not isinstance(event, RoundClosed):
            continue
        rounds += 1
        closed = state.current
        assert closed is not None
        drawn = min(drawn, len(closed.contributors))
        gave = {name: np.load(known / f"{name}-{closed.number}.npy") for name in closed.contributors}
        assert (sum_of(state, closed) == np.sum(list(gave.values()), axis=0, dtype=np.uint64)).all()
        # With the same seed and the same weights, no two have added the same; and of none it is in the ledger.
        assert len({given.tobytes() for given in gave.values()}) == len(gave)
        given = {base64.b64decode(body) for body in closed.steps[Stage.MASKED].values()}
        assert not given & {part.astype("<u8").tobytes() for part in gave.values()}
    assert rounds == 3 and drawn == CLIENTS - 1
    for client in status.clients:
        kept = json.loads((made.folder / "clients" / client.name / "releases.json").read_text())
        assert (
            set(kept) == {"count", "seed", "version", "told", "told_alone"}
            and 2 <= kept["count"] <= status.privacy.releases
        )
        assert "with the other devices' noise; up to " in made.logged(names[int(client.name[4:]) - 1])


def exported_card(made: Any) -> str:
    """What the file of the exported model says of its privacy."""
    out = made.folder / "model"
    exported = made.run_once("zowarmup.cli.main", "export", "--data-dir", str(made.data_dir), "--out", str(out))
    assert exported.returncode == 0, exported.stderr
    content = out.with_suffix(".safetensors").read_bytes()
    return str(json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]["privacy"])


def contributed(private: Any) -> list[tuple[str, Scalars]]:
    events = [event for _, event in ledger_of(private) if isinstance(event, Contributed)]
    return [(event.client, event.contribution) for event in events if isinstance(event.contribution, Scalars)]
