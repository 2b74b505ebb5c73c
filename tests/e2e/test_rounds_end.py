"""Rounds always end: with real processes that are killed, that freeze, and that come back."""

import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.e2e.conftest import ENDLESS
from tests.patience import PATIENCE
from zowarmup.cli.session.session import Session
from zowarmup.cli.session.status import payload
from zowarmup.common.messages.values import Tier
from zowarmup.common.settings.run import Evaluation, Model, RunFile, Server
from zowarmup.data import load
from zowarmup.server.core import events as ev
from zowarmup.server.store.archive import LEDGER
from zowarmup.server.store.ledger import Ledger

DEADLINE_S = 4.0
RUN = RunFile(
    name="rounds",
    seed=5,
    draws="seed",
    model=Model(name="mlp"),
    warmup=warmup_settings(rounds=1, clients_per_round=1, quorum=1.0),
    zeroth_order=zeroth_order_settings(
        rounds=ENDLESS,
        clients_per_round=3,
        minimum_clients=2,
        quorum=0.6,
        deadline_s=DEADLINE_S,
        learn_deadline=False,
        probes=8,
        head_projections=4,
    ),
    evaluation=Evaluation(data="digits:test", every=1000),
)
NAMES = {"high-1": "high", "low-1": "low", "low-2": "low"}


def join_all(fleet: Any) -> None:
    for shard, (name, tier) in enumerate(NAMES.items(), 1):
        fleet.join(name, f"digits:{shard}/3", tier)


def ledger_of(fleet: Any) -> list[tuple[float, ev.Event]]:
    ledger = Ledger(fleet.data_dir / LEDGER, read_only=True)
    try:
        return list(ledger.read())
    finally:
        ledger.close()


def waited(fleet: Any, reason: str) -> list[tuple[float, float]]:
    """Of each round that closed for a reason: seconds from its opening, and from its last contribution, to closing."""
    found, opened, last = [], 0.0, 0.0
    for at, event in ledger_of(fleet):
        match event:
            case ev.RoundOpened():
                opened = last = at
            case ev.Contributed():
                last = at
            case ev.RoundClosed() if reason in event.reason:
                found.append((at - opened, at - last))
    return found


def test_no_round_waits_for_a_killed_client_where_quorum_is_met(fleet: Callable[[], Any]) -> None:
    """The deadline is so far off that a round that waited for it would hang; that no grace is waited for either is in
    `tests/scenario/test_absence.py`, by a clock of the test's own."""
    made = fleet()
    made.lead(replace(RUN, zeroth_order=replace(RUN.zeroth_order, deadline_s=3600.0)))
    join_all(made)
    for attempt in range(3):
        status = made.until(lambda status: status.version >= 5, 60, "version 5")
        made.signal("low-2" + "-again" * attempt, signal.SIGKILL)
        after = status.version + 5
        made.until(lambda status, after=after: status.version >= after, 60, "five more versions")
        made.join("low-2", "digits:3/3", "low", log="low-2" + "-again" * (attempt + 1))
        made.until(lambda status: all(client.connected for client in status.clients), 60, "it to come back")
    made.end_run()
    made.finished(3)
    delays = waited(made, "the others are gone or abstain")
    print(
        f"{len(delays)} rounds closed without a killed client, the longest {max(d for _, d in delays or [(0, 0)]):.3f} s later"
    )
    assert not waited(made, "the deadline is over")
    assert not [event for _, event in ledger_of(made) if isinstance(event, ev.RoundAbandoned)]


def test_a_round_with_a_frozen_client_closes_at_its_deadline(fleet: Callable[[], Any]) -> None:
    made = fleet()
    made.lead(RUN)
    join_all(made)
    made.until(lambda status: status.version >= 5, 60, "version 5")
    made.freeze("low-2")
    status = made.until(lambda _: True, 30, "where it is by then")
    made.until(lambda after: after.version >= status.version + 2, 30, "two more versions")
    made.thaw("low-2")
    made.end_run()
    made.finished(3)
    delays = waited(made, "the deadline is over")
    print(f"{len(delays)} rounds closed at the deadline, the longest after {max(d for d, _ in delays):.3f} s")
    assert delays and all(from_opening < DEADLINE_S * PATIENCE for from_opening, _ in delays)


