"""An operator's connection to a coordinator: answers as values, errors as sentences.

Calls are synchronous and short, each with a deadline. Where there are several coordinators, all go to the first that answers,
until it does not. No other file of this package uses the generated code.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import is_dataclass
from functools import cache
from types import TracebackType, UnionType
from typing import Any, Self, TypeVar, cast, get_args, get_origin, get_type_hints

import grpc

from zowarmup.cli.session.status import (
    ClientStatus,
    InvitationStatus,
    Issued,
    Participant,
    Run,
    Status,
    VersionStatus,
)
from zowarmup.client.net.contact import ContactFinding, look
from zowarmup.client.net.tls import PLAIN, Trust, dialling, distrusted, shut
from zowarmup.common.exact.layout import Layout
from zowarmup.common.messages.codec import phase_from_wire, tier_from_wire, tier_to_wire
from zowarmup.common.messages.values import Phase, Tier
from zowarmup.common.settings.addresses import addresses_in
from zowarmup.common.settings.run import PROTOCOL
from zowarmup.common.system.command import CommandError, NoAnswer, Usage
from zowarmup.common.text import printable
from zowarmup.v1 import coordinator_pb2 as wire
from zowarmup.v1.coordinator_pb2_grpc import CoordinatorServiceStub, OperatorServiceStub

DEADLINE_S = 5.0
LOOK_S = 2.0
Answer = TypeVar("Answer")
# Fields that have another name on the wire.
WIRE_NAMES = {
    (ClientStatus, "name"): "client",
    (Participant, "name"): "client",
    (InvitationStatus, "name"): "invitation",
}


class Session:
    """`servers`: HOST:PORT, or several separated by commas; `trust`: how to know the coordinator; `credential`: the operator's,
    empty without it. `address` is that of the coordinator in use. Raises Usage where `servers` are none. The calls raise NoAnswer where nobody answers within `deadline_s` seconds, and CommandError where what
    answers is not a coordinator of this protocol, is not the one that is trusted, or refuses."""

    def __init__(
        self, servers: str, deadline_s: float = DEADLINE_S, trust: Trust = PLAIN, credential: str = ""
    ) -> None:
        try:
            self._addresses = addresses_in(servers)
        except ValueError as error:
            raise Usage(f"--server {error}") from None
        self.servers = servers
        self._deadline_s, self._trust = deadline_s, trust
        self._metadata = (("zowarmup-operator", credential),) if credential else ()
        self._answers = len(self._addresses) == 1  # or is known to
        self._dial(self._addresses[0])

    def _dial(self, address: str) -> None:
        self.address, trust = address, self._trust
        options = [
            *dialling(address),
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.max_receive_message_length", 64 << 20),
        ]
        if trust.credentials is None:
            self._channel = grpc.insecure_channel(address, options=options)
        else:
            self._channel = grpc.secure_channel(address, trust.credentials, options=options)
        self._coordinator = CoordinatorServiceStub(self._channel)
        self._operations = OperatorServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._channel.close()

    def _get_run(self, within_s: float) -> Any:
        return self._coordinator.GetRun(wire.GetRunRequest(protocol=PROTOCOL), timeout=within_s)

    def _find(self, ask: Callable[[float], Any] | None = None) -> None:
        """Have a coordinator that answers, where there are several. It is asked what changes nothing, by default what it trains: a
        call that may have been carried out is not made again elsewhere. Raises NoAnswer with what is found at each."""
        if self._answers:
            return
        said = []
        for address in self._addresses:
            self.close()
            self._dial(address)
            try:
                with self._sentences():
                    (ask or self._get_run)(min(LOOK_S, self._deadline_s))
                self._answers = True
                return
            except NoAnswer as error:
                said.append(str(error))
        raise NoAnswer("; ".join(said))

    @property
    def _operator(self) -> Any:
        """The operator's calls to a coordinator that answers. Raises NoAnswer."""
        self._find()
        return self._operations

    def run(self) -> Run:
        """What is being trained. Raises CommandError where the coordinator speaks another protocol."""
        self._find()
        with self._sentences():
            answer = self._get_run(self._deadline_s)
            if answer.protocol != PROTOCOL:
                raise CommandError(
                    f"the coordinator at {self.address} speaks protocol {answer.protocol}, this zowarmup speaks "
                    f"{PROTOCOL}: install the version of zowarmup that the coordinator has"
                )
            return Run(printable(answer.name), printable(answer.run_id), Layout.from_json(answer.layout_json).size)

    def status(self) -> Status:
        return self._ask(self._operator.GetStatus, wire.GetStatusRequest(), _status)

    def health(self) -> str:
        """What gRPC's health service at the address says: SERVING, or another word of it."""
        from grpc_health.v1 import health_pb2, health_pb2_grpc

        def check(within_s: float) -> Any:
            asked = health_pb2.HealthCheckRequest()
            return health_pb2_grpc.HealthStub(self._channel).Check(asked, timeout=within_s)

        self._find(check)
        with self._sentences():
            answer = check(self._deadline_s)
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    def versions(self, from_version: int = 0) -> list[VersionStatus]:
        """The run's history from a version on, in order."""
        request = wire.ListVersionsRequest(from_version=from_version)
        return self._ask(self._operator.ListVersions, request, lambda rows: [_version(row) for row in rows])

    def clients(self) -> list[Participant]:
        """All that have enrolled, by name, and what they did last."""
        request = wire.ListClientsRequest()
        return self._ask(self._operator.ListClients, request, lambda rows: [_value(Participant, row) for row in rows])

    def pause(self, reason: str) -> None:
        """Open no further round until resumed."""
        self._ask(self._operator.Pause, wire.PauseRequest(reason=reason), _nothing)

    def resume(self) -> None:
        """Open rounds again."""
        self._ask(self._operator.Resume, wire.ResumeRequest(), _nothing)

    def pivot(self, reason: str) -> None:
        """End the warm-up after the round in progress."""
        self._ask(self._operator.Pivot, wire.PivotRequest(reason=reason), _nothing)

    def stop(self, reason: str) -> None:
        """Finish the run after the round in progress."""
        self._ask(self._operator.Stop, wire.StopRequest(reason=reason), _nothing)

    def invite(self, tier: Tier, expires_s: float, uses: int) -> Issued:
        """A secret with which devices may enrol. It is shown this once."""
        request = wire.InviteRequest(tier=tier_to_wire(tier), expires_s=expires_s, uses=uses)
        return self._ask(self._operator.Invite, request, lambda answer: _value(Issued, answer))

    def revoke(self, client: str, reason: str, with_invitation: bool) -> tuple[InvitationStatus | None, bool]:
        """Shut a client out for ever: the invitation that it came by, and whether devices may enrol without one."""
        request = wire.RevokeRequest(client=client, reason=reason, with_invitation=with_invitation)
        return self._ask(
            self._operator.Revoke,
            request,
            lambda answer: (_field(answer, "invitation", InvitationStatus), answer.open_enrolment),
        )

    def invitations(self) -> list[InvitationStatus]:
        """All that were issued, in order."""
        request = wire.ListInvitationsRequest()
        return self._ask(
            self._operator.ListInvitations, request, lambda rows: [_value(InvitationStatus, row) for row in rows]
        )

    def uninvite(self, invitation: str, reason: str) -> InvitationStatus:
        """Revoke an invitation."""
        request = wire.UninviteRequest(invitation=invitation, reason=reason)
        return self._ask(self._operator.Uninvite, request, lambda answer: _value(InvitationStatus, answer.invitation))

    def _ask(self, call: Any, request: Any, made: Callable[[Any], Answer]) -> Answer:
        """What is `made` of the answer, or of the stream of answers."""
        with self._sentences():
            return made(call(request, timeout=self._deadline_s, metadata=self._metadata))

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        """The one place where errors of the wire become sentences."""
        try:
            yield
        except grpc.RpcError as error:
            fault = self._fault(error)
            self._answers &= len(self._addresses) == 1 or not isinstance(fault, NoAnswer)
            raise fault from error
        except ValueError as error:  # a message that is not one of ours
            raise CommandError(
                f"the coordinator at {self.address} sent what this zowarmup does not know: {error}"
            ) from error

    def _fault(self, error: Any) -> CommandError:
        details = printable(error.details() or "")
        trailing: Any = error.trailing_metadata() if isinstance(error, grpc.Call) else ()
        if dict(trailing or ()).get("zowarmup-reason") == "preparing":
            return NoAnswer(f"the coordinator at {self.address} cannot be asked yet: {details}; try again")
        if sentence := distrusted(details) or shut(details):
            contact = look(self.address, self._trust, LOOK_S)
            sentence = sentence if contact.found is ContactFinding.COORDINATOR else contact.sentence
            if distrusted(details):
                return CommandError(f"the coordinator at {self.address} is not trusted: {sentence}")
            return NoAnswer(f"the coordinator at {self.address} cannot be talked to: {sentence}")
        return self._sentence(error.code(), details)

    def _sentence(self, code: grpc.StatusCode, details: str) -> CommandError:
        match code:
            case grpc.StatusCode.UNAVAILABLE:
                contact = look(self.address, self._trust, LOOK_S)
                found = f"{contact.sentence} (gRPC: {details})"
                if contact.found is not ContactFinding.COORDINATOR:
                    found = contact.sentence
                if contact.found is ContactFinding.REFUSED:
                    found = "start one with zowarmup-server, or say where it is with --server HOST:PORT"
                return NoAnswer(f"no coordinator answers at {self.address}: {found}")
            case grpc.StatusCode.DEADLINE_EXCEEDED | grpc.StatusCode.CANCELLED:
                return NoAnswer(
                    f"the coordinator at {self.address} did not answer within {self._deadline_s:g} s: "
                    "try again, and look at its log if that does not help"
                )
            case grpc.StatusCode.UNIMPLEMENTED:
                return CommandError(
                    f"what answers at {self.address} is no zowarmup coordinator of this version: check the address, "
                    "and compare zowarmup version on both machines"
                )
            case (
                grpc.StatusCode.FAILED_PRECONDITION
                | grpc.StatusCode.INVALID_ARGUMENT
                | grpc.StatusCode.UNAUTHENTICATED
                | grpc.StatusCode.PERMISSION_DENIED
            ):
                return CommandError(f"the coordinator at {self.address} refused: {details}")
            case _:
                return CommandError(
                    f"the coordinator at {self.address} failed ({code.name}): {details or 'see its log'}"
                )


