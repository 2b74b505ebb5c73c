"""Secure aggregation with real processes: the same training, devices that are killed at every stage, and what is recorded."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from tests.algorithms import warmup_settings, zeroth_order_settings
from zowarmup.common.messages.masking import Keys
from zowarmup.common.settings.privacy import Privacy
from zowarmup.common.settings.run import Evaluation, Model, RunFile
from zowarmup.server.core import events as ev
from zowarmup.server.store.archive import LEDGER
from zowarmup.server.store.fsck import check
from zowarmup.server.store.ledger import Ledger

ROUNDS = 5
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
    alike = [first == second for first, second in zip(*digests, strict=True)]
    print(f"{name}: {sum(alike)} of {len(alike)} versions have the digest that they have without secure aggregation")
