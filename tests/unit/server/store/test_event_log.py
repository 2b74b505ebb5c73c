"""What holds for every event log, whatever keeps the events."""

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import pytest

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.tasks import accuracy_of, scored
from tests.unit.server.store.test_lease import LONG_S, holder
from zowarmup.common.exact.layout import Block
from zowarmup.common.exact.steps import Step
from zowarmup.common.messages.masking import Keys
from zowarmup.common.messages.values import Abstention, Delta, Phase, Scalars, Tier
from zowarmup.common.secure_aggregation.roster import Stage
from zowarmup.common.settings.data_card import DataCard
from zowarmup.common.settings.run import Evaluation, Model, RunFile
from zowarmup.server.core import events as ev
from zowarmup.server.store.event_log import EventLog, Fenced, MemoryEventLog
from zowarmup.server.store.ledger import Ledger
from zowarmup.server.store.postgres.stores import PostgresStores

SNAPSHOT = ev.Snapshot(0, "c" * 64, 20, "d" * 32)
EVERY_KIND: list[ev.Event] = [
    ev.RunCreated(
        "run",
        RunFile(
            name="x",
            model=Model(name="cnn"),
            warmup=warmup_settings(rounds=1),
            zeroth_order=zeroth_order_settings(rounds=2, eps=0.1),
            evaluation=Evaluation(data="digits:test"),
        ),
        ev.ProgramRecord("b" * 64, 10, "{}", DataCard(shape=(1, 8, 8), classes=10), 1, 2, *scored(10)),
        SNAPSHOT,
    ),
    ev.InvitationIssued("1" * 64, Tier.LOW, 99.5, 2),
    ev.InvitationRevoked("1" * 64, "leaked"),
    ev.ClientEnrolled("pi", Tier.LOW, 3, "e" * 64, "1" * 64),
    ev.ExamplesChanged("pi", 4, 3),
    ev.ClientRevoked("pi", "stolen"),
    ev.RoundOpened(1, Phase.ZEROTH_ORDER, 0, ("pi",), ((1 << 64) - 1,), (3,), 12.5),
    ev.DeadlineExtended(1, 13.5, "restart"),
    ev.Contributed("pi", Scalars(1, (0.1, -2.5e-8), (3.0,))),
    ev.Contributed("pi", Delta(1, "a" * 32, 3, 0.25)),
    ev.Contributed("pi", Keys(1, "5" * 320)),
    ev.StageBegan(1, Stage.MASKED, 13.5, "all"),
    ev.StepTaken("pi", 1, Stage.MASKED, "AAAA"),
    ev.Abstained("pi", Abstention(1, "a value is not finite")),
    ev.ParticipantsFailed(1, (ev.Failure("pi", 2, 12.5, "it was late"),)),
    ev.RoundClosed(1, "all"),
    ev.RoundAbandoned(1, "none"),
    ev.Committed(
        1,
        1,
        "f" * 32,
        (Step((1 << 64) - 1, Block("all", 0, 7), (5, -6)),),
        None,
        (ev.TrafficCount("up", "low", "zeroth-order", "contribution", 40, 1),),
    ),
    ev.Committed(2, 2, "f" * 32, (), SNAPSHOT, ()),
    ev.SnapshotTaken(SNAPSHOT),
    ev.SnapshotsPruned((0, 1)),
    ev.Pivoted(1, "done"),
    ev.Evaluated(1, accuracy_of(0.5), 1.25, 360),
    ev.RunPaused("why"),
    ev.RunResumed(),
    ev.PivotRequested("why"),
    ev.StopRequested("why"),
    ev.RunFinished(2, "done"),
    ev.RolledBack(9, 7, "d" * 32, (), None, (), 0.5, "the loss of version 8 is not finite"),
    ev.RunGaveUp(9, "it went back 6 times"),
]


Open = Callable[[], EventLog]


