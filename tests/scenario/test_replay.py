"""Whatever happens, the ledger's fold is the state: a property over random histories."""

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from typing import Any

import pytest

from tests.scenario.conftest import eligible
from zowarmup.common.messages.values import Phase, Tier
from zowarmup.server.core import commands as cmd
from zowarmup.server.core.errors import Rejected
from zowarmup.server.core.persistent_map import PersistentMap
from zowarmup.server.core.state import State


@pytest.mark.parametrize("seed", range(40))
def test_replaying_the_durable_events_gives_the_same_state(begin: Callable[..., Any], seed: int) -> None:
    chance = random.Random(seed)
    script = begin(warmup=2, zeroth_order=6, clients=3, minimum=1, quorum=0.6)
    names = ["high-1", "low-1", "low-2", "low-3"]
    for name in names:
        script.join(name, Tier.HIGH if name.startswith("high") else Tier.LOW)
    for _ in range(200):
        name = chance.choice(names)
        current = script.state.current
        try:
            match chance.randrange(8):
                case 0:
                    script.lose(name)
                case 1:
                    script.hello(name)
                case 2:
                    script.advance(chance.choice([0.1, 5.0, 70.0]))
                case 3 if script.state.paused:
                    script.do(cmd.Resume())
                case _ if current and current.closed:
                    script.commit()
                case _ if current and name in current.seeds:
                    script.contribute(name)
        except Rejected:
            pass
        assert _durable(script.replayed()) == _durable(script.state)
        _invariants(script.state)


def _durable(state: State) -> State:
    """What a restart must give back: everything but who was connected, and what they then said they hold."""
    clients = {name: replace(client, examples=0) for name, client in state.clients.items()}
    return replace(state, presence=PersistentMap(), ready={}, absent=PersistentMap(), clients=PersistentMap(clients))


def _invariants(state: Any) -> None:
    current = state.current
    assert [*chain(*state.eligible)] == eligible(state)
    assert dict(state.credentials) == {client.credential_sha256: name for name, client in state.clients.items()}
    if current is not None:
        assert set(current.contributions) <= set(current.seeds)
        assert current.version == state.version
        assert current.number == state.round
    assert (state.pivot_version is None) == (state.phase is Phase.WARM_UP)
    assert state.version == max(state.version, *state.snapshots)
