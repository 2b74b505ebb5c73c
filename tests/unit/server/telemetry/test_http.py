"""/metrics over real sockets: who gets it, in which form, and what a rude caller can do."""

import base64
import contextlib
import gzip
import socket
import ssl
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Gauge, make_asgi_app

from zowarmup.cli import certificates
from zowarmup.common.settings.run import Server
from zowarmup.server.core.errors import ListeningError
from zowarmup.server.telemetry import http
from zowarmup.server.telemetry.endpoints import HttpEndpoint, metrics_endpoint
from zowarmup.server.telemetry.http import HttpServer

LOOPBACK = HttpEndpoint("127.0.0.1", 0)
Show = Callable[..., str]


@pytest.fixture
def show() -> Iterator[Show]:
    """Serves one gauge: its URL."""
    registry, opened = CollectorRegistry(), list[HttpServer]()
    Gauge("answer", "To the ultimate question.", registry=registry).set(42)

    def one(through: HttpEndpoint, **limits: float) -> str:
        opened.append(serving(registry, through, **limits))
        return f"{opened[-1].open()}/metrics"

    yield one
    for each in opened:
        each.close()


def serving(registry: CollectorRegistry, through: HttpEndpoint = LOOPBACK, **limits: Any) -> HttpServer:
    return HttpServer(through, {"/metrics": make_asgi_app(registry)}, **limits)


def get(
    url: str, headers: dict[str, str] | None = None, method: str = "GET", context: ssl.SSLContext | None = None
) -> tuple[int, bytes, str]:
    """Status, body and content type."""
    request = urllib.request.Request(url, headers=headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            return answer.status, answer.read(), answer.headers["Content-Type"]
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers["Content-Type"]


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def test_metrics_are_at_metrics_and_nothing_else_is_anywhere(show: Show) -> None:
    url = show(LOOPBACK)
    status, body, kind = get(url)
    assert (status, kind.split(";")[0]) == (200, "text/plain") and b"answer 42.0\n" in body
    assert get(url + "?x=1")[0] == 200
    assert get(url, method="HEAD")[:2] == (200, b"")
    assert [get(url.replace("/metrics", path))[0] for path in ("/", "/metricsx", "/../etc/passwd")] == [404] * 3
    assert get(url, method="POST")[0] == 405


def test_openmetrics_and_gzip_are_for_who_asks(show: Show) -> None:
    url = show(LOOPBACK)
    _, body, kind = get(url, {"Accept": "application/openmetrics-text; version=1.0.0"})
    assert kind.startswith("application/openmetrics-text") and body.endswith(b"# EOF\n")
    assert b"answer 42.0\n" in gzip.decompress(get(url, {"Accept-Encoding": "gzip, deflate"})[1])


def test_a_name_and_a_password_are_asked_for(show: Show, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("open sesame\n")
    settings = Server(metrics_user="prometheus", metrics_password_file=str(tmp_path / "password"))
    through = metrics_endpoint(settings, "127.0.0.1:0", False)
    assert "b3BlbiBz" not in repr(through) and "sesame" not in repr(through)
    url = show(through)
    assert get(url, basic("prometheus", "open sesame"))[0] == 200
    for wrong in ({}, basic("prometheus", "open"), basic("", ""), {"Authorization": "Bearer \xff"}):
        assert get(url, wrong)[0] == 401
    assert get(url.replace("/metrics", "/"))[0] == 404


def secured(folder: Path) -> Server:
    certificates.init(folder, ["127.0.0.1"])
    return Server(tls_certificate=str(folder / "server.crt"), tls_key=str(folder / "server.key"))


def test_a_certificate_makes_it_https(show: Show, tmp_path: Path) -> None:
    through = metrics_endpoint(secured(tmp_path), "127.0.0.1:0", False)
    url = show(through)
    assert url.startswith("https://127.0.0.1:")
    assert get(url, context=ssl.create_default_context(cafile=str(tmp_path / "ca.crt")))[0] == 200
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        get(url, context=ssl.create_default_context())


def test_plain_text_for_others_to_read_has_to_be_said(tmp_path: Path) -> None:
    with pytest.raises(ListeningError, match=r"metrics_plaintext = true"):
        metrics_endpoint(Server(), "0.0.0.0:9464", False)
    assert metrics_endpoint(Server(), "0.0.0.0:9464", True).tls is None
    said = metrics_endpoint(Server(metrics_plaintext=True), "[::]:9464", False)
    assert (said.host, said.port, said.tls) == ("::", 9464, None)
    assert metrics_endpoint(Server(), "127.0.0.1:9464", False).tls is None
    encrypted = metrics_endpoint(secured(tmp_path), "0.0.0.0:9464", False)
    assert encrypted.tls is not None and encrypted.tls.minimum_version == ssl.TLSVersion.TLSv1_2


def test_what_is_wrong_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ListeningError, match="metrics_password_file = '/nowhere' cannot be read"):
        metrics_endpoint(Server(metrics_user="x", metrics_password_file="/nowhere"), "127.0.0.1:0", False)
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ListeningError, match="its first line must be the password"):
        metrics_endpoint(Server(metrics_user="x", metrics_password_file=str(tmp_path / "empty")), "127.0.0.1:0", False)
    with pytest.raises(ValueError, match="metrics_password_file = '': must be given together with metrics_user"):
        Server(metrics_user="x")
    with pytest.raises(ValueError, match="metrics_address = '9464': must be"):
        Server(metrics_address="9464")


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListeningError, match=f"cannot show metrics on 127.0.0.1:{port}"):
            serving(CollectorRegistry(), HttpEndpoint("127.0.0.1", port)).open()


