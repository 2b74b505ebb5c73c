"""The page that a demo keeps: of its coordinator, or, where that has gone, of its data directory."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.server.telemetry.page.runs import Run
from zowarmup.common.settings.run import Server
from zowarmup.lab.demo.page import kept_page, page_url
from zowarmup.server.store.ledger import Ledger
from zowarmup.server.telemetry.endpoints import page_endpoint
from zowarmup.server.telemetry.http import HttpServer
from zowarmup.server.telemetry.page.devices import DID_NOT, STATES
from zowarmup.server.telemetry.page.stream import EventStream


@pytest.mark.parametrize(
    ("logged", "url"),
    [
        ("12:00 INFO page at http://127.0.0.1:7075/\n12:01 INFO listening", "http://127.0.0.1:7075/"),
        ("12:00 INFO metrics at http://127.0.0.1:9464/metrics", ""),
        ("12:00 INFO page at https://0.0.0.0:7072/ (any name; password: x)", ""),
    ],
)
def test_a_coordinators_log_says_where_its_page_is(logged: str, url: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(logged)
    assert page_url(tmp_path / "log") == url
    assert page_url(tmp_path / "none") == ""


def state_in(page: bytes) -> Any:
    return json.loads(page.decode().partition('id="state">')[2].partition("</script>")[0])


def test_it_is_the_coordinators_while_there_is_one_and_else_the_ledgers(tmp_path: Path) -> None:
    run = Run()
    run.join("one")
    stream = EventStream(run.view)
    server = HttpServer(page_endpoint(Server(), "127.0.0.1:0", False, False, ""), {"/state.json": stream.state})
    url = server.open()
    kept = state_in(kept_page(f"{url}/", tmp_path))
    server.close()
    assert kept["run"]["live"] is False and STATES[kept["codes"][0]] == "did not"
    assert kept["now"]["fleet"]["low"] == {"members": 1, "connected": 1}, "as it was"
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.append(run.events, 5.0, 0)
    ledger.close()
    for gone in (f"{url}/", ""):
        kept = state_in(kept_page(gone, tmp_path))
        assert kept["devices"] == [["one", "low"]] and kept["codes"] == [DID_NOT]
