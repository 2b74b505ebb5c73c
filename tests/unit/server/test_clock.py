"""A coordinator whose system clock jumps: nothing ends early, nothing lasts longer, and what people read is the date."""

import asyncio
from pathlib import Path

import pytest

from tests.unit.server.test_coordinator import CREATED, enrol
from zowarmup.common.messages.values import Tier
from zowarmup.server.coordinator import Coordinator, steady_clock
from zowarmup.server.core import commands as cmd
from zowarmup.server.core import events as ev
from zowarmup.server.core.evolve import evolve
from zowarmup.server.store.ledger import Ledger

JUMPS = [-7200.0, 7200.0, -50 * 365 * 86400.0, 4 * 365 * 86400.0]


class Machine:
    """Its two clocks, moved by hand: time that passes moves both, whoever sets the clock moves the calendar's."""

    def __init__(self) -> None:
        self.calendar, self.since_boot = 1.7e9, 12.0

    def passes(self, seconds: float) -> None:
        self.calendar, self.since_boot = self.calendar + seconds, self.since_boot + seconds

    def set_by(self, seconds: float) -> None:
        self.calendar += seconds


@pytest.mark.parametrize("jump", JUMPS)
def test_the_clock_counts_what_has_passed_whatever_the_calendar_does(jump: float) -> None:
    machine = Machine()
    clock = steady_clock(lambda: machine.calendar, lambda: machine.since_boot)
    began = clock()
    assert began == machine.calendar
    machine.passes(3.0)
    machine.set_by(jump)
    machine.passes(4.0)
    assert clock() - began == 7.0


@pytest.mark.parametrize("jump", JUMPS)
def test_a_round_lasts_as_long_as_it_may_on_a_machine_whose_clock_jumps(jump: float, tmp_path: Path) -> None:
    machine = Machine()
    ledger = Ledger(tmp_path / "ledger")
    clock = steady_clock(lambda: machine.calendar, lambda: machine.since_boot)
    coordinator = Coordinator(ledger, evolve(None, CREATED), clock, lambda: machine.calendar)
    lasts_s = CREATED.run_file.warmup.deadline_s

    async def scenario() -> None:
        running = asyncio.create_task(coordinator.run())
        needed = CREATED.run_file.warmup.clients_per_round
        for number in range(needed):
            name = f"jetson-{number}"
            joining = enrol(name)
            await coordinator.handle(cmd.Enrol(name, Tier.HIGH, joining.examples, joining.credential_sha256))
            await coordinator.handle(cmd.ConnectClient(name, number + 1, 1))
        current = coordinator.state.current
        assert current is not None and current.deadline == coordinator.clock() + lasts_s
        machine.set_by(jump)
        machine.passes(lasts_s - 1)
        assert await coordinator.handle(cmd.Tick()) == (), "not early"
        machine.passes(1)
        ended, *_ = await coordinator.handle(cmd.Tick())
        assert isinstance(ended, ev.RoundAbandoned), "nor late"
        assert list(Ledger(tmp_path / "ledger", read_only=True).read())[-1][0] == machine.calendar, "the row is dated"
        running.cancel()

    asyncio.run(scenario())
