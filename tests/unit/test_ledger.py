import math
import sqlite3
from pathlib import Path

import pytest

from tests.algorithms import warmup_settings, zeroth_order_settings
from zowarmup.common.data_card import DataCard
from zowarmup.common.layout import Block
from zowarmup.common.run import Evaluation, Model, RunFile
from zowarmup.common.steps import Step
from zowarmup.common.work import Abstention, Delta, Phase, Scalars, Tier
from zowarmup.server import events as ev
from zowarmup.server.ledger import Ledger, LedgerError

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
        ev.Program("b" * 64, 10, "{}", DataCard(shape=(1, 8, 8), classes=10), 1, 2),
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
    ev.Evaluated(1, 0.5, 1.25, 360),
    ev.RunPaused("why"),
    ev.RunResumed(),
    ev.PivotRequested("why"),
    ev.StopRequested("why"),
    ev.RunFinished(2, "done"),
    ev.RolledBack(9, 7, "d" * 32, (), None, (), 0.5, "the loss of version 8 is not finite"),
    ev.RunGaveUp(9, "it went back 6 times"),
]


def test_what_is_appended_is_read_back_equal_by_another_connection(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.append(EVERY_KIND[:5], at=1.5)
    ledger.append(EVERY_KIND[5:], at=2.5)
    read = list(Ledger(tmp_path / "ledger.sqlite", read_only=True).read())
    assert [event for _, event in read] == EVERY_KIND
    assert [at for at, _ in read] == [1.5] * 5 + [2.5] * (len(EVERY_KIND) - 5)


@pytest.mark.parametrize("loss", [float("inf"), float("nan")])
def test_a_loss_that_is_not_finite_is_read_back(tmp_path: Path, loss: float) -> None:
    """A run whose model has diverged can be restarted like any other."""
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.append([ev.Evaluated(1, 0.1, loss, 5)], at=1.0)
    ((_, event),) = ledger.read()
    assert repr(event) == repr(ev.Evaluated(1, 0.1, loss, 5))


def test_every_durable_kind_is_covered_above() -> None:
    from typing import get_args

    assert {type(event) for event in EVERY_KIND} == set(get_args(ev.DurableEvent))


def test_soft_events_are_not_written(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.append([ev.ClientConnected("pi", 1, 3), ev.ClientDisconnected("pi", 2.0)], at=1.0)
    assert list(ledger.read()) == []


def test_a_refused_write_leaves_nothing_of_its_batch(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.append([ev.RunPaused("kept")], at=1.0)
    with sqlite3.connect(tmp_path / "ledger.sqlite") as other:
        other.execute(
            "CREATE TRIGGER full BEFORE INSERT ON events WHEN NEW.kind = 'RunFinished' BEGIN "
            "SELECT RAISE(ABORT, 'database or disk is full'); END"
        )
    other.close()
    with pytest.raises(LedgerError, match="disk is full"):
        ledger.append([ev.RunResumed(), ev.RunFinished(1, "x")], at=2.0)
    assert [event for _, event in ledger.read()] == [ev.RunPaused("kept")]
    ledger.append([ev.RunResumed()], at=3.0)


def test_a_ledger_of_another_format_is_refused(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.sqlite").close()
    with sqlite3.connect(tmp_path / "ledger.sqlite") as other:
        other.execute("PRAGMA user_version=9")
    other.close()
    with pytest.raises(LedgerError, match=r"has ledger format 9, this version reads 2"):
        Ledger(tmp_path / "ledger.sqlite")


def test_a_damaged_row_is_named(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.append([ev.RunPaused("a"), ev.RunFinished(3, "b")], at=1.0)
    with sqlite3.connect(tmp_path / "ledger.sqlite") as other:
        other.execute('UPDATE events SET body = \'{"version": "three"}\' WHERE id = 2')
    other.close()
    with pytest.raises(LedgerError, match=r"row 2: RunFinished is damaged"):
        list(ledger.read())


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(LedgerError, match="cannot be opened as a ledger"):
        Ledger(tmp_path / "ledger.sqlite")


def test_a_loss_that_is_not_a_number_comes_back(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.append([ev.Evaluated(1, 0.1, math.inf, 9), ev.Evaluated(2, 0.1, math.nan, 9)], 1.0)
    losses = [event.loss for _, event in ledger.read() if isinstance(event, ev.Evaluated)]
    assert losses[0] == math.inf
    assert math.isnan(losses[1])
