"""What is at the coordinator's address is said in plain words: real sockets, and real clients that meet them."""

import asyncio
import datetime
import http.server
import os
import pty
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.client.conftest import HEARING_S, Scripted, Start, Talk, one_sentence
from tests.client.test_outages import free_port, idle
from zowarmup.cli import certificates
from zowarmup.cli.session.session import Session
from zowarmup.client.net.contact import Contact, ContactFinding, heard, look
from zowarmup.client.net.coordinators import Lookout
from zowarmup.client.net.retrying import SAY_EVERY_S, Missing
from zowarmup.client.net.tls import PLAIN, Trust, trust
from zowarmup.common.system.command import NoAnswer

Serve = Callable[[socket.socket], None]


@contextmanager
def answering(serve: Serve, family: int = socket.AF_INET) -> Iterator[int]:
    """A server that treats each connection so; its port."""
    with socket.socket(family) as listener:
        listener.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        listener.listen()

        def accept() -> None:
            while True:
                try:
                    link = listener.accept()[0]
                except OSError:
                    return
                threading.Thread(target=one, args=(link,), daemon=True).start()

        def one(link: socket.socket) -> None:
            with link:
                try:
                    serve(link)
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)


def says(words: bytes) -> Serve:
    def serve(link: socket.socket) -> None:
        link.sendall(words)
        link.recv(1 << 16)

    return serve


def silent(link: socket.socket) -> None:
    while link.recv(1 << 16):
        pass


def closes(link: socket.socket) -> None:
    link.recv(1)


def secure(certs: Path, then: Serve, wanted: bool = False) -> Serve:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certs / "server.crt", certs / "server.key")
    context.set_alpn_protocols(["h2"])
    if wanted:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certs / "ca.crt")

    def serve(link: socket.socket) -> None:
        with context.wrap_socket(link, server_side=True) as wrapped:
            then(wrapped)

    return serve


SETTINGS = b"\0\0\0\4\0\0\0\0\0"


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certified(tmp_path_factory.mktemp("certs"), "127.0.0.1,localhost")


def certified(folder: Path, host: str) -> Path:
    command = [sys.executable, "-m", "zowarmup.cli.main", "certs", "init", "--out", str(folder / "c"), "--host", host]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "c"


def trusting(certs: Path) -> Trust:
    return trust("127.0.0.1:1", (certs / "ca.crt").read_bytes())


@pytest.mark.parametrize(
    ("serve", "found", "words"),
    [
        (says(SETTINGS), ContactFinding.COORDINATOR, ""),
        (says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), ContactFinding.HTTP, "HTTP/1.1 400 Bad Request"),
        (says(b"SSH-2.0-OpenSSH_9.2\r\n"), ContactFinding.OTHER, "SSH-2.0-OpenSSH_9.2"),
        (says(b"\xff\xfd\x18\x00\x01"), ContactFinding.OTHER, "another program"),
        (silent, ContactFinding.SILENT, "says nothing"),
        (closes, ContactFinding.HANGS_UP, "hangs up"),
    ],
)
def test_what_speaks_in_plain_text(serve: Serve, found: ContactFinding, words: str) -> None:
    with answering(serve) as port:
        contact = look(f"127.0.0.1:{port}", PLAIN, 1.0)
    assert contact.found is found
    assert words in contact.sentence


def test_what_speaks_under_tls(certs: Path, tmp_path: Path) -> None:
    elsewhere = certified(tmp_path, "elsewhere.example")
    mine, theirs = trusting(certs), trusting(elsewhere)
    cases: list[tuple[Serve, Trust, ContactFinding]] = [
        (secure(certs, says(SETTINGS)), mine, ContactFinding.COORDINATOR),
        (secure(certs, says(SETTINGS)), PLAIN, ContactFinding.TLS),
        (secure(certs, says(SETTINGS)), theirs, ContactFinding.ANOTHER_AUTHORITY),
        (secure(certs, says(SETTINGS)), trust("example.org:1"), ContactFinding.ANOTHER_AUTHORITY),
        (secure(elsewhere, says(SETTINGS)), theirs, ContactFinding.ANOTHER_NAME),
        (secure(certs, says(SETTINGS), wanted=True), mine, ContactFinding.CERTIFICATE_WANTED),
        (secure(certs, says(b"HTTP/1.1 400 Bad Request\r\n\r\n")), mine, ContactFinding.HTTP),
        (says(SETTINGS), mine, ContactFinding.PLAIN),
        (says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), mine, ContactFinding.HTTP),
        (says(b"SSH-2.0-OpenSSH_9.2\r\n"), mine, ContactFinding.OTHER),
        (silent, mine, ContactFinding.SILENT),
    ]
    found = []
    for serve, trusted, _ in cases:
        with answering(serve) as port:
            found.append(look(f"127.0.0.1:{port}", trusted, 1.0).found)
    assert found == [wanted for _, _, wanted in cases]


