"""Secure aggregation with real processes: the same training, devices that are killed at every stage, and what is recorded."""

import base64
import contextlib
import os
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.e2e.conftest import ENDLESS, wait_until
from tests.prepared import prepared
from zowarmup.client.store.directory import RELEASES
from zowarmup.client.store.releases import ReleaseFile
from zowarmup.common.algorithms.protocol import ClientScalars
from zowarmup.common.algorithms.robust_aggregation import counted
from zowarmup.common.messages.masking import Keys
from zowarmup.common.messages.values import Tier
from zowarmup.common.secure_aggregation.device import own_mask
from zowarmup.common.secure_aggregation.fixed_point import encoded, whole_weights
from zowarmup.common.secure_aggregation.roster import Stage, threshold_of
from zowarmup.common.secure_aggregation.shamir import SHARE_BYTES, recovered
from zowarmup.common.settings.privacy import Privacy
from zowarmup.common.settings.run import Evaluation, Model, RunFile
from zowarmup.lab.demo.settings import to_toml
from zowarmup.server.core import events as ev
from zowarmup.server.core.evolve import evolve
from zowarmup.server.core.masking import sum_of
from zowarmup.server.core.state import State
from zowarmup.server.store.archive import LEDGER
from zowarmup.server.store.fsck import check
from zowarmup.server.store.ledger import Ledger

ROUNDS = 5
CLIENTS = int(os.environ.get("ZOWARMUP_SECURE_CLIENTS", "6"))
"""Of the runs in which some are killed."""
LATER = [stage for stage in Stage if stage is not Stage.KEYS]
METHODS: dict[str, dict[str, Any]] = {
    "shared directions": {"algorithm": "decomfl", "train": "all", "probes": 8, "head_projections": 4, "whitening": 0},
    "a whitened head": {"algorithm": "decomfl", "head_projections": 16},
    "a pool": {"algorithm": "fedkseed", "pool": 16, "probes": 8, "step": "normalized", "rate": 0.1},
}


def run_file(clients: int, secure: bool = True, **settings: Any) -> RunFile:
    return RunFile(
        name="secure",
        seed=3,
        draws="seed",
        privacy=Privacy(secure_aggregation=secure),
        model=Model(name="mlp"),
        warmup=warmup_settings(rounds=0),
        zeroth_order=zeroth_order_settings(
            **{
                "rounds": ROUNDS,
                "clients_per_round": clients,
                "quorum": 1.0,
                "learn_deadline": False,
                "clip": 0.0,
                **settings,
            }
        ),
        evaluation=Evaluation(data="digits:test", every=1000),
    )


def events_of(fleet: Any) -> list[ev.Event]:
    with contextlib.closing(Ledger(fleet.data_dir / LEDGER, read_only=True)) as ledger:
        return [event for _, event in ledger.read()]


@pytest.mark.parametrize("name", METHODS)
def test_the_sum_trains_the_model_and_no_scalar_is_recorded(name: str, fleet: Callable[[], Any]) -> None:
    digests = []
    for secure in (True, False):
        made = fleet()
        made.lead(run_file(3, secure, **METHODS[name]))
        for shard in range(1, 4):
            made.join(f"low-{shard}", f"digits:{shard}/3", "low")
        status = made.finished(3)
        assert {client.digest for client in status.clients} == {status.digest}
        digests.append([event.digest for event in events_of(made) if isinstance(event, ev.Committed)])
        if secure:
            given = [event for event in events_of(made) if isinstance(event, ev.Contributed)]
            assert given and all(isinstance(event.contribution, Keys) for event in given)
            report = check(made.data_dir)
            assert not report.problems, report
    # What the sum is rounded to is far below a tick. Sketches of the features' covariance are added up first, and then factored; and
    # from a pool each client draws directions of its own where nobody has to hide among others.
    assert (digests[0] == digests[1]) is (name == "shared directions")


