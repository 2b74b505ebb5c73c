"""What each actor of docs/security.md can and cannot do, where no other test shows it: a real coordinator on every address
of this machine, as its run file has it by default, and hostile peers."""

import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.e2e.tls_server import (
    CALL_S,
    ENVIRONMENT,
    TlsServer,
    Voice,
    find_secrets,
    metadata,
    opened,
    scalars,
)
from tests.faults.proxy import Link
from tests.patience import PATIENCE
from zowarmup.common.messages.invitation import JOIN_VARIABLE
from zowarmup.common.settings.run import PROTOCOL
from zowarmup.common.system.command import Interrupts
from zowarmup.lab.processes import Processes
from zowarmup.server.core import events as ev
from zowarmup.server.store.ledger import Ledger
from zowarmup.v1 import coordinator_pb2 as wire


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsServer]:
    with opened(tmp_path_factory.mktemp("server"), anywhere=True) as made:
        yield made


@pytest.fixture
def run_id(server: TlsServer) -> str:
    return server.status().run_id


def events(server: TlsServer) -> list[ev.Event]:
    ledger = Ledger(server.data_dir / "ledger.sqlite", read_only=True)
    try:
        return [event for _, event in ledger.read()]
    finally:
        ledger.close()


def until(condition: Callable[[], bool], log: Path) -> None:
    end = time.monotonic() + 60 * PATIENCE
    while not condition():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)


def test_without_a_members_credential_a_run_gives_its_description_and_nothing_else(
    server: TlsServer, run_id: str
) -> None:
    """To strangers, to the operator, and to a member under another member's name."""
    first, second = server.enrol(server.invite().secret, "first"), server.enrol(server.invite().secret, "second")
    hello = wire.Hello(run_id=run_id, protocol=PROTOCOL, examples=100)
    header = wire.DeltaHeader(round=1, digest=bytes(16), size_bytes=4)
    calls: dict[str, Callable[[Any, Any], object]] = {
        "Participate": lambda stub, who: list(
            stub.Participate(iter([wire.ParticipateRequest(hello=hello)]), metadata=who, timeout=CALL_S)
        ),
        "FetchSnapshot": lambda stub, who: list(
            stub.FetchSnapshot(wire.FetchSnapshotRequest(), metadata=who, timeout=CALL_S)
        ),
        "FetchArtifact": lambda stub, who: list(
            stub.FetchArtifact(wire.FetchArtifactRequest(), metadata=who, timeout=CALL_S)
        ),
        "GetUpload": lambda stub, who: stub.GetUpload(
            wire.GetUploadRequest(digest=bytes(16)), metadata=who, timeout=CALL_S
        ),
        "UploadDelta": lambda stub, who: stub.UploadDelta(
            iter([wire.UploadDeltaRequest(header=header)]), metadata=who, timeout=CALL_S
        ),
        "MeasureLink": lambda stub, who: list(
            stub.MeasureLink(iter([wire.MeasureLinkRequest(wanted_bytes=1)]), metadata=who, timeout=CALL_S)
        ),
    }
    methods = {method.name for method in wire.DESCRIPTOR.services_by_name["CoordinatorService"].methods}
    assert methods == {*calls, "GetRun", "Enrol"}
    strangers: tuple[Any, ...] = (None, (("zowarmup-operator", server.operator),), metadata(first[0], second[1]))
    before, counted = server.ledger(), server.status().refusals.get("unauthenticated", 0)
    with server.calls() as stub:
        for who in strangers:
            for call in calls.values():
                with pytest.raises(grpc.RpcError) as caught:
                    call(stub, who)
                error: Any = caught.value
                assert dict(error.trailing_metadata())["zowarmup-reason"] == "unauthenticated", error.details()
        said = stub.GetRun(wire.GetRunRequest(protocol=PROTOCOL), timeout=CALL_S)
        layout = json.loads(said.layout_json)
    assert server.ledger() == before
    assert server.status().refusals["unauthenticated"] == counted + len(strangers) * len(calls)
    assert {field.name for field, _ in said.ListFields()} == {
        *("protocol", "run_id", "name", "spec_json", "layout_json", "program_sha256", "program_bytes"),
        *("high_memory_bytes", "low_memory_bytes", "now_s", "software"),
    }
    assert len(said.SerializeToString()) < layout["size"], "less than a byte a weight"


