"""What is particular to the event log in SQLite: its file, damaged or full. What holds for every log is in test_event_log."""

import sqlite3
from pathlib import Path

import pytest

from zowarmup.server.core import events as ev
from zowarmup.server.store.ledger import Ledger, LedgerError


def test_a_refused_write_leaves_nothing_of_its_batch(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.append([ev.RunPaused("kept")], 1.0, 0)
    with sqlite3.connect(tmp_path / "ledger.sqlite") as other:
        other.execute(
            "CREATE TRIGGER full BEFORE INSERT ON events WHEN NEW.kind = 'RunFinished' BEGIN "
            "SELECT RAISE(ABORT, 'database or disk is full'); END"
        )
    other.close()
    with pytest.raises(LedgerError, match="disk is full"):
        ledger.append([ev.RunResumed(), ev.RunFinished(1, "x")], 2.0, 1)
    assert [event for _, event in ledger.read()] == [ev.RunPaused("kept")]
    ledger.append([ev.RunResumed()], 3.0, 1)


def test_a_ledger_of_another_format_is_refused(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.sqlite").close()
    with sqlite3.connect(tmp_path / "ledger.sqlite") as other:
        other.execute("PRAGMA user_version=9")
    other.close()
    with pytest.raises(LedgerError, match=r"has ledger format 9, this version reads 3"):
        Ledger(tmp_path / "ledger.sqlite")


def test_a_damaged_row_is_named(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.append([ev.RunPaused("a"), ev.RunFinished(3, "b")], 1.0, 0)
    with sqlite3.connect(tmp_path / "ledger.sqlite") as other:
        other.execute('UPDATE events SET body = \'{"version": "three"}\' WHERE id = 2')
    other.close()
    with pytest.raises(LedgerError, match=r"row 2: RunFinished is damaged"):
        list(ledger.read())


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(LedgerError, match="cannot be opened as a ledger"):
        Ledger(tmp_path / "ledger.sqlite")


def test_a_row_that_is_missing_is_named(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.append([ev.RunPaused("a"), ev.RunResumed(), ev.RunPaused("b")], 1.0, 0)
    with sqlite3.connect(tmp_path / "ledger.sqlite") as other:
        other.execute("DELETE FROM events WHERE id = 2")
    other.close()
    with pytest.raises(LedgerError, match=r"row 2 is missing; `zowarmup fsck"):
        list(ledger.read())
