"""Who does not belong stays outside: a real coordinator with TLS and invitations, and strangers at its door.

Every refusal has its reason, is counted, and leaves the ledger as it was. The last part looks for secrets where none may
be: in the arguments of every process, in every log, in every error.
"""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import grpc
import pytest

from tests.e2e.tls_server import (
    BY_ITSELF,
    BY_SOMEBODY,
    CALL_S,
    ENVIRONMENT,
    TlsServer,
    Voice,
    find_secrets,
    leaks,
    metadata,
    opened,
    refused,
    scalars,
)
from tests.patience import PATIENCE
from zowarmup.common.messages.invitation import JOIN_VARIABLE, Invitation
from zowarmup.common.settings.run import PROTOCOL
from zowarmup.common.system.command import Interrupts
from zowarmup.lab.processes import Processes
from zowarmup.server.core import events as ev
from zowarmup.server.rpc.auth import hash_secret
from zowarmup.v1 import coordinator_pb2 as wire
from zowarmup.v1.coordinator_pb2_grpc import OperatorServiceStub


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, prepared_models: Path) -> Iterator[TlsServer]:
    with opened(tmp_path_factory.mktemp("server"), prepared_models) as made:
        yield made


@pytest.fixture
def run_id(server: TlsServer) -> str:
    return server.status().run_id


@pytest.fixture
def member(server: TlsServer) -> Callable[[str], tuple[str, str]]:
    return lambda name: server.enrol(server.invite().secret, name)


def test_an_invited_device_joins_and_its_answer_can_be_lost(server: TlsServer, run_id: str) -> None:
    token, credential = server.invite().secret, "ab" * 32
    request = wire.EnrolRequest(
        run_id=run_id, name="pi", tier=wire.TIER_LOW, examples=100, token=token, credential=credential
    )
    with server.calls() as calls:
        first = calls.Enrol(request, timeout=CALL_S)
        before = server.ledger()
        assert calls.Enrol(request, timeout=CALL_S) == first
    assert server.ledger() == before
    assert credential not in str(before)
    assert token not in str(before)


def test_without_a_token(server: TlsServer) -> None:
    with refused(server, "invitation_missing"):
        server.enrol("")


def test_with_a_token_that_was_never_issued(server: TlsServer) -> None:
    with refused(server, "invitation_unknown"):
        server.enrol("ab" * 32)


def test_with_another_clients_token(server: TlsServer) -> None:
    token = server.invite().secret
    server.enrol(token)
    with refused(server, "invitation_used"):
        server.enrol(token, "thief")


def test_with_an_expired_token(server: TlsServer) -> None:
    token = server.invite("--expires", "1s").secret
    time.sleep(1.1)
    with refused(server, "invitation_expired"):
        server.enrol(token)


def test_claiming_another_tier(server: TlsServer) -> None:
    token = server.invite().secret
    with refused(server, "tier_not_invited"):
        server.enrol(token, tier=wire.TIER_HIGH)
    assert server.enrol(token)


def test_a_revoked_client(server: TlsServer, run_id: str, member: Callable[[str], tuple[str, str]]) -> None:
    lost = member("lost")
    with server.calls() as calls:
        stream = Voice(calls, run_id, lost)
        stream.hear("welcome")
        start = time.monotonic()
        assert server.zowarmup("revoke", lost[0], "--reason", "left on a train").returncode == 0
        with pytest.raises(grpc.RpcError) as caught:
            stream.hear("finished")
        error: Any = caught.value
        assert dict(error.trailing_metadata())["zowarmup-reason"] == "revoked"
        assert "left on a train" in error.details()
        assert time.monotonic() - start < 30
        for call in (
            lambda: Voice(calls, run_id, lost).hear("welcome"),
            lambda: list(calls.FetchArtifact(wire.FetchArtifactRequest(), metadata=metadata(*lost), timeout=CALL_S)),
            lambda: calls.GetUpload(wire.GetUploadRequest(digest=bytes(16)), metadata=metadata(*lost), timeout=CALL_S),
        ):
            with refused(server, "revoked"):
                call()
    (shown,) = [client for client in server.status().clients if client.name == lost[0]]
    assert shown.revoked == "left on a train"
    assert not shown.connected


def test_a_revoked_client_and_what_is_left_of_its_invitation(server: TlsServer) -> None:
    """`--uses 3`: the line outlives the client, unless it is revoked with it."""
    token = server.invite("--uses", "3").secret
    server.enrol(token, "thief")
    server.enrol(token, "neighbour")
    (listed,) = [row for row in server.invitations() if "thief" in row["clients"]]
    assert (listed["left"], listed["closed"], listed["clients"]) == (1, "", ["neighbour", "thief"])
    done = server.zowarmup("revoke", "thief", "--reason", "stolen")
    assert (
        f"good for 1 more device, and so for whoever has that line: `zowarmup uninvite {listed['name']}`" in done.stdout
    )
    assert "neighbour came by the same invitation" in done.stdout
    done = server.zowarmup("revoke", "thief", "--reason", "stolen", "--with-invitation")
    assert done.returncode == 0, done.stderr
    with refused(server, "invitation_revoked"):
        server.enrol(token, "thief")
    (listed,) = [row for row in server.invitations() if "thief" in row["clients"]]
    assert (listed["left"], listed["closed"]) == (0, "revoked: thief came by it: stolen")
    assert [shown.revoked for shown in server.status().clients if shown.name == "neighbour"] == [""]