def test_those_who_say_nothing_or_too_much_are_left(show: Show) -> None:
    url = show(LOOPBACK, request_s=0.5)
    port = int(url.rpartition(":")[2].partition("/")[0])
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(http.CONNECTIONS_EACH - 1)]
    began = time.monotonic()
    long = socket.create_connection(("127.0.0.1", port))
    long.sendall(b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 2 * http.LONGEST_BYTES)
    for one in silent:
        one.settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            assert one.recv(10) == b""  # the coordinator hangs up
        one.close()
    assert time.monotonic() >= began + 0.4
    long.close()
    assert get(url)[0] == 200


def test_those_who_do_not_read_are_left() -> None:
    registry = CollectorRegistry()
    gauge = Gauge("answer", "To every question.", ["question"], registry=registry)
    for n in range(5000):
        gauge.labels(str(n) + "?" * 1000).set(42)
    shown = serving(registry, request_s=0.5)
    port = int(shown.open().rpartition(":")[2])
    try:
        peer = socket.socket()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.connect(("127.0.0.1", port))
        peer.settimeout(10)
        peer.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        deadline = time.monotonic() + 10
        for connected in (True, False):  # it is let in, and then cut off
            while bool(shown._bounds.connected) is not connected:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        read = 0
        with contextlib.suppress(ConnectionResetError):
            while piece := peer.recv(1 << 20):
                read += len(piece)
        peer.close()
        assert read < 5_000_000, "the answer was kept for it"
    finally:
        shown.close()


def test_too_many_at_once_are_turned_away(show: Show) -> None:
    url = show(LOOPBACK, connections=3, request_s=600.0)
    port = int(url.rpartition(":")[2].partition("/")[0])
    silent = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(3)]
    more = socket.create_connection(("127.0.0.1", port), timeout=60)
    with contextlib.suppress(ConnectionResetError):
        assert more.recv(10) == b"", "long before a silent one is"
    for one in (*silent, more):
        one.close()
    deadline, status = time.monotonic() + 5, 0
    while status != 200 and time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, OSError):
            status = get(url)[0]
    assert status == 200


@pytest.mark.skipif(sys.platform != "linux", reason="the rest of 127.0.0.0/8 is no address elsewhere")
def test_one_address_keeps_no_other_out_not_even_by_handshakes_that_it_never_makes(show: Show, tmp_path: Path) -> None:
    through = metrics_endpoint(secured(tmp_path), "127.0.0.1:0", False)
    port = int(show(through).rpartition(":")[2].partition("/")[0])
    silent = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(5 * http.CONNECTIONS)]
    try:
        for one in silent[http.CONNECTIONS_EACH :]:
            with contextlib.suppress(ConnectionResetError):
                assert one.recv(10) == b"", "closed before its handshake"
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
        other = socket.create_connection(("127.0.0.1", port), timeout=10, source_address=("127.0.0.2", 0))
        with context.wrap_socket(other, server_hostname="127.0.0.1") as scraping:
            scraping.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            assert scraping.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")
    finally:
        for one in silent:
            one.close()


def test_a_collector_that_fails_is_no_end(show: Show, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def collect(self) -> list[object]:
            raise RuntimeError("no")

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Broken())  # type: ignore[arg-type]
    shown = serving(registry)
    url = shown.open()
    try:
        for _ in range(2):
            assert get(f"{url}/metrics")[0] == 500
        assert "RuntimeError: no" in caplog.text
    finally:
        shown.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "http" and thread.is_alive()]


def test_what_is_no_request_leaves_no_traceback(show: Show, caplog: pytest.LogCaptureFixture) -> None:
    port = int(show(HttpEndpoint("127.0.0.1", 0)).rpartition(":")[2].partition("/")[0])
    head = b"GET /metrics HTTP/1.1\r\nHost: x\r\n"
    for request, status in (
        (b"\x16\x03\x01 hello\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\n\r\n", b"400"),  # no host
        (head + b"Accept: \xff\r\nAccept-Encoding: \xff\r\n\r\n", b"200"),
        (head + b"Upgrade: websocket\r\nConnection: upgrade\r\n\r\n", b"200"),
        (b"GET /metrics?name[]=%ff&&= HTTP/1.1\r\nHost: x\r\n\r\n", b"200"),
    ):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as peer:
            peer.sendall(request)
            assert peer.recv(1 << 16).split()[1] == status, request
    assert "Traceback" not in caplog.text
