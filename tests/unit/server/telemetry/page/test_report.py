"""The page of a data directory."""

from pathlib import Path

import pytest

from tests.unit.server.telemetry.page.runs import Run
from zowarmup.server.store.archive import ArchiveError
from zowarmup.server.store.ledger import Ledger
from zowarmup.server.telemetry.page.devices import DID_NOT
from zowarmup.server.telemetry.page.report import state_on_disk


def test_it_says_what_the_ledger_knows(tmp_path: Path) -> None:
    run = Run()
    run.join("one", "<two>")
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.append(run.events, 5.0, 0)
    ledger.close()
    state = state_on_disk(tmp_path)
    assert state["run"]["live"] is False and state["run"]["name"] == "shown"
    assert state["devices"] == [("one", "low"), ("<two>", "low")] and state["codes"] == [DID_NOT, DID_NOT]
    assert state["now"]["sentence"] == "not finished: at version 0 of 1 when this was written"


def test_where_there_is_no_run_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="holds no run"):
        state_on_disk(tmp_path)
