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

from tests.e2e.house import (
    BY_ITSELF,
    BY_SOMEBODY,
    CALL_S,
    ENVIRONMENT,
    House,
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
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with opened(tmp_path_factory.mktemp("house")) as made:
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
    assert ["issued no such invitation" in text for text in said] == [False, True, False, True, False]
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
        # It says that this is one of us, and nothing else.
        for call in (
            lambda: list(calls.FetchProgram(wire.FetchProgramRequest(), timeout=CALL_S)),
            lambda: calls.GetUpload(wire.GetUploadRequest(digest=bytes(16)), timeout=CALL_S),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call()
            error: Any = caught.value
            assert dict(error.trailing_metadata())["zowarmup-reason"] == "unauthenticated"
    for certificate in ("", str(house.folder / "foreign" / "pi")):
        with house.calls(certificate) as calls, pytest.raises(grpc.RpcError) as caught:
            calls.GetRun(request, timeout=3)
        error = caught.value
        assert error.code() is grpc.StatusCode.UNAVAILABLE
    foreign = house.folder / "foreign"
    command = [sys.executable, "-m", "zowarmup.cli.main", "status", "--server", house.address]
    command += ["--data-dir", str(house.data_dir), "--certificate", str(foreign / "pi.crt"), "--key"]
    done = subprocess.run([*command, str(foreign / "pi.key")], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "asks for a certificate" in done.stderr
    assert house.ledger() == before
