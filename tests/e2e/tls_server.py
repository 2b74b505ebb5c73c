"""A coordinator with TLS and invitations as a process, what its operator and its devices say to it, and calls of
one's own."""

import json
import os
import queue
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.prepared import prepared
from zowarmup.cli import certificates
from zowarmup.cli.session.session import Session
from zowarmup.cli.session.status import Status
from zowarmup.client.net.tls import trust
from zowarmup.common.messages.invitation import JOIN_VARIABLE, Invitation
from zowarmup.common.settings.run import PROTOCOL, Evaluation, Model, RunFile, Server
from zowarmup.common.system.command import Interrupts, NoAnswer
from zowarmup.lab.demo.settings import to_toml
from zowarmup.lab.processes import NO_PROXY, ONE_THREAD, Processes, free_port
from zowarmup.server.core import events as ev
from zowarmup.server.store.ledger import Ledger
from zowarmup.v1 import coordinator_pb2 as wire
from zowarmup.v1.coordinator_pb2_grpc import CoordinatorServiceStub

ENVIRONMENT = {**ONE_THREAD, **NO_PROXY, "PYTHONUNBUFFERED": "1", "GRPC_VERBOSITY": "INFO"}
CALL_S = 20.0
BY_ITSELF = (
    ev.RoundOpened,
    ev.DeadlineExtended,
    ev.ParticipantsFailed,
    ev.RoundAbandoned,
    ev.StageBegan,
    ev.SnapshotTaken,
    ev.SnapshotsPruned,
    ev.Pivoted,
    ev.Evaluated,
    ev.RolledBack,
    ev.RunPaused,
    ev.RunFinished,
    ev.RunGaveUp,
)
"""What a run brings about as time passes, whoever is connected."""
BY_SOMEBODY = (
    ev.RunCreated,
    ev.InvitationIssued,
    ev.InvitationRevoked,
    ev.ClientEnrolled,
    ev.ExamplesChanged,
    ev.ClientRevoked,
    ev.Contributed,
    ev.Abstained,
    ev.StepTaken,
    ev.RoundClosed,
    ev.Committed,
    ev.RunResumed,
    ev.PivotRequested,
    ev.StopRequested,
)
"""What a client or the operator brings about: a refused call adds none of these."""


