"""The operator's connection against a real gRPC server on loopback."""

import io
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import grpc
import pytest
from rich.console import Console

from tests.tasks import METRIC, accuracy_of
from zowarmup.cli.session.session import Session
from zowarmup.cli.session.status import ClientStatus, EvaluationStatus, TrafficStatus
from zowarmup.cli.session.view import status_view
from zowarmup.common.exact.layout import Block, Layout, Tensor
from zowarmup.common.messages.values import Phase, Tier
from zowarmup.common.settings.run import PROTOCOL
from zowarmup.common.system.command import CommandError, NoAnswer, Usage
from zowarmup.v1 import coordinator_pb2 as wire
from zowarmup.v1 import coordinator_pb2_grpc as services

LAYOUT = Layout((Tensor("weight", (3, 4), 0), Tensor("mean", (2,), 12)), 12, 14, (Block("all", 0, 12),))
ACCURACY = wire.Metric(name="accuracy", best=1.0, higher_is_better=True, share=True)
STATUS = wire.GetStatusResponse(
    name="digits",
    run_id="r1",
    phase=wire.PHASE_ZEROTH_ORDER,
    round=12,
    version=11,
    digest=bytes(range(16)),
    activity="waiting: 1 of 2",
    pivot_version=10,
    final_version=210,
    clients=[
        wire.ClientStatus(client="pi", tier=wire.TIER_LOW, examples=143, version=9, digest=b"\1" * 16, gone_s=42.0)
    ],
    traffic=[
        wire.Traffic(direction="up", phase=wire.PHASE_WARM_UP, kind="control", payload_bytes=30, messages=3),
        wire.Traffic(
            direction="up",
            tier=wire.TIER_LOW,
            phase=wire.PHASE_ZEROTH_ORDER,
            kind="contribution",
            payload_bytes=264,
            messages=1,
        ),
    ],
    metrics=[ACCURACY],
    evaluation=wire.Evaluation(version=10, metrics=accuracy_of(0.25), loss=1.5, examples=360),
    uptime_s=3.5,
)


class Coordinator(services.CoordinatorServiceServicer, services.OperatorServiceServicer):
    """Says what it is told to."""

    protocol = PROTOCOL
    status = STATUS
    refusal: tuple[grpc.StatusCode, str] | None = None
    delay_s = 0.0

    def GetRun(self, request: wire.GetRunRequest, context: grpc.ServicerContext) -> wire.GetRunResponse:
        self._refuse(context)
        return wire.GetRunResponse(
            protocol=self.protocol, run_id="r1", name="digits", layout_json=LAYOUT.to_json(), spec_json="{}"
        )

    def GetStatus(self, request: wire.GetStatusRequest, context: grpc.ServicerContext) -> wire.GetStatusResponse:
        time.sleep(self.delay_s)
        self._refuse(context)
        return self.status

    def ListVersions(
        self, request: wire.ListVersionsRequest, context: grpc.ServicerContext
    ) -> Iterator[wire.ListVersionsResponse]:
        for version in range(request.from_version, 12):
            evaluated = wire.Evaluation(version=version, metrics=accuracy_of(0.5), loss=1.0, examples=360)
            yield wire.ListVersionsResponse(
                version=version,
                round=version,
                phase=wire.PHASE_WARM_UP if version else wire.PHASE_UNSPECIFIED,
                contributions=1,
                evaluation=evaluated if version % 10 == 0 else None,
                traffic=STATUS.traffic,
            )

    def ListClients(self, request: object, context: grpc.ServicerContext) -> Iterator[wire.ListClientsResponse]:
        yield hostile(wire.ListClientsResponse())

    def ListInvitations(self, request: object, context: grpc.ServicerContext) -> Iterator[wire.ListInvitationsResponse]:
        yield hostile(wire.ListInvitationsResponse())

    def Uninvite(self, request: object, context: grpc.ServicerContext) -> wire.UninviteResponse:
        return hostile(wire.UninviteResponse())

    def Revoke(self, request: object, context: grpc.ServicerContext) -> wire.RevokeResponse:
        return hostile(wire.RevokeResponse())

    def Invite(self, request: object, context: grpc.ServicerContext) -> wire.InviteResponse:
        return hostile(wire.InviteResponse())

    def _refuse(self, context: grpc.ServicerContext) -> None:
        if self.refusal:
            context.abort(*self.refusal)