def test_away_from_the_loopback_nobody_is_told_which_calls_there_are_and_health_is_all_of_its_port(
    server: TlsServer,
) -> None:
    asked = reflection_pb2.ServerReflectionRequest(list_services="*")
    credentials = grpc.ssl_channel_credentials((server.certs / "ca.crt").read_bytes())
    with grpc.secure_channel(server.address, credentials) as run, grpc.insecure_channel(server.health) as health:
        for channel in (run, health):
            stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
            with pytest.raises(grpc.RpcError) as caught:
                list(stub.ServerReflectionInfo(iter([asked]), timeout=CALL_S))
            error: Any = caught.value
            assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        for service in wire.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                call: Any = health.stream_stream(f"/{service.full_name}/{method.name}", bytes, bytes)
                with pytest.raises(grpc.RpcError) as caught:
                    list(call(iter([b""]), timeout=CALL_S))
                error = caught.value
                assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        check: Any = health_pb2_grpc.HealthStub(health)
        answer = check.Check(health_pb2.HealthCheckRequest(), timeout=CALL_S)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_who_is_on_the_way_reads_nothing(server: TlsServer, run_id: str) -> None:
    token = server.invite().secret
    with Link(server.address) as link:
        heard: list[bytes] = []

        def record(piece: bytes, up: bool) -> bytes:
            heard.append(piece)
            return piece

        link.passing = record
        with server.calls(address=link.address) as calls:
            request = wire.EnrolRequest(run_id=run_id, name="overheard", tier=wire.TIER_LOW, examples=100, token=token)
            answer = calls.Enrol(request, timeout=CALL_S)
            stream = Voice(calls, run_id, (answer.client, answer.credential))
            stream.hear("welcome")
            fetched = list(calls.FetchArtifact(wire.FetchArtifactRequest(), metadata=metadata(*_of(answer))))
            stream.leave()
        passed = b"".join(heard)
        program = b"".join(piece.chunk for piece in fetched)
        assert len(passed) > len(program) > 500, "all of it went this way"
        words = [token, answer.credential, "overheard", run_id, "zowarmup-credential", "Participate"]
        assert [word for word in words if word.encode() in passed] == []
        assert program[100:140] not in passed


def _of(answer: Any) -> tuple[str, str]:
    return answer.client, answer.credential


@pytest.mark.parametrize("up", [True, False])
def test_who_is_on_the_way_changes_nothing(server: TlsServer, run_id: str, up: bool) -> None:
    """A bit that is turned ends the connection, and nothing of what it carried is believed."""
    members = [server.enrol(server.invite().secret, f"on-the-way-{number}") for number in range(2)]
    with Link(server.address) as link, server.calls() as direct, server.calls(address=link.address) as calls:
        streams = [Voice(calls, run_id, members[0]), Voice(direct, run_id, members[1])]
        for stream in streams:
            number = stream.hear("work").round
        before, turned = server.ledger(), threading.Event()

        def turn(piece: bytes, upwards: bool) -> bytes:
            if upwards is not up or turned.is_set():
                return piece
            turned.set()
            return piece[:-1] + bytes([piece[-1] ^ 1])

        link.passing = turn
        streams[0].say(scalars=scalars(number))
        with pytest.raises(grpc.RpcError) as caught:
            streams[0].hear("accepted")
        error: Any = caught.value
        assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN)  # as gRPC tells of TLS's own end
        assert turned.is_set()
        if up:
            assert server.ledger() == before
        for stream in streams:
            stream.leave()


