"""The live page in a real browser, from before the first round to the end of a run by real processes; and what a hostile name, a
phone, a keyboard and two thousand devices make of it."""

import contextlib
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.browser.conftest import PHONE, SCREENSHOTS, WIDE, Opened
from tests.e2e.conftest import ENDLESS, Fleet, fleets
from tests.patience import PATIENCE
from tests.unit.server.telemetry.page.runs import Run
from zowarmup.common.settings.run import Evaluation, Model, RunFile, Server
from zowarmup.lab.processes import free_port
from zowarmup.server.telemetry.endpoints import page_endpoint
from zowarmup.server.telemetry.http import Application, HttpServer
from zowarmup.server.telemetry.page.assets import applications, as_one_file
from zowarmup.server.telemetry.page.report import as_kept
from zowarmup.server.telemetry.page.stream import EventStream

HOSTILE = "<img src=x onerror=document.title='had'>"
LOW = 4
RUN = RunFile(
    name="digits",
    draws="seed",
    model=Model(name="mlp"),
    warmup=warmup_settings(rounds=6, clients_per_round=1, epochs=3),
    zeroth_order=zeroth_order_settings(
        rounds=900 if os.environ.get(SCREENSHOTS) else ENDLESS,
        clients_per_round=1 + LOW,
        minimum_clients=LOW,
        quorum=0.5,
        probes=16,
        head_projections=64,
    ),
    evaluation=Evaluation(data="digits:test", every=2),
)


class Seen:
    """What a test waits to see on a page."""

    def __init__(self, opened: Opened) -> None:
        from playwright.sync_api import expect

        self.opened, self.page = opened, opened.page
        self._expect: Any = expect
        self._limit: Any = {"timeout": 60_000 * PATIENCE}

    def text(self, place: str, pattern: str) -> None:
        self._expect(self.page.locator(place)).to_have_text(re.compile(pattern), **self._limit)

    def attribute(self, place: str, name: str, pattern: str) -> None:
        self._expect(self.page.locator(place)).to_have_attribute(name, re.compile(pattern), **self._limit)

    def device(self, name: str, *codes: int) -> Any:
        """The device of that name, once it is in one of these states (`devices.STATES`)."""
        device = self.page.locator(".cell", has_text=name)
        self._expect(device).to_have_attribute("data-code", re.compile("|".join(map(str, codes))), **self._limit)
        return device

    def version(self) -> int:
        """That of the newest evaluation on the curve."""
        found = re.search(r"at version (\d+)", self.page.locator("#curve").get_attribute("aria-label"))
        assert found
        return int(found[1])


@pytest.fixture
def fleet(tmp_path: Path, prepared_models: Path) -> Any:
    with fleets(tmp_path, prepared_models) as make:
        yield make()


def test_a_run_from_before_its_first_round_to_its_end(look: Callable[..., Opened], fleet: Fleet) -> None:
    port = free_port()
    fleet.lead(RUN, "server", "--web-address", f"127.0.0.1:{port}")
    fleet.until(lambda status: True, 60, "the coordinator")
    opened = look(f"http://127.0.0.1:{port}/")
    seen = Seen(opened)
    waiting = fleet.status()
    assert waiting is not None and waiting.activity == "waiting: 0 of 1 high-tier clients connected"
    seen.text("#sentence-text", f"^[Ww]{re.escape(waiting.activity[1:])}$")
    seen.text("#link-text", "^live$")
    seen.attribute("#curve", "aria-label", "No version has been evaluated|at version 0")
    opened.accessible()

    fleet.join("high", f"digits:1/{1 + LOW},alpha=0.3", "high")
    seen.device("high", 0, 1, 2)
    for number in range(1, LOW + 1):
        fleet.join(f"low-{number}", f"digits:{1 + number}/{1 + LOW},alpha=0.3", "low")
    seen.attribute("#curve", "aria-label", "accuracy .* at version [1-9]")
    seen.text("#way-right", r"^pivot at version 6\b")
    seen.attribute(".cell:has-text('low-1')", "class", "lit-[ab]")
    seen.device("low-1", 0, 1, 2)
    before = seen.version()
    seen.attribute("#curve", "aria-label", rf"nats at version (?!{before}\b)\d+")
    assert seen.version() > before
    if opened.wanted:
        seen.attribute("#curve", "aria-label", r"nats at version [1-9]\d\d")
    opened.shot("page", 1200)
    opened.resized(PHONE)
    opened.accessible()
    opened.shot("page-phone", 1000)
    opened.resized(WIDE)

    fleet.signal("low-2", signal.SIGKILL)
    gone = seen.device("low-2", 4)
    seen.text(".cell:has-text('low-2')", "gone for")
    assert gone.locator(".mark").evaluate("(mark) => getComputedStyle(mark).borderTopStyle") == "dashed"
    seen.text("#states", "1 gone")
    fleet.join("low-2", f"digits:3/{1 + LOW},alpha=0.3", "low", log="low-2-again")
    seen.device("low-2", 0, 1, 2)

    operate = ["--server", fleet.address, "--data-dir", str(fleet.data_dir)]
    assert fleet.run_once("zowarmup.cli.main", "pause", "--reason", f"lunch {HOSTILE}", *operate).returncode == 0
    seen.text("#sentence-text", f"^Paused: lunch {re.escape(HOSTILE)}$")
    seen.attribute("#sentence", "data-tone", "paused")
    assert fleet.run_once("zowarmup.cli.main", "resume", *operate).returncode == 0
    fleet.end_run()
    seen.text("#sentence-text", "^Finished: ")
    opened.accessible()
    fleet.finished(1 + LOW)
    fleet.signal("server", signal.SIGTERM)
    seen.text("#link-text", "the coordinator has stopped")


