"""Counters of a run's events: which of them move, by how much, and that each begins at zero."""

from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from tests.unit.server.test_coordinator import CREATED
from zowarmup.common.messages.values import Abstention, Phase, Scalars, Tier
from zowarmup.server.core import events as ev
from zowarmup.server.core.evolve import fold
from zowarmup.server.core.state import State
from zowarmup.server.telemetry.counters import Counters

NAMES = ("a", "b", "c")
FEDAVG_BYTES = 16  # of the model's four weights


class Counted:
    """A run of three low-tier clients whose zeroth-order round is open since second 100."""

    def __init__(self) -> None:
        joined = [ev.ClientEnrolled(name, Tier.LOW, 10, name * 64) for name in NAMES]
        state = fold(None, [CREATED, ev.Pivoted(0, ""), *joined])
        assert state is not None
        self.state: State = state
        self.registry = CollectorRegistry()
        self.counters = Counters(self.registry, state)
        self.see(ev.RoundOpened(1, Phase.ZEROTH_ORDER, 0, NAMES, (1, 2, 3), (10,) * 3, 160.0, "", 3, 100.0))

    def see(self, *events: ev.Event, now: float = 100.0) -> None:
        after = fold(self.state, events)
        assert after is not None
        self.state = after
        self.counters(now, events, after)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"zowarmup_{name}", labels)

    def of_low(self, name: str) -> float | None:
        return self.value(name, phase="zeroth-order", tier="low")


@pytest.fixture
def run() -> Counted:
    return Counted()


def contributed(*names: str) -> list[ev.Event]:
    return [ev.Contributed(name, Scalars(1, (1.0,), ()), 1.0) for name in names]


def committed(clipped_scalars: int = 0) -> ev.Committed:
    return ev.Committed(1, 1, "e" * 32, (), None, (), clipped_scalars)


def test_all_begin_at_zero_and_tiers_that_have_no_part_are_not_there(run: Counted) -> None:
    for name in ("contributions_total", "dropouts_total", "abstentions_total"):
        assert run.of_low(name) == 0.0
        assert run.value(name, phase="warm-up", tier="high") == 0.0
        assert run.value(name, phase="warm-up", tier="low") is None
    assert run.value("rounds_total", phase="zeroth-order", outcome="committed") == 0.0
    assert run.value("clipped_total", kind="delta") == run.value("rollbacks_total") == 0.0
    assert run.value("round_duration_seconds_count", phase="warm-up") == 0.0


def test_a_round_that_is_committed(run: Counted) -> None:
    run.see(ev.Abstained("c", Abstention(1, "no memory")), *contributed("a", "b"), ev.RoundClosed(1, "enough"))
    run.see(committed(clipped_scalars=3), now=107.5)
    assert run.value("rounds_total", phase="zeroth-order", outcome="committed") == 1
    assert run.value("rounds_total", phase="zeroth-order", outcome="abandoned") == 0
    assert [run.of_low(f"{name}_total") for name in ("contributions", "dropouts", "abstentions")] == [2, 1, 1]
    assert run.value("clipped_total", kind="scalar") == 3
    assert run.value("clipped_total", kind="delta") == 0
    assert run.value("rounds_below_tick_total") == 0, "there were no steps"
    assert run.value("round_duration_seconds_sum", phase="zeroth-order") == 7.5
    assert run.value("round_duration_seconds_bucket", phase="zeroth-order", le="5.0") == 0
    assert run.value("round_duration_seconds_bucket", phase="zeroth-order", le="10.0") == 1
    fedavg = {
        way: run.value("fedavg_bytes_total", direction=way, tier="low", phase="zeroth-order") for way in ("down", "up")
    }
    assert fedavg == {"down": 3 * FEDAVG_BYTES, "up": 2 * FEDAVG_BYTES}


def test_a_round_that_is_abandoned_has_no_duration_and_cost_nothing(run: Counted) -> None:
    run.see(*contributed("a"), ev.RoundAbandoned(1, "too few"), now=160.0)
    assert run.value("rounds_total", phase="zeroth-order", outcome="abandoned") == 1
    assert run.of_low("dropouts_total") == 2
    assert run.value("round_duration_seconds_count", phase="zeroth-order") == 0
    assert run.value("fedavg_bytes_total", direction="down", tier="low", phase="zeroth-order") == 0


def test_who_is_revoked_is_no_dropout(run: Counted) -> None:
    run.see(ev.ClientRevoked("c", "lost"), *contributed("a", "b"), ev.RoundClosed(1, "all"), committed())
    assert run.of_low("dropouts_total") == 0
    assert run.value("fedavg_bytes_total", direction="down", tier="low", phase="zeroth-order") == 2 * FEDAVG_BYTES


def test_a_round_that_a_restart_interrupted_has_no_duration(run: Counted) -> None:
    assert run.state.current is not None
    restarted = replace(run.state, current=replace(run.state.current, opened_at=0.0))
    registry = CollectorRegistry()
    counters = Counters(registry, restarted)
    counters(107.5, [*contributed("a"), committed()], restarted)
    assert registry.get_sample_value("zowarmup_rounds_total", {"phase": "zeroth-order", "outcome": "committed"}) == 1
    assert registry.get_sample_value("zowarmup_round_duration_seconds_count", {"phase": "zeroth-order"}) == 0
    assert registry.get_sample_value("zowarmup_dropouts_total", {"phase": "zeroth-order", "tier": "low"}) == 2


def test_a_return_to_the_last_good_version_is_counted(run: Counted) -> None:
    run.counters(100.0, [ev.RolledBack(2, 0, "d" * 32, (), None, (), rate_factor=0.5, reason="lost")], run.state)
    assert run.value("rollbacks_total") == 1