def test_a_certificate_and_the_clock() -> None:
    for problem, found in (("certificate is not yet valid", "NOT_YET_VALID"), ("certificate has expired", "EXPIRED")):
        from zowarmup.client.net.contact import _contact, _distrusted

        sentence = _contact(_distrusted(problem), "pi").sentence
        assert _distrusted(problem) is ContactFinding[found]
        assert " UTC" in sentence


def test_a_device_whose_clock_is_in_the_past_is_told_the_date_that_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To it, every certificate is from the future: here one is."""
    monkeypatch.setattr(certificates, "BACKDATED", datetime.timedelta(days=-2))
    certificates.init(tmp_path, ["127.0.0.1"])
    with answering(secure(tmp_path, closes)) as port:
        address = f"127.0.0.1:{port}"
        found = look(address, trust(address, (tmp_path / "ca.crt").read_bytes()), 5.0)
    today = datetime.datetime.now(datetime.UTC)
    assert found.found is ContactFinding.NOT_YET_VALID
    assert found.sentence.startswith(f"this device's clock says {today:%Y-%m-}")
    assert "timedatectl" in found.sentence


def test_nothing_that_can_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = look(f"127.0.0.1:{free_port()}", PLAIN, 1.0)
    assert refused.found is ContactFinding.REFUSED
    unknown = look("no-such-machine.invalid:7070", PLAIN, 1.0)
    assert unknown.found in (ContactFinding.UNKNOWN_NAME, ContactFinding.NO_NAME_SERVICE)
    assert "no-such-machine.invalid" in unknown.sentence
    with socket.socket() as full:  # a listener whose queue is full answers no more
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        timed_out = look(f"127.0.0.1:{full.getsockname()[1]}", PLAIN, 0.5)
        for one in waiting:
            one.close()
    assert timed_out.found in (ContactFinding.TIMED_OUT, ContactFinding.SILENT)
    monkeypatch.setenv("grpc_proxy", "http://user:secret@127.0.0.1:1")
    proxied = look("coordinator.example:7070", PLAIN, 1.0)
    assert proxied.found is ContactFinding.PROXY
    assert "secret" not in proxied.sentence
    assert "127.0.0.1:1 fails (Connection refused)" in proxied.sentence


def test_a_name_with_several_addresses_of_which_one_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(says(SETTINGS)) as port:
        dead, alive = ("127.0.0.2", port), ("127.0.0.1", port)
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", place) for place in (dead, alive)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: found)
        assert look(f"two-homes.example:{port}", PLAIN, 1.0).found is ContactFinding.COORDINATOR


@pytest.mark.skipif(shutil.which("unshare") is None or os.geteuid() != 0, reason="needs root and unshare")
def test_a_network_namespace_whose_loopback_is_down() -> None:
    code = "from zowarmup.client.net.contact import *; from zowarmup.client.net.tls import PLAIN; print(look('127.0.0.1:7', PLAIN).found.name)"
    done = subprocess.run(["unshare", "--net", sys.executable, "-c", code], check=False, capture_output=True, text=True)
    if "unshare" in done.stderr:
        pytest.skip(done.stderr)
    assert done.stdout == "NO_LOOPBACK\n", done.stderr


def test_any_bytes_are_something() -> None:
    for said in (b"", b"\0", b"\n", b"\x15", b"\x15\x03\x03\0\2\2\x46", bytes(range(256)), b"\xff" * 5000):
        found, detail = heard(said)
        assert isinstance(found, ContactFinding)
        assert detail.isprintable()


def test_a_look_is_shared_by_those_who_ask() -> None:
    looks: list[int] = []

    def serve(link: socket.socket) -> None:
        looks.append(1)
        link.sendall(SETTINGS)
        link.recv(1 << 16)

    async def many(port: int) -> list[Contact]:
        lookout = Lookout(f"127.0.0.1:{port}", PLAIN)
        found = await asyncio.gather(*(lookout.contact() for _ in range(100)))
        return [*found, await lookout.contact()]

    with answering(serve) as port:
        assert {contact.found for contact in asyncio.run(many(port))} == {ContactFinding.COORDINATOR}
    assert looks == [1]


def test_the_same_reason_is_said_once_and_others_not_all_the_time() -> None:
    missing = Missing()
    assert missing.worth_saying("a", 0.0)
    assert not missing.worth_saying("a", SAY_EVERY_S + 1)
    assert not Missing().worth_saying("", 0.0)
    assert missing.worth_saying("b", SAY_EVERY_S + 1)
    assert not missing.worth_saying("a", SAY_EVERY_S + 2)
    assert missing.worth_saying("a", 2 * SAY_EVERY_S + 2)


def web(link: socket.socket) -> None:
    """The metrics port of a coordinator, or any web server."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    Handler(link, ("127.0.0.1", 0), None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("serve", "words"),
    [
        (web, "a web server answers there"),
        (says(b"SSH-2.0-OpenSSH_9.2\r\n"), "another program answers there (SSH-2.0-OpenSSH_9.2)"),
        (silent, "says nothing"),
    ],
)
def test_a_client_says_what_it_found_and_gives_up(start: Start, serve: Serve, words: str) -> None:
    async def scenario(port: int) -> None:
        client = await start(port, "--connect-timeout", "3")
        assert await client.ended() == 1
        said = one_sentence(client.log)
        assert said.startswith(f"no coordinator answered at 127.0.0.1:{port} within 3 s (--connect-timeout): ")
        assert words in said
        assert client.log.count("waiting for") <= 1

    with answering(serve) as port:
        asyncio.run(scenario(port))