@pytest.fixture
def serve() -> Iterator[Callable[[Run], str]]:
    """Serves the page of a run: where."""
    with contextlib.ExitStack() as servers:

        def one(run: Run) -> str:
            stream = EventStream(run.view)
            shown: dict[str, Application] = {**applications(), "/events": stream, "/state.json": stream.state}
            server = HttpServer(page_endpoint(Server(), "127.0.0.1:0", False, False, ""), shown, connections_each=64)
            servers.callback(server.close)
            return f"{server.open()}/"

        yield one


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_hostile_name_is_text_and_nothing_else(
    serve: Callable[[Run], str], look: Callable[..., Opened], scheme: str, tmp_path: Path
) -> None:
    """Live and in one file. No device can enrol with such a name: here one has."""
    run = Run()
    run.join(HOSTILE, "</script><script>document.title='had'</script>", "plain")
    view = run.view()
    view.look()
    (tmp_path / "report.html").write_bytes(as_one_file(as_kept(view.whole())))
    live, kept = (look(where, color_scheme=scheme) for where in (serve(run), (tmp_path / "report.html").as_uri()))
    for opened in (live, kept):
        seen = Seen(opened)
        seen.text(".cell:has-text('onerror')", re.escape(HOSTILE))
        opened.page.locator(".cell", has_text="onerror").click()
        seen.text("#chosen", f"^{re.escape(HOSTILE)}: low tier")
        opened.page.locator("#device-details summary").click()
        seen.text("#device-table tbody tr:first-child td:first-child", f"^{re.escape(HOSTILE)}$")
        assert opened.page.evaluate("document.images.length") == 0
        assert opened.page.title() == "shown"
        for size in (WIDE, PHONE):
            opened.resized(size)
            opened.accessible()


def test_two_thousand_devices_are_squares_that_the_keyboard_reaches(
    serve: Callable[[Run], str], look: Callable[..., Opened]
) -> None:
    run = Run()
    run.join(*(f"c{number}" for number in range(2000)))
    opened = look(serve(run), reduced_motion="reduce")
    seen = Seen(opened)
    seen.text("#states", "2,000 asked|2,000 idle")
    assert opened.page.locator(".cell").count() == 2000
    opened.page.locator(".cell[tabindex='0']").focus()
    for key, name in (
        ("ArrowRight", "c1"),
        ("ArrowRight", "c2"),
        ("ArrowLeft", "c1"),
        ("Home", "c0"),
        ("End", "c1999"),
    ):
        opened.page.keyboard.press(key)
        seen.text("#chosen", rf"^{name}: low tier; ")
    opened.page.keyboard.press("ArrowUp")
    seen.text("#chosen", r"^c1(?!999)\d+: low tier; ")
    for size in (WIDE, PHONE):
        opened.resized(size)
    opened.accessible()
