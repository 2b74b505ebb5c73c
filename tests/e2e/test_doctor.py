"""The doctor against real coordinators: a device that is well, and each thing that can be wrong with one.

The doctor is `zowarmup.client.diagnostics.doctor`.
"""

import datetime
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.algorithms import warmup_settings, zeroth_order_settings
from zowarmup.cli import certificates
from zowarmup.common.settings.run import Evaluation, Model, RunFile, Server
from zowarmup.lab.processes import free_port

from .conftest import Fleet, wait_until

# As of another clock, seen by the doctor alone: grpc counts its deadlines by time.time, too.
BEHIND = """
import time, types
from zowarmup.client.diagnostics import doctor
doctor.time = types.SimpleNamespace(monotonic=time.monotonic, time=lambda: time.time() - 7200)
"""
RUN = RunFile(
    name="digits",
    model=Model(name="mlp"),
    warmup=warmup_settings(rounds=0),
    zeroth_order=zeroth_order_settings(rounds=100_000, clients_per_round=1, minimum_clients=1),
    evaluation=Evaluation(data="digits:test"),
)


def doctor(address: str, *options: str, before: str = "") -> tuple[int, dict[str, Any]]:
    """The exit code, and the findings by their check."""
    code = f"{before}\nimport sys\nfrom zowarmup.client.main import main\nsys.exit(main())"
    command = [sys.executable, "-c", code, "--doctor", "--json", "--server", address, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    told = json.loads(done.stdout)
    assert told["passed"] == (done.returncode == 0)
    return done.returncode, {finding["check"]: finding for finding in told["findings"]}


def serving(fleet: Fleet, name: str, server: Server) -> None:
    """Start the coordinator, or start it again with other certificates."""
    fleet.lead(
        RunFile(
            name="digits",
            model=RUN.model,
            warmup=RUN.warmup,
            zeroth_order=RUN.zeroth_order,
            server=server,
            evaluation=Evaluation(data="digits:test"),
        ),
        name,
        measured=True,
    )
    health = ["health", "--server", server.health_address]
    wait_until(lambda: fleet.run_once("zowarmup.cli.main", *health).returncode == 0, 60, "the coordinator to serve")


def test_what_is_wrong_is_found_and_what_is_well_is_not(
    fleet: Callable[[], Fleet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = fleet()
    health, state = f"127.0.0.1:{free_port()}", str(tmp_path / "state")
    serving(one, "plain", Server(health_address=health))
    here = ("--state-dir", state)

    code, found = doctor(one.address, *here, "--data", "digits:1/2")
    assert code == 0, found
    assert found["bandwidth"]["verdict"] == "skipped"
    assert not Path(state).exists(), "the doctor changes nothing"

    code, found = doctor(one.address, *here, before=BEHIND)
    assert (code, found["clock"]["verdict"]) == (1, "fail")
    assert re.fullmatch(r"7(199|200)\.\d s behind the coordinator's", found["clock"]["found"])
    code, found = doctor(f"127.0.0.1:{free_port()}", *here)
    assert (code, found["connection"]["found"].endswith("that the coordinator is running")) == (1, True)
    dead = f"127.0.0.1:{free_port()}"
    code, found = doctor(f"{one.address},{dead}", *here)
    assert (code, found["connection"]["verdict"]) == (0, "warn"), (
        "of several, one that does not answer keeps nobody away"
    )
    assert found["connection"]["found"].startswith(f"{dead}: nothing listens there")
    assert found["coordinator"]["found"].startswith(f"{one.address}: trains digits")
    code, found = doctor(f"{dead},127.0.0.1:{free_port()}", *here)
    assert (code, found["connection"]["verdict"]) == (1, "fail")
    code, found = doctor(health, *here)
    assert (code, "no coordinator of this kind" in found["coordinator"]["found"]) == (1, True)
    code, found = doctor(one.address, *here, "--data", "digits:9/2")
    assert (code, found["data"]["verdict"]) == (1, "fail")

    one.join("client", "digits:1/2", "auto")
    held = one.folder / "clients" / "client"
    wait_until(lambda: (held / "identity.json").exists(), 30, "the client to join")
    code, found = doctor(one.address, "--state-dir", str(held))
    assert (code, found["bandwidth"]["verdict"], found["membership"]["verdict"]) == (0, "ok", "ok")
    status = one.status()
    assert status is not None
    measured = [row for row in status.traffic if row.kind == "measurement"]
    assert {row.direction for row in measured} == {"up", "down"}
    assert all(1 << 16 < row.payload_bytes < 1 << 23 for row in measured)
    one.signal("client", signal.SIGTERM)
    one.signal("plain", signal.SIGTERM)

    # The same coordinator behind certificates: two that will not do, and one that will.
    one.address = one.address.replace("127.0.0.1", "localhost")
    for name, days, host, said in (
        ("old", (-10, -0.5), "localhost", "certificate has expired"),
        ("misnamed", (-1, 10), "elsewhere.local", "mismatch"),
    ):
        with monkeypatch.context() as patch:
            dated(patch, days)
            certificates.init(tmp_path / name, [host])
        certificate, key = (str(tmp_path / name / f"server.{suffix}") for suffix in ("crt", "key"))
        serving(one, name, Server(health_address=health, tls_certificate=certificate, tls_key=key))
        for ca, expected in ((name, said), ("old", said if name == "old" else "certificate")):
            code, found = doctor(one.address, *here, "--ca", str(tmp_path / ca / "ca.crt"))
            assert (code, found["tls"]["verdict"], expected in found["tls"]["found"]) == (1, "fail", True)
            assert found["tls"]["remedy"]
        one.signal(name, signal.SIGTERM)
    certificates.init(tmp_path / "good", ["localhost"])
    certificate, key = (str(tmp_path / "good" / f"server.{suffix}") for suffix in ("crt", "key"))
    serving(one, "good", Server(health_address=health, tls_certificate=certificate, tls_key=key))
    code, found = doctor(one.address, "--state-dir", str(held), "--ca", str(tmp_path / "good/ca.crt"))
    assert (code, found["tls"]["verdict"], found["bandwidth"]["verdict"]) == (0, "ok", "ok"), found


def dated(patch: pytest.MonkeyPatch, days: tuple[float, float]) -> None:
    """Certificates are made that are good from and until so many days from now."""
    sign = x509.CertificateBuilder.sign

    def signed(builder: x509.CertificateBuilder, *arguments: Any, **options: Any) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        first, last = (now + datetime.timedelta(days=day) for day in days)
        builder._not_valid_before, builder._not_valid_after = first.replace(tzinfo=None), last.replace(tzinfo=None)
        return sign(builder, *arguments, **options)

    patch.setattr(x509.CertificateBuilder, "sign", signed)
