"""Keys that change under a running fleet: a renewal that nobody notices, and a new authority after a theft."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.prepared import prepared
from zowarmup.cli import certificates
from zowarmup.common.settings.run import Evaluation, Model, RunFile, Server
from zowarmup.common.system.command import Interrupts
from zowarmup.lab.demo.settings import to_toml
from zowarmup.lab.processes import NO_PROXY, ONE_THREAD, Processes, free_port

ENVIRONMENT = {**ONE_THREAD, **NO_PROXY, "PYTHONUNBUFFERED": "1"}
SLOW_S = 120.0


class TlsServer:
    """A coordinator with TLS, for calls and for metrics, whose one round waits for more clients than there are."""

    def __init__(self, folder: Path, processes: Processes, prepared_models: Path) -> None:
        self.folder, self.processes, self.certs = folder, processes, folder / "certs"
        self.address, self.metrics = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        run = RunFile(
            name="renewal",
            model=Model(name="mlp"),
            warmup=warmup_settings(rounds=0, clients_per_round=1),
            zeroth_order=zeroth_order_settings(rounds=50, clients_per_round=10, deadline_s=600, probes=2),
            evaluation=Evaluation(data="digits:test", every=1000),
            server=Server(
                address=self.address,
                metrics_address=self.metrics,
                tls_certificate=str(self.certs / "server.crt"),
                tls_key=str(self.certs / "server.key"),
            ),
        )
        (folder / "run.toml").write_text(to_toml(run))
        arguments = [str(folder / "run.toml"), "--data-dir", str(folder / "server"), "--verbose"]
        arguments += prepared(run, prepared_models)
        processes.start("server", "zowarmup.server.main", arguments)
        self.until(lambda: "metrics at https" in self.log("server") and "listening on" in self.log("server"))

    def log(self, name: str) -> str:
        return self.processes.log(name).read_text(errors="replace")

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + SLOW_S
        while not condition():
            assert time.monotonic() < end, self.log("server")
            time.sleep(0.1)

    def device(self, name: str, *arguments: str) -> list[str]:
        state = ["--state-dir", str(self.folder / name), "--name", name]
        return ["--server", self.address, "--data", "digits:1/3", "--tier", "low", *state, *arguments]

    def join(self, name: str, *arguments: str, log: str = "") -> None:
        log = log or name
        self.processes.start(log, "zowarmup.client.main", self.device(name, *arguments))
        self.until(lambda: f"as {name}" in self.log(log))

    def stop(self, name: str) -> None:
        os.kill(self.processes.pid(name), signal.SIGTERM)
        self.until(lambda: name in {ended.name for ended in self.processes.ended()})

    def status(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "zowarmup.cli.main", "status", "--server", self.address, *arguments]
        done = subprocess.run(
            [*command, "--data-dir", str(self.folder / "server")],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def shown(address: str) -> int:
    """The serial number of the certificate that a handshake shows, whoever has signed it."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), 20) as plain, context.wrap_socket(plain) as secure:
        return x509.load_der_x509_certificate(secure.getpeercert(True) or b"").serial_number


def serial(file: Path) -> int:
    return x509.load_pem_x509_certificate(file.read_bytes()).serial_number


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, prepared_models: Path) -> Iterator[TlsServer]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "logs").mkdir()
    certificates.init(folder / "certs", ["127.0.0.1"])
    with Processes(folder / "logs", Interrupts(), ENVIRONMENT) as processes:
        yield TlsServer(folder, processes, prepared_models)


def test_a_renewed_certificate_is_shown_to_everyone_who_comes_and_nobody_is_cut_off(server: TlsServer) -> None:
    server.join("pi", "--ca", str(server.certs / "ca.crt"))
    assert shown(server.address) == shown(server.metrics) == serial(server.certs / "server.crt")
    assert "certificate" not in server.status()
    command = [sys.executable, "-m", "zowarmup.cli.main", "certs", "server", "--out", str(server.certs), "--days", "20"]
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    renewed = serial(server.certs / "server.crt")
    server.until(lambda: shown(server.address) == shown(server.metrics) == renewed)
    # Its end is near, and is announced.
    assert "expires in 20 days" in server.log("server")
    assert "expires in 20 days" in " ".join(server.status().split())
    status = json.loads(server.status("--json"))
    assert 19 * 86400 < status["certificate_expires_at_s"] - time.time() < 20 * 86400
    # A newcomer comes in, and the member has had the same stream all the while.
    server.join("pi-2", "--ca", str(server.certs / "ca.crt"))
    assert [client["connected"] for client in json.loads(server.status("--json"))["clients"]] == [True, True]
    log = server.log("server")
    assert log.count("pi connected") == 1 and "pi disconnected" not in log, log


def test_after_a_theft_a_new_authority_shuts_the_thief_out_of_every_device_that_has_it(server: TlsServer) -> None:
    """The steps of docs/security.md, "A key was stolen"."""
    server.join("careful", "--ca", str(server.certs / "ca.crt"))
    certificates.init(server.folder / "certs-2", ["127.0.0.1"])
    both = server.folder / "both.crt"
    both.write_bytes(b"".join((server.folder / name / "ca.crt").read_bytes() for name in ("certs", "certs-2")))
    server.join("early", "--ca", str(both))
    server.stop("early")
    members = [client["name"] for client in json.loads(server.status("--json"))["clients"]]
    stolen = [(server.certs / name).read_bytes() for name in ("server.crt", "server.key")]
    for name in ("ca.crt", "server.key", "server.crt"):
        (server.certs / name).write_bytes((server.folder / "certs-2" / name).read_bytes())
    server.until(lambda: shown(server.address) == serial(server.folder / "certs-2" / "server.crt"))
    # The operator's commands find the new authority in the data directory.
    assert "renewal" in server.status()
    server.stop("careful")
    # A device that was not told trusts the old authority, and does not speak to the coordinator.
    server.processes.start("untold", "zowarmup.client.main", server.device("careful"))
    server.until(lambda: "its certificate is not one that this device trusts" in server.log("untold"))
    server.until(lambda: ("untold", 1) in {(ended.name, ended.code) for ended in server.processes.ended()})
    # Told once, it keeps the new authority and is the member that it was.
    server.join("careful", "--ca", str(server.certs / "ca.crt"), log="told")
    server.stop("told")
    server.join("careful", log="again")
    server.stop("again")
    assert [client["name"] for client in json.loads(server.status("--json"))["clients"]] == [
        *members,
    ]
    # As does one that was told of both beforehand.
    server.join("early", log="early-again")
    # And it has nothing to say to who answers with the stolen key.
    with impostor(server.folder, *stolen) as address:
        fooled = subprocess.run(
            [sys.executable, "-m", "zowarmup.client.main", "--doctor", *server.device("careful"), "--server", address],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, **ENVIRONMENT},
        )
    assert fooled.returncode == 1 and "signed by another" in fooled.stdout, fooled.stdout


@contextmanager
def impostor(folder: Path, chain: bytes, key: bytes) -> Iterator[str]:
    """A port that shakes hands with a certificate and says nothing."""
    (folder / "stolen.crt").write_bytes(chain)
    (folder / "stolen.key").write_bytes(key)
    port = free_port()
    command = ["openssl", "s_server", "-quiet", "-accept", f"127.0.0.1:{port}", "-alpn", "h2"]
    command += ["-cert", str(folder / "stolen.crt"), "-key", str(folder / "stolen.key")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as listening:
        try:
            end = time.monotonic() + 20
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert time.monotonic() < end
                    time.sleep(0.05)
            yield f"127.0.0.1:{port}"
        finally:
            listening.kill()