@contextmanager
def serving(*add: Any) -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    for register, service in add:
        register(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@pytest.fixture
def coordinator() -> Coordinator:
    return Coordinator()


@pytest.fixture
def session(coordinator: Coordinator) -> Iterator[Session]:
    both = (
        services.add_CoordinatorServiceServicer_to_server,
        services.add_OperatorServiceServicer_to_server,
    )
    with serving(*((register, coordinator) for register in both)) as address, Session(address, 2.0) as opened:
        yield opened


def test_a_status_arrives_as_values(session: Session) -> None:
    status = session.status()
    assert (status.name, status.run_id, status.round, status.version) == ("digits", "r1", 12, 11)
    assert status.phase is Phase.ZEROTH_ORDER
    assert status.digest == bytes(range(16)).hex()
    assert status.clients == (ClientStatus("pi", Tier.LOW, False, 143, 9, "01" * 16, 0, 42.0),)
    assert status.traffic[0] == TrafficStatus("up", None, Phase.WARM_UP, "control", 30, 3)
    assert status.traffic[1].tier is Tier.LOW
    assert status.metrics == (METRIC,)
    assert status.evaluation == EvaluationStatus(10, accuracy_of(0.25), 1.5, 360)
    assert status.pivot_evaluation is None
    assert (status.replicas.agree, status.replicas.silent) == ((), ("pi",))


def test_history_arrives_from_a_version_on(session: Session) -> None:
    versions = session.versions(9)
    assert [version.version for version in versions] == [9, 10, 11]
    assert [version.evaluation is not None for version in versions] == [False, True, False]
    assert versions[0].traffic == session.status().traffic
    assert session.versions()[0].phase is Phase.WARM_UP


def test_the_run_says_how_many_parameters_it_has(session: Session) -> None:
    assert session.run().parameters == 14


def test_another_protocol_is_refused_with_the_remedy(session: Session, coordinator: Coordinator) -> None:
    coordinator.protocol = PROTOCOL + 1
    with pytest.raises(
        CommandError, match=rf"speaks protocol {PROTOCOL + 1}, this zowarmup speaks {PROTOCOL}: install"
    ):
        session.run()
    coordinator.refusal = (grpc.StatusCode.FAILED_PRECONDITION, "protocol 1 is too old: install zowarmup 2")
    with pytest.raises(CommandError, match="refused: protocol 1 is too old: install zowarmup 2"):
        session.run()


def test_nobody_there_says_what_to_start() -> None:
    with Session("127.0.0.1:1") as session, pytest.raises(NoAnswer, match="no coordinator answers"):
        session.status()


def test_a_silent_coordinator_is_not_waited_for_for_ever(session: Session, coordinator: Coordinator) -> None:
    coordinator.delay_s = 0.5
    with Session(session.address, 0.1) as hasty, pytest.raises(NoAnswer, match=r"did not answer within 0\.1 s"):
        hasty.status()


def test_another_service_is_recognised() -> None:
    with (
        serving((services.add_CoordinatorServiceServicer_to_server, services.CoordinatorServiceServicer())) as address,
        Session(address) as session,
        pytest.raises(CommandError, match="is no zowarmup coordinator of this version"),
    ):
        session.status()


def test_a_failure_inside_the_coordinator_is_told(session: Session, coordinator: Coordinator) -> None:
    coordinator.refusal = (grpc.StatusCode.INTERNAL, "disk full")
    with pytest.raises(CommandError, match=r"failed \(INTERNAL\): disk full"):
        session.status()


def test_a_phase_of_a_later_version_is_not_guessed_at(session: Session, coordinator: Coordinator) -> None:
    coordinator.status = wire.GetStatusResponse(metrics=[ACCURACY], phase=wire.PHASE_UNSPECIFIED)
    with pytest.raises(CommandError, match="sent what this zowarmup does not know: phase"):
        session.status()


@pytest.mark.parametrize("address", ["", "7070", "host", "host:", "host:0", "host:99999", "host:http"])
def test_an_address_is_host_and_port(address: str) -> None:
    with pytest.raises(Usage, match="must be HOST:PORT"):
        Session(address)


_T = TypeVar("_T")
FORGED = "\x1b[2Jgone\n2026-11-27 INFO all is well\u202e[red]x[/nothing]"


def hostile(message: _T) -> _T:
    """A message with words that would take a terminal over, in every place for text, however deep."""
    _fill(message)
    return message


def _fill(message: Any) -> None:
    for field in message.DESCRIPTOR.fields:
        many = field.is_repeated
        if field.type == field.TYPE_MESSAGE and field.message_type.GetOptions().map_entry:
            getattr(message, field.name)[FORGED] = 1.0
        elif field.type == field.TYPE_MESSAGE:
            _fill(getattr(message, field.name).add() if many else getattr(message, field.name))
            if not many:
                getattr(message, field.name).SetInParent()
        elif field.type == field.TYPE_STRING:
            if many:
                getattr(message, field.name).append(FORGED)
            else:
                setattr(message, field.name, FORGED)
        elif field.type == field.TYPE_ENUM and not many:
            setattr(message, field.name, 1)


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for pair in value.items() for one in pair for text in texts(one))
    elif isinstance(value, list | tuple):
        yield from (text for one in value for text in texts(one))
    elif is_dataclass(value) and not isinstance(value, type):
        yield from texts([getattr(value, field.name) for field in fields(value)])


def test_no_word_of_a_coordinator_takes_the_terminal_over(session: Session, coordinator: Coordinator) -> None:
    coordinator.status = hostile(wire.GetStatusResponse())
    with pytest.raises(CommandError, match="must be small letters") as refused:
        session.status()
    assert str(refused.value).isprintable(), "a metric's name is one, or nothing is shown"
    del coordinator.status.metrics[:]
    with pytest.raises(CommandError, match="names no metric"):
        session.status()
    coordinator.status.metrics.append(ACCURACY)
    status = session.status()
    found = [
        status,
        session.clients(),
        session.invitations(),
        session.uninvite("x", ""),
        session.revoke("x", "", True),
        session.invite(Tier.LOW, 60, 1),
    ]
    assert sum("gone" in text for text in texts(found)) > 15
    assert all(text.isprintable() for text in texts(found))
    shown = io.StringIO()
    Console(file=shown, force_terminal=True, highlight=False, markup=False, width=80).print(status_view(status))
    assert "[/nothing]" in shown.getvalue() and "\x1b[2J" not in shown.getvalue()
    coordinator.refusal = (grpc.StatusCode.INTERNAL, FORGED)
    with pytest.raises(CommandError) as caught:
        session.status()
    assert str(caught.value).isprintable()
