"""The live page over real sockets: what a viewer is told and when, who gets it, and who is cut off."""

import base64
import contextlib
import hashlib
import http.client
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.server.telemetry.page.runs import Run
from zowarmup.cli import certificates
from zowarmup.common.settings.run import Server
from zowarmup.server.core.errors import ListeningError
from zowarmup.server.telemetry.endpoints import HttpEndpoint, page_endpoint
from zowarmup.server.telemetry.http import HttpServer
from zowarmup.server.telemetry.page.assets import KINDS, applications, as_one_file
from zowarmup.server.telemetry.page.stream import EventStream

CREDENTIAL = "c" * 64
LOOPBACK = page_endpoint(Server(), "127.0.0.1:0", False, False, "")


Serve = Callable[..., tuple[int, EventStream, Run]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves the page of a run: its port, its stream and the run."""
    with contextlib.ExitStack() as open_servers:

        def one(endpoint: HttpEndpoint = LOOPBACK, **limits: Any) -> tuple[int, EventStream, Run]:
            run = Run()
            stream = EventStream(run.view, **{"tick_s": 0.02, **limits})
            server = HttpServer(
                endpoint, {**applications(), "/events": stream, "/state.json": stream.state}, request_s=1.0
            )
            port = int(server.open().rpartition(":")[2])
            open_servers.callback(server.close)
            open_servers.callback(lambda: server.call(stream.end))
            return port, stream, run

        yield one


def get(port: int, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


class Viewer:
    """Reads events as a browser does."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        self._connection.request("GET", "/events")
        self._answer = self._connection.getresponse()
        self.status, self.kind = self._answer.status, self._answer.headers["Content-Type"]

    def next(self) -> tuple[str, dict[str, Any]]:
        """The name of the next event, and its data; ("", {}) where there is none any more."""
        name = ""
        while line := self._answer.readline().decode():
            if line.startswith("event: "):
                name = line[7:-1]
            elif line.startswith("data: "):
                return name, json.loads(line[6:])
        return "", {}

    def close(self) -> None:
        self._answer.close()  # which has the socket


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_viewer_gets_a_state_and_then_what_changes(serve: Serve) -> None:
    port, _, run = serve()
    run.join("a")
    first, second = Viewer(port), Viewer(port)
    assert (first.status, first.kind) == (200, "text/event-stream")
    for viewer in (first, second):
        name, state = viewer.next()
        assert name == "state" and state["devices"] == [["a", "low"]] and state["run"]["name"] == "shown"
    run.join("b")
    for viewer in (first, second):
        name, change = viewer.next()
        assert name == "change" and change["devices"] == [["b", "low"]]
        assert change["now"]["sentence"] == "waiting: 2 of 1000000 clients connected"
    _, state = Viewer(port).next()
    assert state["devices"] == [["a", "low"], ["b", "low"]]
    assert json.loads(get(port, "/state.json")[2])["now"]["fleet"]["low"] == {"members": 2, "connected": 2}


def test_it_lasts_beyond_the_time_of_a_request_and_says_so_while_nothing_happens(serve: Serve) -> None:
    port, _, run = serve(silence_s=0.2)
    viewer = Viewer(port)
    viewer.next()
    began, heard = time.monotonic(), 0
    while time.monotonic() < began + 1.5:
        heard += viewer._answer.readline() == b": still here\n"
    assert heard > 2
    run.join("a")
    assert viewer.next()[0] == "change"


def test_nothing_is_computed_while_nobody_looks(serve: Serve) -> None:
    port, stream, run = serve()
    time.sleep(0.1)
    assert run.looked == 0
    viewer = Viewer(port)
    viewer.next()
    until(lambda: run.looked > 5)
    viewer.close()
    until(lambda: stream.viewers == 0)
    time.sleep(0.1)
    seen = run.looked
    time.sleep(0.2)
    assert run.looked == seen
    run.join("a")
    assert Viewer(port).next()[1]["devices"] == [["a", "low"]]


def test_who_does_not_read_is_cut_off_and_holds_up_nobody(serve: Serve) -> None:
    port, stream, run = serve(write_s=0.5, silence_s=0.1)
    run.join(*(f"device-{number}" for number in range(3000)))
    with socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        silent.connect(("127.0.0.1", port))
        silent.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        until(lambda: stream.viewers == 1)
        reader = Viewer(port)
        assert len(reader.next()[1]["devices"]) == 3000
        until(lambda: stream.viewers == 1)
        run.join("one-more")
        while not (change := reader.next()[1]).get("devices"):
            assert change
        assert change["devices"] == [["one-more", "low"]]


def test_so_many_may_look_at_once(serve: Serve) -> None:
    port, stream, _ = serve(most=2)
    viewers = [Viewer(port), Viewer(port)]
    until(lambda: stream.viewers == 2)
    status, headers, _ = get(port, "/events")
    assert (status, headers["retry-after"]) == (503, "10")
    viewers[0].close()
    until(lambda: stream.viewers == 1)
    assert Viewer(port).next()[0] == "state"


def test_the_end_is_told(serve: Serve) -> None:
    port, stream, _ = serve()
    viewer = Viewer(port)
    viewer.next()
    stream.end()
    assert viewer.next() == ("end", {"why": "the coordinator has stopped"})
    assert viewer.next() == ("", {})


def test_files_come_with_a_policy_and_nothing_else_is_there(serve: Serve) -> None:
    port, _, _ = serve()
    for path in ("/", *(f"/{name}" for name in KINDS if name != "index.html")):
        status, headers, body = get(port, path)
        assert status == 200 and body
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'") and "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy and headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
    assert b"http://" not in get(port, "/")[2] and b"https://" not in get(port, "/")[2]
    assert {get(port, path)[0] for path in ("/index.html", "/view.py", "/static/", "//", "/../stream.py")} == {404}


def test_another_site_reads_nothing_of_a_page_on_the_loopback(serve: Serve) -> None:
    """Neither by a name of its own that leads here (DNS rebinding), nor from its own page."""
    port, _, _ = serve()
    for host in ("localhost", "127.0.0.1:7072", "[::1]:7072", "[::1]", f"127.0.0.1:{port}"):
        assert get(port, "/state.json", Host=host)[0] == 200, host
    for host in ("evil.example", "evil.example:7072", "localhost.evil.example", "127.0.0.1.evil.example:80", ""):
        assert get(port, "/state.json", Host=host)[0] == 421, host
    assert get(port, "/events", **{"Sec-Fetch-Site": "cross-site"})[0] == 403


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def test_a_guarded_run_shows_its_page_to_the_operator_and_who_has_its_password(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("for the board\n")
    settings = Server(web_password_file=str(tmp_path / "password"))
    endpoint = page_endpoint(settings, "127.0.0.1:0", False, True, hashlib.sha256(CREDENTIAL.encode()).hexdigest())
    assert "board" not in repr(endpoint)
    port, _, _ = serve(endpoint)
    for path in ("/", "/events", "/state.json", "/page.js"):
        wrong: tuple[dict[str, str], ...] = (
            {},
            basic("operator", "c" * 63),
            basic("operator", ""),
            {"Authorization": "Bearer " + CREDENTIAL},
        )
        for shown in (*wrong, {"Authorization": "Basic %%%"}, basic(CREDENTIAL, "x")):
            status, headers, body = get(port, path, **shown)
            assert (status, body, headers["www-authenticate"]) == (401, b"Unauthorized\n", 'Basic realm="zowarmup"')
    assert get(port, "/state.json", **basic("operator", CREDENTIAL))[0] == 200
    assert get(port, "/state.json", **basic("anyone", "for the board"))[0] == 200


def test_off_the_loopback_it_is_tls_with_a_password(serve: Serve, tmp_path: Path) -> None:
    with pytest.raises(ListeningError, match=r"server.web_address = '0.0.0.0:7072' is not loopback.*tls_certificate"):
        page_endpoint(Server(), "0.0.0.0:7072", False, False, "")
    certificates.init(tmp_path, ["127.0.0.1"])
    settings = Server(tls_certificate=str(tmp_path / "server.crt"), tls_key=str(tmp_path / "server.key"))
    away = page_endpoint(settings, "0.0.0.0:7072", False, False, "")
    assert away.tls is not None and away.admits is not None and not away.admits(b"")
    port, _, _ = serve(
        page_endpoint(settings, "0.0.0.0:0", False, False, hashlib.sha256(CREDENTIAL.encode()).hexdigest())
    )
    trusted = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    for headers, status in (({}, 401), (basic("operator", CREDENTIAL), 200)):
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=trusted)
        connection.request("GET", "/events", headers=headers)
        answer = connection.getresponse()
        assert answer.status == status
        assert status == 401 or answer.readline() == b"retry: 2000\n"
        answer.close()
    assert page_endpoint(settings, "127.0.0.1:7072", False, False, "").tls is None
    plain = page_endpoint(Server(), "0.0.0.0:7072", True, False, "")
    assert plain.tls is None and plain.admits is not None
    with pytest.raises(ListeningError, match="web_password_file = '/nowhere' cannot be read"):
        page_endpoint(Server(web_password_file="/nowhere"), "127.0.0.1:0", False, False, "")
    with pytest.raises(ValueError, match="web_address = '7072': must be"):
        Server(web_address="7072")


def test_as_one_file_it_needs_nothing_else_and_its_state_stays_data() -> None:
    run = Run()
    run.join("</script><script>alert(1)</script><!--")
    view = run.view()
    view.look()
    page = as_one_file(view.whole()).decode()
    assert "src=" not in page and 'rel="stylesheet"' not in page
    assert page.count("<script") == page.count("</script>") == 3
    state = page.partition('id="state">')[2].partition("</script>")[0]
    assert json.loads(state)["devices"] == [["</script><script>alert(1)</script><!--", "low"]]
    assert "<!--" not in state
