"""Who does not belong stays outside: a real coordinator with TLS and invitations, and strangers at its door.

Every refusal has its reason, is counted, and leaves the ledger as it was. The last part looks for secrets where none may
be: in the arguments of every process, in every log, in every error.
"""

import json
import os
import queue
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.patience import PATIENCE
from zowarmup.cli import certificates
from zowarmup.cli.demo import NO_PROXY, ONE_THREAD, free_port
from zowarmup.cli.demo_settings import to_toml
from zowarmup.cli.failure import NoAnswer
from zowarmup.cli.processes import Interrupts, Processes
from zowarmup.cli.run_status import Status
from zowarmup.cli.session import Session
from zowarmup.client.trust import trust
from zowarmup.common.invitation import JOIN_VARIABLE, Invitation
from zowarmup.common.run import PROTOCOL, Evaluation, Model, RunFile, Server, WarmUp, ZerothOrder
from zowarmup.server import events as ev
from zowarmup.server.credentials import hash_secret
from zowarmup.server.ledger import Ledger
from zowarmup.v1 import coordinator_pb2 as wire
from zowarmup.v1.coordinator_pb2_grpc import CoordinatorServiceStub, OperatorServiceStub

ENVIRONMENT = {**ONE_THREAD, **NO_PROXY, "PYTHONUNBUFFERED": "1", "GRPC_VERBOSITY": "INFO"}
CALL_S = 20.0


BY_TIME = (ev.RoundOpened, ev.RoundAbandoned, ev.DeadlineExtended, ev.RunPaused)
"""What time alone brings about while a round waits for devices that are gone."""


@dataclass
class House:
    """A coordinator at 127.0.0.1 with a certificate of its own authority, and its operator."""

    folder: Path
    processes: Processes
    address: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")

    @property
    def certs(self) -> Path:
        return self.folder / "certs"

    @property
    def data_dir(self) -> Path:
        return self.folder / "server"

    @property
    def operator(self) -> str:
        return (self.data_dir / "operator.credential").read_text().strip()

    def lead(self, name: str, mutual: bool = False) -> None:
        run = RunFile(
            name="strangers",
            model=Model(name="mlp"),
            warmup=WarmUp(rounds=0, clients_per_round=1),
            zeroth_order=ZerothOrder(
                rounds=50, clients_per_round=2, quorum=1.0, deadline_s=600, probes=2, head_projections=1
            ),
            evaluation=Evaluation(data="digits:test", every=1000),
            server=Server(
                address=self.address,
                enrolment="invited",
                tls_certificate=str(self.certs / "server.crt"),
                tls_key=str(self.certs / "server.key"),
                client_ca=str(self.certs / "ca.crt") if mutual else "",
            ),
        )
        (self.folder / "run.toml").write_text(to_toml(run))
        arguments = [str(self.folder / "run.toml"), "--data-dir", str(self.data_dir), "--verbose"]
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
            return [event for _, event in ledger.read() if not isinstance(event, BY_TIME)]
        finally:
            ledger.close()

    @contextmanager
    def calls(self, certificate: str = "", authority: Path | None = None) -> Iterator[Any]:
        """The client's calls, over TLS."""
        read = Path.read_bytes
        credentials = grpc.ssl_channel_credentials(
            read(authority or self.certs / "ca.crt"),
            read(Path(f"{certificate}.key")) if certificate else None,
            read(Path(f"{certificate}.crt")) if certificate else None,
        )
        with grpc.secure_channel(self.address, credentials) as channel:
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
        assert "Traceback" not in done.stderr
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
def refused(house: House, reason: str) -> Iterator[None]:
    """What is done inside is refused with a reason, which is counted, and the ledger does not change."""
    before, counted = house.ledger(), house.status().refusals.get(reason, 0)
    with pytest.raises(grpc.RpcError) as caught:
        yield
    error: Any = caught.value
    assert dict(error.trailing_metadata() or ()).get("zowarmup-reason") == reason, error.details()
    assert house.ledger() == before
    assert house.status().refusals[reason] == counted + 1


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    (folder / "logs").mkdir()
    certificates.init(folder / "certs", ["127.0.0.1"])
    certificates.client(folder / "certs", "op")
    certificates.init(folder / "foreign", ["127.0.0.1"])
    certificates.client(folder / "foreign", "pi")
    with Processes(folder / "logs", Interrupts(), ENVIRONMENT) as processes:
        made = House(folder, processes)
        made.lead("server")
        yield made