def test_a_client_whose_first_reason_changes_says_the_next(
    scripted: Scripted, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(port: int) -> None:
        client = await start(port)
        await client.printed("nothing listens there")
        scripted.parts = [idle]
        async with scripted.listening(port):
            await client.printed("joined digits as pi")
            assert await client.stopped() == 0

    asyncio.run(scenario(free_port()))


def test_on_a_terminal_a_client_waits_for_a_minute_and_elsewhere_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from zowarmup.client.work.joining import patience_s as p; import sys; print(p(None), p(0.0), p(5.0), file=sys.stdout)"
    command = [sys.executable, "-c", code]
    master, slave = pty.openpty()
    looked_on = subprocess.run(
        command, check=True, stdin=slave, stdout=subprocess.PIPE, stderr=slave, text=True, timeout=60
    )
    os.close(master)
    os.close(slave)
    assert looked_on.stdout.split() == ["60.0", "inf", "5.0"]
    service = subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert service.stdout.split() == ["inf", "inf", "5.0"]


def test_a_proxy_for_the_web_is_not_used_by_either_side(
    scripted: Scripted, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)

    async def scenario() -> None:
        scripted.parts = [idle]
        async with scripted.listening() as port:
            client = await start(port)
            await client.printed("joined digits as pi")
            assert await client.stopped() == 0
            assert await asyncio.to_thread(named, f"127.0.0.1:{port}") == "digits"

    def named(address: str) -> str:
        with Session(address) as session:
            return session.run().name

    asyncio.run(scenario())


RESOLVER = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
int getaddrinfo(const char *n, const char *s, const struct addrinfo *h, struct addrinfo **r) {
  static int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
  if (!real) real = dlsym(RTLD_NEXT, "getaddrinfo");
  return real(n && !strcmp(n, "coordinator.local") ? "127.0.0.1" : n, s, h, r);
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_a_name_that_only_the_system_resolves(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by mDNS: the system's getaddrinfo knows it, and no DNS server does."""
    (tmp_path / "mdns.c").write_text(RESOLVER)
    library = tmp_path / "mdns.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "mdns.c", "-ldl"], check=True)
    monkeypatch.setenv("LD_PRELOAD", str(library))

    async def ran(*command: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        out, _ = await asyncio.wait_for(process.communicate(), HEARING_S)
        return process.returncode, out.decode()

    async def over(talk: Talk) -> None:
        await talk.hear("hello")
        await talk.say(welcome={"epoch": 1, "phase": "PHASE_FINISHED", "version": 1})
        await talk.say(finished={"version": 1, "digest": b"\0" * 16})
        await talk.end()

    async def scenario() -> None:
        scripted.parts = [over]
        async with scripted.listening() as port:
            server = ("--server", f"coordinator.local:{port}", "--insecure")
            place = ("--state-dir", str(tmp_path / "state"))
            told = await ran("zowarmup.cli.main", "doctor", *server, *place)
            assert "ok       coordinator  trains digits" in told[1]
            joined = await ran("zowarmup.client.main", *server, *place, "--data", "digits:1/10", "--tier", "low")
            assert joined[0] == 0, joined[1]
            asked = await ran("zowarmup.cli.main", "status", *server)
            assert "no zowarmup coordinator of this version" in asked[1]  # it has no operator's service, but it answers

    asyncio.run(scenario())


def test_an_operator_hears_what_is_there() -> None:
    with answering(web) as port, Session(f"127.0.0.1:{port}") as session, pytest.raises(NoAnswer, match="a web server"):
        session.run()


def test_ipv6_alone() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    with answering(says(SETTINGS), socket.AF_INET6) as port:
        assert look(f"[::1]:{port}", PLAIN, 1.0).found is ContactFinding.COORDINATOR