def test_an_invitation_that_is_revoked(server: TlsServer) -> None:
    token = server.invite().secret
    name = hash_secret(token)[:12]
    assert name in server.zowarmup("invitations").stdout
    done = server.zowarmup("uninvite", name, "--reason", "sent to the wrong address")
    assert done.stdout == f"invitation {name} is revoked\n"
    with refused(server, "invitation_revoked"):
        server.enrol(token)
    assert "the invitation has been revoked (sent to the wrong address)" in server.refused_device(
        word=Invitation(token, (server.certs / "ca.crt").read_bytes()).word, name="addressee"
    )
    assert name not in server.zowarmup("invitations").stdout
    assert name in server.zowarmup("invitations", "--all").stdout
    done = server.zowarmup("uninvite", "0" * 12)
    assert (done.returncode, done.stdout) == (1, "")
    assert "there is no invitation '000000000000'" in done.stderr


def test_what_decides_the_draws_never_leaves_the_coordinator(
    server: TlsServer, run_id: str, member: Callable[[str], tuple[str, str]], tmp_path: Path
) -> None:
    created = server.ledger()[0]
    assert isinstance(created, ev.RunCreated) and created.run_file.draws == "secret"
    secret, client = created.secret, member("curious-about-draws")
    assert re.fullmatch("[0-9a-f]{64}", secret)
    said = [server.zowarmup(verb, "--json").stdout for verb in ("status", "clients", "invitations")]
    credentials = grpc.ssl_channel_credentials((server.certs / "ca.crt").read_bytes())
    with server.calls() as calls, grpc.secure_channel(server.address, credentials) as channel:
        said.append(str(calls.GetRun(wire.GetRunRequest(protocol=PROTOCOL), timeout=CALL_S)))
        stream = Voice(calls, run_id, client)
        said.append(str(stream.hear("welcome")))
        stream.leave()
        operator = (("zowarmup-operator", server.operator),)
        versions = OperatorServiceStub(channel).ListVersions(wire.ListVersionsRequest(), metadata=operator)
        said += [str(row) for row in versions]
    done = server.processes.log("server").read_text()
    exported = subprocess.run(
        [
            sys.executable,
            "-m",
            "zowarmup.cli.main",
            "export",
            "--data-dir",
            server.data_dir,
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


def test_a_replayed_contribution(server: TlsServer, run_id: str, member: Callable[[str], tuple[str, str]]) -> None:
    first, second, third = member("first"), member("second"), member("third")
    with server.calls() as calls:
        streams = [Voice(calls, run_id, first), Voice(calls, run_id, second)]
        rounds = {stream.hear("work").round for stream in streams}
        assert len(rounds) == 1
        recorded = scalars(rounds.pop())
        streams[0].say(scalars=recorded)
        assert streams[0].hear("accepted").round == recorded.round

        # On the stream of a client that was not drawn.
        outsider = Voice(calls, run_id, third)
        outsider.hear("welcome")
        before = server.ledger()
        outsider.say(scalars=recorded)
        assert outsider.hear("refused").reason == "not_assigned"
        # By someone who knows everything but the credential.
        with refused(server, "unauthenticated"):
            Voice(calls, run_id, (first[0], "ab" * 32)).hear("welcome")
        with refused(server, "unauthenticated"):
            Voice(calls, run_id, (first[0], second[1])).hear("welcome")
        # A second time, by its own client: it gets its first answer, and counts once.
        streams[0].say(scalars=recorded)
        assert streams[0].hear("accepted").round == recorded.round
        assert server.ledger() == before
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
        before = server.ledger()
        streams[0].say(scalars=recorded)
        assert streams[0].hear("refused").reason == "late"
        assert server.ledger() == before
        for stream in streams:
            stream.leave()
    assert {"not_assigned", "late", "unauthenticated"} <= set(server.status().refusals)


def test_the_operators_calls_need_the_operators_credential(
    server: TlsServer, member: Callable[[str], tuple[str, str]]
) -> None:
    client = member("curious")
    credentials = grpc.ssl_channel_credentials((server.certs / "ca.crt").read_bytes())
    with grpc.secure_channel(server.address, credentials) as channel:
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
                with refused(server, "operator_credential"):
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
            with refused(server, "operator_credential"):
                getattr(calls, name)(request, timeout=CALL_S)


def test_the_operators_verbs(server: TlsServer) -> None:
    assert server.zowarmup("pause", "--reason", "lunch").returncode == 0
    assert server.status().paused == "lunch"
    assert server.zowarmup("resume").returncode == 0
    assert server.status().paused == ""
    done = server.zowarmup("pivot")
    assert (done.returncode, done.stdout) == (1, "")
    assert "the pivot is behind it" in done.stderr
    done = server.zowarmup("status")
    assert done.returncode == 0
    assert "refused" in done.stdout
    done = server.zowarmup("revoke", "nobody")
    assert "client 'nobody' is not enrolled in this run" in done.stderr


def test_a_coordinator_with_a_foreign_certificate(server: TlsServer) -> None:
    """The device trusts another authority than the one this coordinator's certificate is from."""
    before = server.ledger()
    foreign = server.folder / "foreign" / "ca.crt"
    said = server.refused_device("--ca", str(foreign), name="careful")
    assert "its certificate is not one that this device trusts" in said
    command = [sys.executable, "-m", "zowarmup.cli.main", "status", "--server", server.address, "--ca", str(foreign)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "is not trusted" in done.stderr
    assert server.ledger() == before


def test_a_real_device_joins_once_and_comes_back_without_its_word(server: TlsServer) -> None:
    word = server.invite().word
    for log_name, environment in (("device", {JOIN_VARIABLE: word}), ("device-again", {})):
        with Processes(server.folder / "logs", Interrupts(), {**ENVIRONMENT, **environment}) as devices:
            devices.start(log_name, "zowarmup.client.main", server.device("--verbose", name="device"))
            log = devices.log(log_name)
            end = time.monotonic() + 60 * PATIENCE
            while "joined strangers as device" not in log.read_text():
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.1)
            secrets = find_secrets(server, word)
            assert len(secrets) > 5
            assert leaks(secrets, [log, server.processes.log("server")]) == []
    state = server.folder / "devices" / "device"
    assert (state / "identity.json").stat().st_mode & 0o777 == 0o600
    assert not (state / "enrolment.json").exists()
    before = server.ledger()
    assert "was good for joining once and is used up" in server.refused_device(word=word, name="thief")
    assert server.ledger() == before


def test_a_new_kind_of_event_is_told_apart_here_too() -> None:
    """What a run does by itself may come between a refusal and the look at the ledger."""
    assert len({*BY_ITSELF, *BY_SOMEBODY}) == len(BY_ITSELF) + len(BY_SOMEBODY)
    assert {*BY_ITSELF, *BY_SOMEBODY} == set(get_args(ev.DurableEvent))


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


def test_secrets_are_not_in_errors(server: TlsServer, tmp_path: Path) -> None:
    """Refused devices and commands, talkative ones too, do not repeat what they were given."""
    word = server.invite().word
    stolen = Invitation("cd" * 32, Invitation.from_word(word).authority).word
    file = tmp_path / "join"
    said = [
        server.refused_device("--verbose", word=word[:40], name="torn"),
        server.refused_device("--verbose", word=stolen, name="stolen"),
        server.refused_device("--verbose", "--insecure", word=word, name="insecure"),
    ]
    file.write_text(f"{JOIN_VARIABLE}={stolen} zowarmup-client --server x:1")
    said.append(server.refused_device("--verbose", "--join-file", str(file), name="from-file"))
    wrong = tmp_path / "credential"
    wrong.write_text("ef" * 32)
    done = server.zowarmup("pause", "--credential-file", str(wrong))
    assert (done.returncode, done.stdout) == (1, "")
    assert "this needs the operator's credential" in done.stderr
    said.append(done.stderr)
    assert "used up" not in "".join(said)
    assert ["issued no such invitation" in text for text in said] == [False, True, False, True, False]
    log = tmp_path / "log"
    log.write_text("".join(said))
    secrets = [*find_secrets(server, word, stolen), word[:40], "ef" * 32]
    assert leaks(secrets, [log, *server.processes.log("server").parent.glob("*.log")]) == []


def test_a_coordinator_that_asks_for_certificates(server: TlsServer) -> None:
    """The last test of this coordinator: it starts again, on the same ledger, with its client_ca."""
    server.processes.stop()
    before = server.ledger()
    server.lead("server-mutual", mutual=True)
    request = wire.GetRunRequest(protocol=PROTOCOL)
    with server.calls(str(server.certs / "op")) as calls:
        assert calls.GetRun(request, timeout=CALL_S).name == "strangers"
        # It says that this is one of us, and nothing else.
        for call in (
            lambda: list(calls.FetchArtifact(wire.FetchArtifactRequest(), timeout=CALL_S)),
            lambda: calls.GetUpload(wire.GetUploadRequest(digest=bytes(16)), timeout=CALL_S),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call()
            error: Any = caught.value
            assert dict(error.trailing_metadata())["zowarmup-reason"] == "unauthenticated"
    for certificate in ("", str(server.folder / "foreign" / "pi")):
        with server.calls(certificate) as calls, pytest.raises(grpc.RpcError) as caught:
            calls.GetRun(request, timeout=3)
        error = caught.value
        assert error.code() is grpc.StatusCode.UNAVAILABLE
    foreign = server.folder / "foreign"
    command = [sys.executable, "-m", "zowarmup.cli.main", "status", "--server", server.address]
    command += ["--data-dir", str(server.data_dir), "--certificate", str(foreign / "pi.crt"), "--key"]
    done = subprocess.run([*command, str(foreign / "pi.key")], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "asks for a certificate" in done.stderr
    assert server.ledger() == before
