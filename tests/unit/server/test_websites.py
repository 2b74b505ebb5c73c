"""Where the live page is: at the first free of its ports, or where it was asked for."""

import asyncio
import contextlib
import json
import logging
import socket
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.server.telemetry.page.runs import Run
from zowarmup.common.settings.run import Server
from zowarmup.server import websites
from zowarmup.server.coordinator import Coordinator
from zowarmup.server.core.errors import ListeningError
from zowarmup.server.projections.traffic import Traffic
from zowarmup.server.rpc.endpoints import Endpoint
from zowarmup.server.store.event_log import MemoryEventLog
from zowarmup.server.websites import Page, page_of

OPEN, GUARDED = Endpoint("127.0.0.1:7070", False, False), Endpoint("0.0.0.0:7070", True, True)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, "zowarmup.server"):
        yield caplog


def opened(address: str, tmp_path: Path, way: Endpoint = OPEN) -> Page:
    page = page_of(Server(), address, False, way, "0" * 64, tmp_path)
    assert page is not None
    run = Run()
    coordinator = Coordinator(MemoryEventLog(), run.state)
    page.open(coordinator, run.history, Traffic(lambda: run.state.phase), Counter(), way)
    return page


@contextlib.contextmanager
def taken(*ports: int) -> Iterator[list[int]]:
    """Sockets that listen on ports (0: any)."""
    with contextlib.ExitStack() as sockets:
        made = [sockets.enter_context(socket.create_server(("127.0.0.1", port))) for port in ports]
        yield [one.getsockname()[1] for one in made]


def test_it_is_at_the_first_free_port_and_a_run_goes_on_without_one(
    tmp_path: Path, said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with taken(0, 0) as ports:
        with taken(0) as (free,):
            pass
        monkeypatch.setattr(websites, "WEB_PORTS", [*ports, free])
        page = opened("auto", tmp_path)
        try:
            assert said.messages == [f"page at http://127.0.0.1:{free}/"]
            with urllib.request.urlopen(f"http://127.0.0.1:{free}/state.json", timeout=10) as answer:
                assert json.load(answer)["run"]["name"] == "shown"
        finally:
            page.close()
        monkeypatch.setattr(websites, "WEB_PORTS", ports)
        said.clear()
        opened("auto", tmp_path).close()
        (message,) = said.messages
        assert message.startswith(f"no page: ports {ports[0]} to {ports[1]} of the loopback are taken")


def test_an_address_that_was_asked_for_and_is_taken_is_an_error(tmp_path: Path) -> None:
    with (
        taken(0) as (port,),
        pytest.raises(ListeningError, match=f"cannot show the page on 127.0.0.1:{port}.*web_address"),
    ):
        opened(f"127.0.0.1:{port}", tmp_path)


def test_where_there_is_no_address_there_is_no_page(tmp_path: Path) -> None:
    assert page_of(Server(), "", False, OPEN, "0" * 64, tmp_path) is None


def test_of_a_run_that_is_not_open_the_page_asks_for_a_password_and_the_log_says_where_it_is(
    tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    page = opened("127.0.0.1:0", tmp_path, GUARDED)
    try:
        (message,) = said.messages
        assert message.endswith(f"(any name; password: {tmp_path / 'operator.credential'})")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(message.split()[2], timeout=10)
    finally:
        page.close()


def test_a_page_that_nobody_opened_loads_no_http_server_and_ends_at_once(tmp_path: Path) -> None:
    began = asyncio.new_event_loop().time()
    for _ in range(3):
        opened("127.0.0.1:0", tmp_path).close()
    assert asyncio.new_event_loop().time() - began < 5