@pytest.fixture
def run_id(house: House) -> str:
    return house.status().run_id


@pytest.fixture
def member(house: House) -> Callable[[str], tuple[str, str]]:
    return lambda name: house.enrol(house.invite().secret, name)


def test_an_invited_device_joins_and_its_answer_can_be_lost(house: House, run_id: str) -> None:
    token, credential = house.invite().secret, "ab" * 32
    request = wire.EnrolRequest(
        run_id=run_id, name="pi", tier=wire.TIER_LOW, examples=100, token=token, credential=credential
    )
    with house.calls() as calls:
        first = calls.Enrol(request, timeout=CALL_S)
        before = house.ledger()
        assert calls.Enrol(request, timeout=CALL_S) == first
    assert house.ledger() == before
    assert credential not in str(before)
    assert token not in str(before)


def test_without_a_token(house: House) -> None:
    with refused(house, "invitation_missing"):
        house.enrol("")


def test_with_a_token_that_was_never_issued(house: House) -> None:
    with refused(house, "invitation_unknown"):
        house.enrol("ab" * 32)


def test_with_another_clients_token(house: House) -> None:
    token = house.invite().secret
    house.enrol(token)
    with refused(house, "invitation_used"):
        house.enrol(token, "thief")


def test_with_an_expired_token(house: House) -> None:
    token = house.invite("--expires", "1s").secret
    time.sleep(1.1)
    with refused(house, "invitation_expired"):
        house.enrol(token)


def test_claiming_another_tier(house: House) -> None:
    token = house.invite().secret
    with refused(house, "tier_not_invited"):
        house.enrol(token, tier=wire.TIER_HIGH)
    assert house.enrol(token)


def test_a_revoked_client(house: House, run_id: str, member: Callable[[str], tuple[str, str]]) -> None:
    lost = member("lost")
    with house.calls() as calls:
        stream = Voice(calls, run_id, lost)
        stream.hear("welcome")
        start = time.monotonic()
        assert house.zowarmup("revoke", lost[0], "--reason", "left on a train").returncode == 0
        with pytest.raises(grpc.RpcError) as caught:
            stream.hear("finished")
        error: Any = caught.value
        assert dict(error.trailing_metadata())["zowarmup-reason"] == "revoked"
        assert "left on a train" in error.details()
        assert time.monotonic() - start < 30
        for call in (
            lambda: Voice(calls, run_id, lost).hear("welcome"),
            lambda: list(calls.FetchProgram(wire.FetchProgramRequest(), metadata=metadata(*lost), timeout=CALL_S)),
            lambda: calls.GetUpload(wire.GetUploadRequest(digest=bytes(16)), metadata=metadata(*lost), timeout=CALL_S),
        ):
            with refused(house, "revoked"):
                call()
    (shown,) = [client for client in house.status().clients if client.name == lost[0]]
    assert shown.revoked == "left on a train"
    assert not shown.connected


def test_a_revoked_client_and_what_is_left_of_its_invitation(house: House) -> None:
    """`--uses 3`: the line outlives the client, unless it is revoked with it."""
    token = house.invite("--uses", "3").secret
    house.enrol(token, "thief")
    house.enrol(token, "neighbour")
    (listed,) = [row for row in house.invitations() if "thief" in row["clients"]]
    assert (listed["left"], listed["closed"], listed["clients"]) == (1, "", ["neighbour", "thief"])
    done = house.zowarmup("revoke", "thief", "--reason", "stolen")
    assert (
        f"good for 1 more device, and so for whoever has that line: `zowarmup uninvite {listed['name']}`" in done.stdout
    )
    assert "neighbour came by the same invitation" in done.stdout
    done = house.zowarmup("revoke", "thief", "--reason", "stolen", "--with-invitation")
    assert done.returncode == 0, done.stderr
    with refused(house, "invitation_revoked"):
        house.enrol(token, "thief")
    (listed,) = [row for row in house.invitations() if "thief" in row["clients"]]
    assert (listed["left"], listed["closed"]) == (0, "revoked: thief came by it: stolen")
    assert [shown.revoked for shown in house.status().clients if shown.name == "neighbour"] == [""]