@pytest.fixture(params=["sqlite", "memory", "postgresql"])
def open_log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens one and the same log, which is empty at first."""
    with contextlib.ExitStack() as opened:
        if request.param == "postgresql":
            address = request.getfixturevalue("postgres").address()
            PostgresStores.open(address).lease.take(holder("one"), LONG_S)

            def open_it() -> EventLog:
                return opened.enter_context(contextlib.closing(PostgresStores.open(address))).log.leading(1)
        else:
            memory = MemoryEventLog()

            def open_it() -> EventLog:
                log = Ledger(tmp_path / "ledger.sqlite") if request.param == "sqlite" else memory
                return opened.enter_context(contextlib.closing(log))

        yield open_it


def test_what_is_appended_is_read_back_equal_by_whoever_opens_the_log(open_log: Open) -> None:
    log = open_log()
    assert log.append(EVERY_KIND[:5], 1.5, 0) == 5
    assert log.append(iter(EVERY_KIND[5:]), 2.5, 5) == len(EVERY_KIND)
    read = list(open_log().read())
    assert [event for _, event in read] == EVERY_KIND
    assert [at for at, _ in read] == [1.5] * 5 + [2.5] * (len(EVERY_KIND) - 5)


def test_every_durable_kind_is_covered_above() -> None:
    assert {type(event) for event in EVERY_KIND} == set(get_args(ev.DurableEvent))


@pytest.mark.parametrize("after", [0, 1, 7, len(EVERY_KIND) - 1, len(EVERY_KIND)])
def test_a_reader_may_begin_behind_any_event(open_log: Open, after: int) -> None:
    open_log().append(EVERY_KIND, 1.0, 0)
    assert [event for _, event in open_log().read(after)] == EVERY_KIND[after:]


@pytest.mark.parametrize("loss", [math.inf, -math.inf, math.nan, 5e-324, 0.1])
def test_a_loss_is_read_back_whatever_it_is(open_log: Open, loss: float) -> None:
    """A run whose model has diverged can be restarted like any other."""
    open_log().append([ev.Evaluated(1, accuracy_of(loss), loss, 5)], 1.0, 0)
    ((_, event),) = open_log().read()
    assert repr(event) == repr(ev.Evaluated(1, accuracy_of(loss), loss, 5))


def test_soft_events_are_not_kept_and_have_no_number(open_log: Open) -> None:
    log = open_log()
    soft = ev.ClientConnected("pi", 1, 3), ev.ClientDisconnected("pi", 2.0)
    assert log.append(soft, 1.0, 0) == 0
    assert log.append([soft[0], ev.RunResumed(), soft[1], ev.RunPaused("why")], 1.0, 0) == 2
    assert log.append([], 1.0, 2) == log.append(soft, 1.0, 2) == 2
    assert [event for _, event in open_log().read()] == [ev.RunResumed(), ev.RunPaused("why")]


@pytest.mark.parametrize("expected", [0, 1, 3, 1000])
def test_a_writer_that_does_not_know_the_last_event_is_fenced_off(open_log: Open, expected: int) -> None:
    first, second = open_log(), open_log()
    assert first.append([ev.RunPaused("a"), ev.RunResumed()], 1.0, 0) == 2
    with pytest.raises(Fenced, match=f"ends with event 2, not with event {expected}"):
        second.append([ev.RunPaused("b")], 2.0, expected)
    assert len(list(first.read())) == 2
    assert second.append([ev.RunPaused("b")], 2.0, 2) == 3, "after having read"
    with pytest.raises(Fenced):
        first.append([ev.RunPaused("c")], 3.0, 2)


def test_of_two_writers_at_once_one_appends_and_the_other_is_fenced_off(open_log: Open) -> None:
    logs, together = (open_log(), open_log()), threading.Barrier(2)

    def write(writer: int, number: int) -> bool:
        together.wait()
        try:
            return logs[writer].append([ev.RunPaused(str(writer)), ev.RunResumed()], 1.0, 2 * number) == 2 * number + 2
        except Fenced:
            return False

    with ThreadPoolExecutor(2) as writers:
        for number in range(20):
            assert sorted(writers.map(write, (0, 1), (number, number))) == [False, True]
    assert len(list(open_log().read())) == 40


def test_a_reader_sees_whole_appends_while_a_writer_goes_on(open_log: Open) -> None:
    log = open_log()
    batch: list[ev.Event] = [ev.RunPaused("a"), ev.RunResumed(), ev.RunPaused("b")]
    done = threading.Event()

    def write() -> None:
        try:
            for number in range(30):
                log.append(batch, 1.0, number * len(batch))
        finally:
            done.set()

    with ThreadPoolExecutor(1) as writer:
        writing = writer.submit(write)
        while not done.is_set():
            assert len(list(open_log().read())) % len(batch) == 0
        writing.result()
    assert [event for _, event in log.read()] == batch * 30