@dataclass
class TlsServer:
    """A coordinator at 127.0.0.1 with a certificate of its own authority, and its operator."""

    folder: Path
    processes: Processes
    prepared_models: Path | None = None
    address: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    health: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")

    @property
    def certs(self) -> Path:
        return self.folder / "certs"

    @property
    def data_dir(self) -> Path:
        return self.folder / "server"

    @property
    def operator(self) -> str:
        return (self.data_dir / "operator.credential").read_text().strip()

    def lead(self, name: str, mutual: bool = False, anywhere: bool = False) -> None:
        """Start the coordinator and wait until it answers. `mutual`: it asks for certificates; `anywhere`: it listens on
        every address of this machine, and says on another port whether it is well."""
        run = RunFile(
            name="strangers",
            model=Model(name="mlp"),
            warmup=warmup_settings(rounds=0, clients_per_round=1),
            zeroth_order=zeroth_order_settings(
                rounds=50,
                clients_per_round=2,
                quorum=1.0,
                deadline_s=600,
                train="all",
                probes=2,
                head_projections=1,
                whitening=0,
            ),
            evaluation=Evaluation(data="digits:test", every=1000),
            server=Server(
                address=f"0.0.0.0:{self.address.rpartition(':')[2]}" if anywhere else self.address,
                enrolment="" if anywhere else "invited",
                health_address=self.health if anywhere else "",
                tls_certificate=str(self.certs / "server.crt"),
                tls_key=str(self.certs / "server.key"),
                client_ca=str(self.certs / "ca.crt") if mutual else "",
            ),
        )
        (self.folder / "run.toml").write_text(to_toml(run))
        arguments = [str(self.folder / "run.toml"), "--data-dir", str(self.data_dir), "--verbose"]
        if self.prepared_models is not None:
            arguments += prepared(run, self.prepared_models)
        self.processes.start(name, "zowarmup.server.main", arguments)
        own = (self.certs / "op.crt", self.certs / "op.key") if mutual else (None, None)
        trusted = trust(self.address, (self.certs / "ca.crt").read_bytes(), *own)
        for _ in range(600):
            ended = [end for end in self.processes.ended() if end.name == name]
            assert not ended, ended[0].sentence()
            try:
                with Session(self.address, trust=trusted) as session:
                    session.run()
                return
            except NoAnswer:
                time.sleep(0.1)
        raise AssertionError("the coordinator does not answer")

    def zowarmup(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """The operator's command, on the coordinator's machine."""
        command = [sys.executable, "-m", "zowarmup.cli.main", *arguments, "--server", self.address]
        command += ["--data-dir", str(self.data_dir)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def invite(self, *arguments: str, tier: str = "low") -> Invitation:
        done = self.zowarmup("invite", "--tier", tier, *arguments)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("\n") == 1
        word = done.stdout.split(" ")[0].removeprefix(f"{JOIN_VARIABLE}=")
        return Invitation.from_word(word)

    def invitations(self) -> list[dict[str, Any]]:
        done = self.zowarmup("invitations", "--json")
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    def status(self) -> Status:
        trusted = trust(self.address, (self.certs / "ca.crt").read_bytes())
        with Session(self.address, trust=trusted, credential=self.operator) as session:
            return session.status()

    def ledger(self) -> list[ev.Event]:
        """All that somebody has brought about."""
        ledger = Ledger(self.data_dir / "ledger.sqlite", read_only=True)
        try:
            return [event for _, event in ledger.read() if isinstance(event, BY_SOMEBODY)]
        finally:
            ledger.close()

    @contextmanager
    def calls(self, certificate: str = "", authority: Path | None = None, address: str = "") -> Iterator[Any]:
        """The client's calls, over TLS, to the coordinator or what stands before it."""
        read = Path.read_bytes
        credentials = grpc.ssl_channel_credentials(
            read(authority or self.certs / "ca.crt"),
            read(Path(f"{certificate}.key")) if certificate else None,
            read(Path(f"{certificate}.crt")) if certificate else None,
        )
        with grpc.secure_channel(address or self.address, credentials) as channel:
            yield CoordinatorServiceStub(channel)

    def enrol(self, token: str, name: str = "pi", tier: Any = wire.TIER_LOW) -> tuple[str, str]:
        with self.calls() as calls:
            run_id = calls.GetRun(wire.GetRunRequest(protocol=PROTOCOL), timeout=CALL_S).run_id
            request = wire.EnrolRequest(run_id=run_id, name=name, tier=tier, examples=100, token=token)
            answer = calls.Enrol(request, timeout=CALL_S)
            return answer.client, answer.credential

    def device(self, *arguments: str, name: str) -> list[str]:
        """The arguments of a real client."""
        state = ["--state-dir", str(self.folder / "devices" / name), "--name", name]
        return ["--server", self.address, "--data", "digits:1/3", "--tier", "low", *state, *arguments]

    def refused_device(self, *arguments: str, name: str, word: str = "") -> str:
        """What a real client says that may not join."""
        done = subprocess.run(
            [sys.executable, "-m", "zowarmup.client.main", *self.device(*arguments, name=name)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, **ENVIRONMENT, **({JOIN_VARIABLE: word} if word else {})},
        )
        assert done.returncode == 1, done.stderr
        assert ("Traceback" in done.stderr) == ("--verbose" in arguments)
        return done.stderr


class Voice:
    """A client's stream, said by hand. The first answers, up to its Work if there is any, are read by `hear`."""

    def __init__(self, calls: Any, run_id: str, member: tuple[str, str]) -> None:
        self._said: queue.Queue[Any] = queue.Queue()
        self._call = calls.Participate(iter(self._said.get, None), metadata=metadata(*member), timeout=60)
        self.say(hello=wire.Hello(run_id=run_id, protocol=PROTOCOL, examples=100))

    def say(self, **message: Any) -> None:
        self._said.put(wire.ParticipateRequest(**message))

    def hear(self, kind: str) -> Any:
        """The next message of a kind; others before it are passed over."""
        for message in self._call:
            if message.WhichOneof("message") == kind:
                return getattr(message, kind)
        raise AssertionError(f"the stream ended without {kind}")

    def leave(self) -> None:
        self._said.put(None)
        self._call.cancel()


def metadata(client: str, credential: str) -> tuple[tuple[str, str], ...]:
    return (("zowarmup-client", client), ("zowarmup-credential", credential))


def scalars(round: int) -> wire.Scalars:
    return wire.Scalars(round=round, probes=[0.5, -0.25], projections=[1.0])


@contextmanager
def refused(server: TlsServer, reason: str) -> Iterator[None]:
    """What is done inside is refused with a reason, which is counted, and the ledger does not change."""
    before, counted = server.ledger(), server.status().refusals.get(reason, 0)
    with pytest.raises(grpc.RpcError) as caught:
        yield
    error: Any = caught.value
    assert dict(error.trailing_metadata() or ()).get("zowarmup-reason") == reason, error.details()
    assert server.ledger() == before
    assert server.status().refusals[reason] == counted + 1


@contextmanager
def opened(folder: Path, prepared_models: Path | None = None, anywhere: bool = False) -> Iterator[TlsServer]:
    """A coordinator in a folder, with a certificate for an operator, and another authority that nobody trusts.
    `prepared_models`: where its model comes from, unless it prepares it itself; `anywhere`: as in `TlsServer.lead`."""
    (folder / "logs").mkdir()
    certificates.init(folder / "certs", ["127.0.0.1"])
    certificates.client(folder / "certs", "op")
    certificates.init(folder / "foreign", ["127.0.0.1"])
    certificates.client(folder / "foreign", "pi")
    with Processes(folder / "logs", Interrupts(), ENVIRONMENT) as processes:
        made = TlsServer(folder, processes, prepared_models)
        made.lead("server", anywhere=anywhere)
        yield made


def find_secrets(server: TlsServer, *words: str) -> list[str]:
    """Everything that must not be seen: in each of the forms that it has."""
    created = server.ledger()[0]
    assert isinstance(created, ev.RunCreated)
    found = [server.operator, created.secret, *words, *(word.split(".")[1] for word in words)]
    found += [Invitation.from_word(word).secret for word in words]
    for name in ("identity.json", "enrolment.json"):
        found += [json.loads(file.read_text())["credential"] for file in server.folder.glob(f"devices/*/{name}")]
    for key in server.folder.glob("*/*.key"):
        found.append(key.read_text().splitlines()[1])
    return found


def leaks(secrets: list[str], logs: list[Path]) -> list[str]:
    """Where one of the secrets stands: in the arguments of any process of this machine, or in a log."""
    places = {str(path): path for path in [*logs, *Path("/proc").glob("[0-9]*/cmdline")]}
    found = []
    for name, path in places.items():
        try:
            text = path.read_bytes().decode(errors="replace")
        except OSError:
            continue  # that process has ended
        found += [f"{name}: {secret[:8]}.." for secret in secrets if secret in text]
    return found