def test_an_invitation_that_is_revoked(house: House) -> None:
    token = house.invite().secret
    name = hash_secret(token)[:12]
    assert name in house.zowarmup("invitations").stdout
    done = house.zowarmup("uninvite", name, "--reason", "sent to the wrong address")
    assert done.stdout == f"invitation {name} is revoked\n"
    with refused(house, "invitation_revoked"):
        house.enrol(token)
    assert "the invitation has been revoked (sent to the wrong address)" in house.refused_device(
        word=Invitation(token, (house.certs / "ca.crt").read_bytes()).word, name="addressee"
    )
    assert name not in house.zowarmup("invitations").stdout
    assert name in house.zowarmup("invitations", "--all").stdout
    done = house.zowarmup("uninvite", "0" * 12)
    assert (done.returncode, done.stdout) == (1, "")
    assert "there is no invitation '000000000000'" in done.stderr


def test_what_decides_the_draws_never_leaves_the_coordinator(
    house: House, run_id: str, member: Callable[[str], tuple[str, str]], tmp_path: Path
) -> None:
    created = house.ledger()[0]
    assert isinstance(created, ev.RunCreated) and created.run_file.draws == "secret"
    secret, client = created.secret, member("curious-about-draws")
    assert re.fullmatch("[0-9a-f]{64}", secret)
    said = [house.zowarmup(verb, "--json").stdout for verb in ("status", "clients", "invitations")]
    credentials = grpc.ssl_channel_credentials((house.certs / "ca.crt").read_bytes())
    with house.calls() as calls, grpc.secure_channel(house.address, credentials) as channel:
        said.append(str(calls.GetRun(wire.GetRunRequest(protocol=PROTOCOL), timeout=CALL_S)))
        stream = Voice(calls, run_id, client)
        said.append(str(stream.hear("welcome")))
        stream.leave()
        operator = (("zowarmup-operator", house.operator),)
        versions = OperatorServiceStub(channel).ListVersions(wire.ListVersionsRequest(), metadata=operator)
        said += [str(row) for row in versions]
    done = house.processes.log("server").read_text()
    exported = subprocess.run(
        [
            sys.executable,
            "-m",
            "zowarmup.cli.main",
            "export",
            "--data-dir",
            house.data_dir,
            "--out",
            tmp_path / "model",
        ],
        capture_output=True,
        check=True,
        timeout=60,
    )
    files = [file.read_bytes() for file in tmp_path.iterdir()]
    assert len(files) == 2
    for held in (*files, exported.stdout, done.encode(), *(text.encode() for text in said)):
        assert held
        assert secret.encode() not in held and bytes.fromhex(secret) not in held


def test_a_replayed_contribution(house: House, run_id: str, member: Callable[[str], tuple[str, str]]) -> None:
    first, second, third = member("first"), member("second"), member("third")
    with house.calls() as calls:
        streams = [Voice(calls, run_id, first), Voice(calls, run_id, second)]
        rounds = {stream.hear("work").round for stream in streams}
        assert len(rounds) == 1
        recorded = scalars(rounds.pop())
        streams[0].say(scalars=recorded)
        assert streams[0].hear("accepted").round == recorded.round

        # On the stream of a client that was not drawn.
        outsider = Voice(calls, run_id, third)
        outsider.hear("welcome")
        before = house.ledger()
        outsider.say(scalars=recorded)
        assert outsider.hear("refused").reason == "not_assigned"
        # By someone who knows everything but the credential.
        with refused(house, "unauthenticated"):
            Voice(calls, run_id, (first[0], "ab" * 32)).hear("welcome")
        with refused(house, "unauthenticated"):
            Voice(calls, run_id, (first[0], second[1])).hear("welcome")
        # A second time, by its own client: it gets its first answer, and counts once.
        streams[0].say(scalars=recorded)
        assert streams[0].hear("accepted").round == recorded.round
        assert house.ledger() == before
        outsider.leave()

        # In a later round.
        streams[1].say(scalars=recorded)
        streams[1].hear("accepted")
        newer = streams[0].hear("work").round
        assert newer > recorded.round
        for stream in streams:
            stream.say(scalars=scalars(newer))
            stream.hear("accepted")
        assert streams[0].hear("work").round > newer
        before = house.ledger()
        streams[0].say(scalars=recorded)
        assert streams[0].hear("refused").reason == "late"
        assert house.ledger() == before
        for stream in streams:
            stream.leave()
    assert {"not_assigned", "late", "unauthenticated"} <= set(house.status().refusals)