def _value(kind: type[Answer], message: Any, **given: Any) -> Answer:
    """A message as a value of a dataclass: each field is what is `given`, or the message's field of that name, text made
    printable and bytes in hex; None where that is absent."""
    for name, hint in _hints(cast(Any, kind)).items():
        if name not in given:
            given[name] = _field(message, WIRE_NAMES.get((kind, name), name), hint)
    return kind(**given)


def _field(message: Any, name: str, hint: Any) -> Any:
    absent = message.DESCRIPTOR.fields_by_name[name].has_presence and not message.HasField(name)
    return None if absent else _converted(getattr(message, name), hint)


def _converted(value: Any, hint: Any) -> Any:
    """Raises ValueError where it is no value of that type."""
    if isinstance(hint, UnionType):
        hint, _ = get_args(hint)  # X | None
        if hint is Tier and not value:
            return None
    if hint is Tier:
        return tier_from_wire(value)
    if hint is Phase:
        return phase_from_wire(value)
    if get_origin(hint) is Mapping:
        return {printable(name): number for name, number in value.items()}
    if get_origin(hint) is tuple:
        return tuple(_converted(one, get_args(hint)[0]) for one in value)
    if is_dataclass(hint):
        return _value(cast(type[Any], hint), value)
    if isinstance(value, bytes):
        return value.hex()
    return printable(value) if isinstance(value, str) else value


@cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    return get_type_hints(kind)


def _nothing(answer: object) -> None:
    """Of an answer that says no more than that it was done."""


def _status(message: wire.GetStatusResponse) -> Status:
    if not message.metrics:
        raise ValueError("the coordinator names no metric")
    return _value(Status, message, refusals={printable(row.reason): row.count for row in message.refusals})


def _version(message: wire.ListVersionsResponse) -> VersionStatus:
    # The initial weights belong to no round, and so to no phase but the first.
    return _value(VersionStatus, message, **({} if message.phase else {"phase": Phase.WARM_UP}))