def join(made: Any, number: int, stage: Stage | None, known: Path) -> str:
    """Start a client that dies at a stage, or at none; its process's name."""
    name, starts = f"low-{number}", len(list(known.glob(f"{number}.*.started")))
    (known / f"{number}.{starts}.started").touch()
    process, state = f"{name}-{starts}", ["--state-dir", str(made.folder / "clients" / name)]
    options = [
        "--server",
        made.address,
        "--data",
        f"digits:{number}/{CLIENTS}",
        "--tier",
        "low",
        "--name",
        name,
        *state,
    ]
    made.processes.start(process, "tests.e2e.dying_client", [str(stage), str(known), *options])
    return process


def test_whoever_is_killed_at_whichever_stage_the_sum_is_that_of_the_survivors(
    fleet: Callable[[], Any], tmp_path: Path
) -> None:
    """What the devices themselves have written down is compared with what comes out of the coordinator's ledger."""
    known = tmp_path / "known"
    known.mkdir()
    made, threshold = fleet(), threshold_of(CLIENTS)
    dying, others = range(1, CLIENTS - threshold + 1), range(CLIENTS - threshold + 1, CLIENTS + 1)
    settings = {**METHODS["shared directions"], "rounds": ENDLESS, "quorum": 0.5, "minimum_clients": CLIENTS}
    made.lead(run_file(CLIENTS, **settings))
    running = {number: join(made, number, None, known) for number in others}
    for stage in LATER:
        names = [join(made, number, stage, known) for number in dying]
        for name in names:
            assert made.code(name, 120) == -signal.SIGKILL, made.logged(name)
    # One more than there may be.
    made.signal(running.pop(CLIENTS), signal.SIGKILL)
    for name in [join(made, number, Stage.MASKED, known) for number in (*dying, CLIENTS)]:
        assert made.code(name, 120) == -signal.SIGKILL, made.logged(name)
    for number in (*dying, CLIENTS):
        join(made, number, None, known)
    at = made.until(lambda status: all(client.connected for client in status.clients), 120, "all to be back").version
    made.until(lambda status: status.version >= at + 2, 120, "two more versions")
    made.end_run()
    status = made.finished(CLIENTS)
    assert {client.digest for client in status.clients} == {status.digest}
    made.processes.stop()
    events = events_of(made)
    abandoned = [event.reason for event in events if isinstance(event, ev.RoundAbandoned)]
    assert f"secure aggregation needs {threshold}" in " ".join(abandoned)
    lost = Counter[Stage]()
    state: State | None = None
    for event in events:
        state = evolve(state, event)
        if isinstance(event, ev.RoundClosed):
            lost += compared(state, known)
    # On a machine that is busy, streams break of others, too.
    assert lost >= Counter(dict.fromkeys(LATER[:-1], len(dying)))
    assert not check(made.data_dir).problems


def compared(state: State, known: Path) -> Counter[Stage]:
    """A closed round's sum is that of what its contributors wrote down; and of none is there what would tell its part. How many were
    lost at each stage."""
    closed = state.current
    assert closed is not None
    gave = {name: np.load(known / f"{name}-{closed.number}.npy") for name in closed.contributors}
    assert (sum_of(state, closed) == np.sum(list(gave.values()), axis=0, dtype=np.uint64)).all()
    bodies = {
        stage: {name: base64.b64decode(body) for name, body in steps.items()} for stage, steps in closed.steps.items()
    }
    present = [place for place, name in enumerate(closed.members) if name in bodies[Stage.SHARES]]
    helpers = {closed.members.index(name) + 1: body for name, body in bodies[Stage.REVEALED].items()}
    for number, place in enumerate(present):
        if (name := closed.members[place]) not in gave:
            continue
        hidden = np.frombuffer(bodies[Stage.MASKED][name], "<u8")
        shares = {helper: body[SHARE_BYTES * number : SHARE_BYTES * (number + 1)] for helper, body in helpers.items()}
        seed = recovered(dict(list(shares.items())[: threshold_of(len(closed.members))]))
        under_pairs = hidden - own_mask(seed, hidden.size)
        assert not (hidden == gave[name]).any() and not (under_pairs == gave[name]).any()
    asked = [set(closed.contributions), *(set(bodies[stage]) for stage in LATER)]
    # The last stage ends with as many as the threshold says: others are not waited for.
    return Counter({stage: len(asked[place] - asked[place + 1]) for place, stage in enumerate(LATER[:-1])})