def test_the_operators_calls_need_the_operators_credential(
    house: House, member: Callable[[str], tuple[str, str]]
) -> None:
    client = member("curious")
    credentials = grpc.ssl_channel_credentials((house.certs / "ca.crt").read_bytes())
    with grpc.secure_channel(house.address, credentials) as channel:
        calls: Any = OperatorServiceStub(channel)
        for said in (None, metadata(*client), (("zowarmup-operator", client[1]),)):
            for call in (
                lambda said=said: calls.GetStatus(wire.GetStatusRequest(), metadata=said, timeout=CALL_S),
                lambda said=said: list(calls.ListVersions(wire.ListVersionsRequest(), metadata=said, timeout=CALL_S)),
                lambda said=said: list(calls.ListClients(wire.ListClientsRequest(), metadata=said, timeout=CALL_S)),
                lambda said=said: list(
                    calls.ListInvitations(wire.ListInvitationsRequest(), metadata=said, timeout=CALL_S)
                ),
            ):
                with refused(house, "operator_credential"):
                    call()
        requests = {
            "Pause": wire.PauseRequest(),
            "Resume": wire.ResumeRequest(),
            "Pivot": wire.PivotRequest(),
            "Stop": wire.StopRequest(),
            "Invite": wire.InviteRequest(tier=wire.TIER_LOW, expires_s=60, uses=1),
            "Revoke": wire.RevokeRequest(client=client[0]),
            "Uninvite": wire.UninviteRequest(invitation="0" * 12),
        }
        assert {method.name for method in wire.DESCRIPTOR.services_by_name["OperatorService"].methods} == {
            *requests,
            "GetStatus",
            "ListVersions",
            "ListClients",
            "ListInvitations",
        }
        for name, request in requests.items():
            with refused(house, "operator_credential"):
                getattr(calls, name)(request, timeout=CALL_S)


def test_the_operators_verbs(house: House) -> None:
    assert house.zowarmup("pause", "--reason", "lunch").returncode == 0
    assert house.status().paused == "lunch"
    assert house.zowarmup("resume").returncode == 0
    assert house.status().paused == ""
    done = house.zowarmup("pivot")
    assert (done.returncode, done.stdout) == (1, "")
    assert "the pivot is behind it" in done.stderr
    done = house.zowarmup("status")
    assert done.returncode == 0
    assert "refused" in done.stdout
    done = house.zowarmup("revoke", "nobody")
    assert "client 'nobody' is not enrolled in this run" in done.stderr


def test_a_coordinator_with_a_foreign_certificate(house: House) -> None:
    """The device trusts another authority than the one this coordinator's certificate is from."""
    before = house.ledger()
    foreign = house.folder / "foreign" / "ca.crt"
    said = house.refused_device("--ca", str(foreign), name="careful")
    assert "its certificate is not one that this device trusts" in said
    command = [sys.executable, "-m", "zowarmup.cli.main", "status", "--server", house.address, "--ca", str(foreign)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "is not trusted" in done.stderr
    assert house.ledger() == before


def test_a_real_device_joins_once_and_comes_back_without_its_word(house: House) -> None:
    word = house.invite().word
    for log_name, environment in (("device", {JOIN_VARIABLE: word}), ("device-again", {})):
        with Processes(house.folder / "logs", Interrupts(), {**ENVIRONMENT, **environment}) as devices:
            devices.start(log_name, "zowarmup.client.main", house.device("--verbose", name="device"))
            log = devices.log(log_name)
            end = time.monotonic() + 60 * PATIENCE
            while "joined strangers as device" not in log.read_text():
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.1)
            secrets = find_secrets(house, word)
            assert len(secrets) > 5
            assert leaks(secrets, [log, house.processes.log("server")]) == []
    state = house.folder / "devices" / "device"
    assert (state / "identity.json").stat().st_mode & 0o777 == 0o600
    assert not (state / "enrolment.json").exists()
    before = house.ledger()
    assert "was good for joining once and is used up" in house.refused_device(word=word, name="thief")
    assert house.ledger() == before


