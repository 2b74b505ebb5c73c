"""The shell around the pure core: durable before answered, group commit, and nothing happens when the disk refuses."""

import asyncio
import hashlib
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.tasks import scored
from zowarmup.common.exact.layout import Block, Layout, Tensor
from zowarmup.common.messages.values import Tier
from zowarmup.common.settings.data_card import DataCard
from zowarmup.common.settings.run import Evaluation, Model, RunFile
from zowarmup.server.coordinator import Coordinator, Unavailable
from zowarmup.server.core import commands as cmd
from zowarmup.server.core import events as ev
from zowarmup.server.core.errors import Rejected
from zowarmup.server.core.evolve import evolve
from zowarmup.server.core.state import State
from zowarmup.server.store.event_log import Fenced
from zowarmup.server.store.ledger import Ledger, LedgerError

LAYOUT = Layout((Tensor("w", (4,), 0),), 4, 4, (Block("all", 0, 4),))
RUN = RunFile(
    name="x",
    model=Model(name="mlp"),
    warmup=warmup_settings(rounds=1),
    zeroth_order=zeroth_order_settings(rounds=1),
    evaluation=Evaluation(data="digits:test"),
)
CREATED = ev.RunCreated(
    "run",
    RUN,
    ev.ProgramRecord("b" * 64, 1, LAYOUT.to_json(), DataCard(shape=(1,), classes=2), 1, 1, *scored(2)),
    ev.Snapshot(0, "c" * 64, 20, "d" * 32),
)


class CountingLedger(Ledger):
    """A real ledger that counts its transactions and can be told to refuse."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.batches: list[int] = []
        self.refuse = False

    def append(self, events: Iterable[ev.Event], at: float, expected: int) -> int:
        events = list(events)
        if self.refuse:
            raise LedgerError("the disk is full")
        self.batches.append(len(events))
        return super().append(events, at, expected)


async def _with(ledger: Ledger) -> tuple[Coordinator, "asyncio.Task[None]"]:
    coordinator = Coordinator(ledger, evolve(None, CREATED), clock=lambda: 7.0, date=lambda: 5.0)
    return coordinator, asyncio.create_task(coordinator.run())


def hashed(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def enrol(name: str) -> cmd.Enrol:
    return cmd.Enrol(name, Tier.LOW, 1, hashed(name))


def test_an_answer_means_that_it_is_on_disk(tmp_path: Path) -> None:
    async def script() -> None:
        coordinator, running = await _with(Ledger(tmp_path / "ledger"))
        (event,) = await coordinator.handle(enrol("pi"))
        assert list(Ledger(tmp_path / "ledger", read_only=True).read()) == [(5.0, event)]
        running.cancel()

    asyncio.run(script())


def test_commands_that_wait_for_the_disk_share_its_next_sync(tmp_path: Path) -> None:
    async def script() -> None:
        ledger = CountingLedger(tmp_path / "ledger")
        coordinator, running = await _with(ledger)
        await asyncio.gather(*(coordinator.handle(enrol(f"pi-{i}")) for i in range(500)))
        assert len(coordinator.state.clients) == 500
        assert sum(ledger.batches) == 500
        assert len(ledger.batches) <= 3
        running.cancel()

    asyncio.run(script())


def test_when_the_disk_refuses_nothing_has_happened_and_it_recovers(tmp_path: Path) -> None:
    async def script() -> None:
        ledger = CountingLedger(tmp_path / "ledger")
        coordinator, running = await _with(ledger)
        seen: list[ev.Event] = []
        coordinator.observe(lambda now, events, state: seen.extend(events))
        before, ledger.refuse = coordinator.state, True
        answers = await asyncio.gather(
            coordinator.handle(enrol("a")), coordinator.handle(enrol("b")), return_exceptions=True
        )
        assert [type(answer) for answer in answers] == [Unavailable, Unavailable]
        assert coordinator.state is before
        assert seen == []
        ledger.refuse = False
        assert await coordinator.handle(enrol("a")) == (ev.ClientEnrolled("a", Tier.LOW, 1, hashed("a")),)
        assert len(seen) == 1
        running.cancel()

    asyncio.run(script())


def test_a_rejected_command_does_not_disturb_its_neighbours(tmp_path: Path) -> None:
    async def script() -> None:
        coordinator, running = await _with(Ledger(tmp_path / "ledger"))
        good, bad, also_good = await asyncio.gather(
            coordinator.handle(enrol("a")),
            coordinator.handle(cmd.ConnectClient("stranger", 1, 1)),
            coordinator.handle(enrol("b")),
            return_exceptions=True,
        )
        assert isinstance(bad, Rejected) and bad.reason == "unknown_client"
        assert not isinstance(good, BaseException) and not isinstance(also_good, BaseException)
        running.cancel()

    asyncio.run(script())


def test_observers_see_the_state_that_the_events_led_to(tmp_path: Path) -> None:
    async def script() -> None:
        coordinator, running = await _with(Ledger(tmp_path / "ledger"))
        seen: list[tuple[float, int, State]] = []
        coordinator.observe(lambda now, events, state: seen.append((now, len(events), state)))
        await coordinator.handle(enrol("a"))
        await coordinator.handle(cmd.Tick())
        assert seen == [(7.0, 1, coordinator.state)]
        running.cancel()

    asyncio.run(script())


def test_a_command_that_breaks_decide_fails_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def script() -> None:
        coordinator, running = await _with(Ledger(tmp_path / "ledger"))
        with pytest.raises(TypeError):
            await coordinator.handle("not a command")  # type: ignore[arg-type]
        await coordinator.handle(enrol("a"))
        running.cancel()

    asyncio.run(script())


def test_a_coordinator_ends_where_another_has_written_to_its_log(tmp_path: Path) -> None:
    async def script() -> None:
        ledger = Ledger(tmp_path / "ledger")
        coordinator, running = await _with(ledger)
        await coordinator.handle(enrol("pi"))
        before = coordinator.state
        Ledger(tmp_path / "ledger").append([ev.RunPaused("by another")], 6.0, 1)
        with pytest.raises(Unavailable, match="another one has written to it"):
            await coordinator.handle(enrol("late"))
        with pytest.raises(Fenced):
            await running
        assert coordinator.state == before
        assert [type(event) for _, event in ledger.read()] == [ev.ClientEnrolled, ev.RunPaused]

    asyncio.run(script())