def test_a_client_whose_loss_is_not_finite_delays_nobody_and_says_why(fleet: Callable[[], Any], tmp_path: Path) -> None:
    specs = {"high-1": "digits:1/3", "low-1": "digits:2/3", "low-2": "digits:3/3", "held-out": "digits:test"}
    for name, spec in specs.items():
        data = load(spec)
        inputs = data.batch(np.arange(len(data))).inputs
        if name == "low-2":  # a few wild values, which do not keep it from joining
            inputs[:5, 0, 3, 3] = 3e38
        np.savez(tmp_path / f"{name}.npz", x=inputs, y=data.targets)
    made = fleet()
    rules = replace(RUN.zeroth_order, rounds=20, deadline_s=3600.0)
    held_out = replace(RUN.evaluation, data=f"npz:{tmp_path / 'held-out.npz'}")
    made.lead(replace(RUN, zeroth_order=rules, evaluation=held_out))
    for name in NAMES:
        made.join(name, f"npz:{tmp_path / name}.npz", "high" if name == "high-1" else "low")
    made.until(lambda status: status.version >= 1, 240, "the warm-up")
    status = made.finished(3, seconds=120)
    assert status.replicas.agree == tuple(NAMES), "it hears the others' steps all the same"
    with Session(made.address) as session:
        clients = {client.name: client for client in session.clients()}
    assert set(clients) == set(NAMES)
    assert all(client.agrees and client.version == status.version for client in clients.values())
    assert all(client.software.startswith("zowarmup ") and client.peak_memory_bytes for client in clients.values())
    assert all(client.down_bytes > 1000 for client in clients.values())
    assert "scalars: " in clients["low-2"].abstained
    assert all(client.up_bytes > (len(client.abstained) or 1000) for client in clients.values())
    assert [name for name, client in clients.items() if client.contributed_s is None] == ["low-2"]
    said = [event for _, event in ledger_of(made) if isinstance(event, ev.Abstained)]
    assert {event.client for event in said} == {"low-2"}, "it rests afterwards, so this need not be often"
    assert waited(made, "low-2 abstains") and not waited(made, "the deadline is over")


def test_a_run_that_pauses_itself_says_so_and_can_be_resumed_after_a_restart(fleet: Callable[[], Any]) -> None:
    made = fleet()
    rules = replace(RUN.zeroth_order, quorum=1.0, minimum_clients=3)
    made.lead(replace(RUN, zeroth_order=rules, server=Server(abandoned_limit=2)), "server", "--exit-when-finished")
    join_all(made)
    made.until(lambda status: status.version >= 3, 60, "version 3")
    made.freeze("low-2")
    assert made.code("server", 30) == 3
    reason = "2 rounds in a row were abandoned"
    assert f"leaving, as nobody is here to resume it: {reason}" in made.logged("server")
    made.thaw("low-2")
    made.lead(None, "server", "--exit-when-finished")
    made.until(lambda status: status.paused.startswith(reason), 60, "the status to say why")


def test_fifty_missed_rounds_are_caught_up_by_steps_in_few_bytes(fleet: Callable[[], Any]) -> None:
    made = fleet()
    made.lead(replace(RUN, zeroth_order=replace(RUN.zeroth_order, rounds=180, snapshot_every=1000)))
    join_all(made)
    made.until(lambda status: status.version >= 6, 60, "version 6")
    made.signal("low-2", signal.SIGKILL)
    before = made.until(lambda status: status.version == status.final_version, 120, "the others to finish")
    made.join("low-2", "digits:3/3", "low", log="low-2-again")
    status = made.finished(3)
    assert status.replicas.agree == tuple(NAMES)
    found = re.search(
        r"low-2 catches up from version (\d+) to (\d+): (\d+) commits cost (\d+) bytes, the snapshot (\d+)",
        made.logged("server"),
    )
    assert found is not None
    _, _, missed, cost, snapshot = map(int, found.groups())
    received = [payload(s.traffic, "down", Tier.LOW, None, ("commit",)) for s in (before, status)]
    sent = received[1] - received[0]
    print(f"{missed} missed rounds: {sent} bytes received, a snapshot has {snapshot}; digests equal")
    assert missed >= 50
    assert cost < sent < cost + 8 * missed, "what was announced, and the frames"
    assert sent < snapshot
    assert payload(status.traffic, "down", Tier.LOW, None, ("snapshot",)) == payload(
        before.traffic, "down", Tier.LOW, None, ("snapshot",)
    ), "no snapshot was fetched"