def find_secrets(house: House, *words: str) -> list[str]:
    """Everything that must not be seen: in each of the forms that it has."""
    created = house.ledger()[0]
    assert isinstance(created, ev.RunCreated)
    found = [house.operator, created.secret, *words, *(word.split(".")[1] for word in words)]
    found += [Invitation.from_word(word).secret for word in words]
    for name in ("identity.json", "enrolment.json"):
        found += [json.loads(file.read_text())["credential"] for file in house.folder.glob(f"devices/*/{name}")]
    for key in house.folder.glob("*/*.key"):
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


def test_the_leak_finder_finds(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("credential c0ffee-in-a-log")
    with subprocess.Popen(["sleep", "30.125"]) as sleeper:
        try:
            end = (
                time.monotonic() + 5 * PATIENCE
            )  # the system lists a new process's arguments a moment after it has begun
            while len(found := leaks(["c0ffee-in-a-log", "30.125"], [log])) < 2 and time.monotonic() < end:
                time.sleep(0.02)
            assert len(found) == 2
        finally:
            sleeper.kill()


def test_secrets_are_not_in_errors(house: House, tmp_path: Path) -> None:
    """Refused devices and commands, talkative ones too, do not repeat what they were given."""
    word = house.invite().word
    stolen = Invitation("cd" * 32, Invitation.from_word(word).authority).word
    file = tmp_path / "join"
    said = [
        house.refused_device("--verbose", word=word[:40], name="torn"),
        house.refused_device("--verbose", word=stolen, name="stolen"),
        house.refused_device("--verbose", "--insecure", word=word, name="insecure"),
    ]
    file.write_text(f"{JOIN_VARIABLE}={stolen} zowarmup-client --server x:1")
    said.append(house.refused_device("--verbose", "--join-file", str(file), name="from-file"))
    wrong = tmp_path / "credential"
    wrong.write_text("ef" * 32)
    done = house.zowarmup("pause", "--credential-file", str(wrong))
    assert (done.returncode, done.stdout) == (1, "")
    assert "this needs the operator's credential" in done.stderr
    said.append(done.stderr)
    assert "used up" not in "".join(said)
    assert [text.count("issued no such invitation") for text in said] == [0, 1, 0, 1, 0]
    log = tmp_path / "log"
    log.write_text("".join(said))
    secrets = [*find_secrets(house, word, stolen), word[:40], "ef" * 32]
    assert leaks(secrets, [log, *house.processes.log("server").parent.glob("*.log")]) == []


def test_a_coordinator_that_asks_for_certificates(house: House) -> None:
    """The last test of this coordinator: it starts again, on the same ledger, with its client_ca."""
    house.processes.stop()
    before = house.ledger()
    house.lead("server-mutual", mutual=True)
    request = wire.GetRunRequest(protocol=PROTOCOL)
    with house.calls(str(house.certs / "op")) as calls:
        assert calls.GetRun(request, timeout=CALL_S).name == "strangers"
    for certificate in ("", str(house.folder / "foreign" / "pi")):
        with house.calls(certificate) as calls, pytest.raises(grpc.RpcError) as caught:
            calls.GetRun(request, timeout=3)
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.UNAVAILABLE
    foreign = house.folder / "foreign"
    command = [sys.executable, "-m", "zowarmup.cli.main", "status", "--server", house.address]
    command += ["--data-dir", str(house.data_dir), "--certificate", str(foreign / "pi.crt"), "--key"]
    done = subprocess.run([*command, str(foreign / "pi.key")], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "asks for a certificate" in done.stderr
    assert house.ledger() == before