def test_what_members_learn_of_each_other(server: TlsServer, run_id: str) -> None:
    """A commit has the steps that came of each contribution, under its seed. It has no name and no number of examples."""
    members = [server.enrol(server.invite().secret, f"member-{number}") for number in range(2)]
    with server.calls() as calls:
        streams = [Voice(calls, run_id, member) for member in members]
        works = [stream.hear("work") for stream in streams]
        for stream, work in zip(streams, works, strict=True):
            stream.say(scalars=scalars(work.round))
        commit = streams[0].hear("commit")
        for stream in streams:
            stream.leave()
    assert {step.seed for step in commit.steps} == {work.seed for work in works}
    said = commit.SerializeToString()
    assert not any(name.encode() in said for name, _ in members)
    assert {field.name for field in wire.Commit.DESCRIPTOR.fields} == {"version", "digest", "steps", "versions"}
    assert {field.name for field in wire.Step.DESCRIPTOR.fields} == {"seed", "block", "ticks"}


def test_what_an_operator_does_is_in_the_ledger_and_no_secret_in_what_it_is_shown(server: TlsServer) -> None:
    word = server.invite().word
    before = len(events(server))
    for arguments in (
        ("pause", "--reason", "a lunch"),
        ("resume",),
        ("invite", "--tier", "low"),
        ("uninvite", server.invitations()[-1]["name"], "--reason", "a wrong address"),
        ("revoke", server.enrol(server.invite().secret, "lost")[0], "--reason", "a train"),
    ):
        done = server.zowarmup(*arguments)
        assert done.returncode == 0, done.stderr
    added = events(server)[before:]
    for kind in (
        ev.RunPaused,
        ev.RunResumed,
        ev.InvitationIssued,
        ev.InvitationRevoked,
        ev.ClientEnrolled,
        ev.ClientRevoked,
    ):
        assert any(isinstance(event, kind) for event in added), kind.__name__
    reasons = {str(event.reason) for event in added if hasattr(event, "reason")}
    assert {"a lunch", "a wrong address", "a train"} <= reasons
    shown = [
        server.zowarmup(*verb, "--json").stdout
        for verb in (("status",), ("clients",), ("invitations",), ("invitations", "--all"))
    ]
    secrets = find_secrets(server, word)
    assert len(secrets) > 4
    for text in shown:
        assert len(text) > 100
        assert [secret[:8] for secret in secrets if secret in text] == []


def test_a_thief_of_a_device_is_that_device_until_it_is_revoked(server: TlsServer) -> None:
    invitation = server.invite("--uses", "2")
    stolen = server.folder / "devices" / "stolen"
    with Processes(server.folder / "logs", Interrupts(), {**ENVIRONMENT, JOIN_VARIABLE: invitation.word}) as devices:
        devices.start("owner", "zowarmup.client.main", server.device(name="owner"))
        until(lambda: "joined strangers as owner" in devices.log("owner").read_text(), devices.log("owner"))
    shutil.copytree(server.folder / "devices" / "owner", stolen)

    # What it finds there is one credential and whom to trust: nothing by which to invite, to join again or to pose as another.
    (credential,) = [json.loads((stolen / "identity.json").read_text())["credential"]]
    found = {file.name: file.read_bytes() for file in stolen.iterdir() if file.is_file()}
    others = [secret for secret in find_secrets(server, invitation.word) if secret != credential]
    assert [name for name, held in found.items() for secret in others if secret.encode() in held] == []
    assert not any(b"PRIVATE KEY" in held for held in found.values())
    (server.folder / "as-operator").write_text(credential)
    assert server.zowarmup("stop", "--credential-file", str(server.folder / "as-operator")).returncode == 1

    with Processes(server.folder / "logs", Interrupts(), ENVIRONMENT) as devices:
        log = devices.log("thief")
        devices.start("thief", "zowarmup.client.main", server.device(name="stolen"))
        until(lambda: "as owner" in log.read_text(), log)
        until(lambda: [one.connected for one in server.status().clients if one.name == "owner"] == [True], log)
        done = server.zowarmup("revoke", "owner", "--reason", "left on a train", "--with-invitation")
        assert done.returncode == 0, done.stderr
        until(lambda: [(end.name, end.code) for end in devices.ended()] == [("thief", 1)], log)
        assert re.search(r"left on a train", log.read_text())
    assert "left on a train" in server.refused_device(name="stolen")
    assert "the invitation has been revoked" in server.refused_device(name="anew", word=invitation.word)