@pytest.mark.parametrize(
    ("lie", "sentence"),
    [
        ("roster", "what is said to be low-5's share for this device was not sealed by it"),
        ("survivors", "those who are said to have signed are not among those who could"),
    ],
)
def test_a_coordinator_that_lies_about_who_is_there_is_found_out_before_anything_is_revealed(
    lie: str, sentence: str, fleet: Callable[[], Any]
) -> None:
    made = fleet()
    run = run_file(5, **METHODS["shared directions"], quorum=0.5)
    (made.folder / "run.toml").write_text(to_toml(run))
    options = [str(made.folder / "run.toml"), "--data-dir", str(made.data_dir), "--address", made.address]
    made.processes.start("server", "tests.e2e.lying_coordinator", [lie, *options, *prepared(run, made.prepared_models)])
    for number in range(1, 6):
        made.join(f"low-{number}", f"digits:{number}/5", "low")
    wait_until(lambda: "round 1 abandoned" in made.logged("server"), 90, "an abandoned round")
    made.processes.stop()
    events = events_of(made)
    sent = Counter(event.stage for event in events if isinstance(event, ev.StepTaken))
    assert not sent[Stage.REVEALED] and not any(isinstance(event, ev.Committed) for event in events)
    assert f"this device reveals nothing more of it: {sentence}" in made.logged("low-1")
    found_out = "low-1 has signed another roster or other survivors than this device was shown"
    assert (found_out in made.logged("low-2")) is (lie == "survivors")


def test_with_noise_of_their_own_the_sum_is_of_what_devices_have_released(
    fleet: Callable[[], Any], tmp_path: Path
) -> None:
    """What leaves a device is its noised scalars, counted, under masks: in the sum of the last round are those that it has on disk."""
    known, numbers = tmp_path / "known", range(1, 4)
    known.mkdir()
    made = fleet()
    run = run_file(
        3, algorithm="decomfl", train="all", probes=4, head_projections=4, whitening=0, slices="whole", rounds=2
    )
    run = replace(run, privacy=Privacy(mode="local", epsilon=8.0, clip=0.5, secure_aggregation=True))
    made.lead(run)
    for number in numbers:
        join(made, number, None, known)
    status = made.finished(3)
    assert {client.digest for client in status.clients} == {status.digest}
    assert status.privacy is not None
    assert (status.privacy.releases, status.privacy.epsilon) == (2, run.privacy.budget(2).epsilon(2))
    made.processes.stop()
    state: State | None = None
    for event in events_of(made):
        state = evolve(state, event)
        if isinstance(event, ev.RoundClosed):
            compared(state, known)
            closed = state
    current = closed.current
    assert current is not None and len(current.contributors) == 3
    algorithm, examples = closed.algorithm(current.phase), [closed.clients[name].examples for name in current.members]
    limits, weights = algorithm.sum_limits(closed.bounds, 0), whole_weights(counted(examples, run.zeroth_order))
    for name, claimed, weight in zip(current.members, examples, weights, strict=True):
        kept = ReleaseFile(made.folder / "clients" / name / RELEASES).released
        assert kept.count == 2 and kept.scalars is not None
        values = algorithm.summand(ClientScalars(kept.seed, claimed, kept.scalars, Tier.LOW), closed.bounds, 0)
        assert (np.load(known / f"{name}-{current.number}.npy") == encoded(values, limits, weight, sum(weights))).all()
    assert not check(made.data_dir).problems
