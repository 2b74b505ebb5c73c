"""An operator's connection to a coordinator: answers as values, errors as sentences.

Calls are synchronous and short, each with a deadline. Nothing else in this room touches the wire.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import grpc

from zowarmup.cli.clients import Participant
from zowarmup.cli.failure import CommandError, NoAnswer, Usage
from zowarmup.cli.invitations import InvitationStatus
from zowarmup.cli.run_status import ClientStatus, EvaluationStatus, Issued, Run, Status, TrafficStatus, VersionStatus
from zowarmup.client.net.contact import ContactFinding, look
from zowarmup.client.net.tls import PLAIN, Trust, dialling, distrusted, shut
from zowarmup.common.exact.layout import Layout
from zowarmup.common.messages.codec import phase_from_wire, tier_from_wire, tier_to_wire
from zowarmup.common.messages.values import Phase, Tier
from zowarmup.common.settings.addresses import host_and_port
from zowarmup.common.settings.run import PROTOCOL
from zowarmup.common.system.printable import printable
from zowarmup.common.tasks.protocol import Metric
from zowarmup.v1 import coordinator_pb2 as wire
from zowarmup.v1.coordinator_pb2_grpc import CoordinatorServiceStub, OperatorServiceStub

DEADLINE_S = 5.0
LOOK_S = 2.0


class Session:
    """`trust`: how to know the coordinator; `credential`: the operator's, empty without it. Raises Usage where `address`
    is not HOST:PORT. The calls raise NoAnswer where nobody answers within `deadline_s` seconds, and Failure where what
    answers is not a coordinator of this protocol, is not the one that is trusted, or refuses."""

    def __init__(
        self, address: str, deadline_s: float = DEADLINE_S, trust: Trust = PLAIN, credential: str = ""
    ) -> None:
        try:
            host_and_port(address)
        except ValueError as error:
            raise Usage(f"--server {error}") from None
        self.address = address
        self._deadline_s, self._trust = deadline_s, trust
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
        self._metadata = (("zowarmup-operator", credential),) if credential else ()
        self._coordinator = CoordinatorServiceStub(self._channel)
        self._operator = OperatorServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._channel.close()

    def run(self) -> Run:
        """What is being trained. Raises CommandError where the coordinator speaks another protocol."""
        with self._sentences():
            answer = self._coordinator.GetRun(wire.GetRunRequest(protocol=PROTOCOL), timeout=self._deadline_s)
            if answer.protocol != PROTOCOL:
                raise CommandError(
                    f"the coordinator at {self.address} speaks protocol {answer.protocol}, this zowarmup speaks "
                    f"{PROTOCOL}: install the version of zowarmup that the coordinator has"
                )
            return Run(printable(answer.name), printable(answer.run_id), Layout.from_json(answer.layout_json).size)

    def status(self) -> Status:
        with self._sentences():
            answer = self._operator.GetStatus(
                wire.GetStatusRequest(), timeout=self._deadline_s, metadata=self._metadata
            )
            return Status(
                name=printable(answer.name),
                run_id=printable(answer.run_id),
                metrics=_metrics(answer.metrics),
                phase=phase_from_wire(answer.phase),
                round=answer.round,
                version=answer.version,
                digest=answer.digest.hex(),
                activity=printable(answer.activity),
                pivot_version=answer.pivot_version,
                final_version=answer.final_version,
                clients=tuple(_client(client) for client in answer.clients),
                traffic=tuple(_traffic(row) for row in answer.traffic),
                evaluation=_evaluation(answer.evaluation) if answer.HasField("evaluation") else None,
                pivot_evaluation=_evaluation(answer.pivot_evaluation) if answer.HasField("pivot_evaluation") else None,
                paused=printable(answer.paused),
                participants=answer.participants,
                contributed=answer.contributed,
                uptime_s=answer.uptime_s,
                refusals={printable(row.reason): row.count for row in answer.refusals},
                clipped_scalars=answer.clipped_scalars,
                clipped_deltas=answer.clipped_deltas,
                rounds_below_tick=answer.rounds_below_tick,
                certificate_expires_at_s=answer.certificate_expires_at_s,
                pivot_reason=printable(answer.pivot_reason),
                rollbacks=answer.rollbacks,
                rate_factor=answer.rate_factor,
                gave_up=printable(answer.gave_up),
            )

    def health(self) -> str:
        """What gRPC's health service at the address says: SERVING, or another word of it."""
        from grpc_health.v1 import health_pb2, health_pb2_grpc

        with self._sentences():
            asked = health_pb2.HealthCheckRequest()
            answer = health_pb2_grpc.HealthStub(self._channel).Check(asked, timeout=self._deadline_s)
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    def versions(self, from_version: int = 0) -> list[VersionStatus]:
        """The run's history from a version on, in order."""
        with self._sentences():
            request = wire.ListVersionsRequest(from_version=from_version)
            rows = self._operator.ListVersions(request, timeout=self._deadline_s, metadata=self._metadata)
            return [_version(row) for row in rows]

    def clients(self) -> list[Participant]:
        """All that have enrolled, by name, and what they did last."""
        with self._sentences():
            rows = self._operator.ListClients(
                wire.ListClientsRequest(), timeout=self._deadline_s, metadata=self._metadata
            )
            return [_participant(row) for row in rows]

    def pause(self, reason: str) -> None:
        """Open no further round until resumed."""
        self._verb(self._operator.Pause, wire.PauseRequest(reason=reason))

    def resume(self) -> None:
        """Open rounds again."""
        self._verb(self._operator.Resume, wire.ResumeRequest())

    def pivot(self, reason: str) -> None:
        """End the warm-up after the round in progress."""
        self._verb(self._operator.Pivot, wire.PivotRequest(reason=reason))

    def stop(self, reason: str) -> None:
        """Finish the run after the round in progress."""
        self._verb(self._operator.Stop, wire.StopRequest(reason=reason))

    def invite(self, tier: Tier, expires_s: float, uses: int) -> Issued:
        """A secret with which devices may enrol. It is shown this once."""
        request = wire.InviteRequest(tier=tier_to_wire(tier), expires_s=expires_s, uses=uses)
        answer = self._verb(self._operator.Invite, request)
        return Issued(printable(answer.token), answer.expires_at_s, printable(answer.invitation))

    def revoke(self, client: str, reason: str, with_invitation: bool) -> tuple[InvitationStatus | None, bool]:
        """Shut a client out for ever: the invitation that it came by, and whether devices may enrol without one."""
        request = wire.RevokeRequest(client=client, reason=reason, with_invitation=with_invitation)
        answer = self._verb(self._operator.Revoke, request)
        return _invitation(answer.invitation) if answer.HasField("invitation") else None, answer.open_enrolment

    def invitations(self) -> list[InvitationStatus]:
        """All that were issued, in order."""
        with self._sentences():
            request = wire.ListInvitationsRequest()
            rows = self._operator.ListInvitations(request, timeout=self._deadline_s, metadata=self._metadata)
            return [_invitation(row) for row in rows]

    def uninvite(self, invitation: str, reason: str) -> InvitationStatus:
        """Revoke an invitation."""
        request = wire.UninviteRequest(invitation=invitation, reason=reason)
        return _invitation(self._verb(self._operator.Uninvite, request).invitation)

    def _verb(self, call: Any, request: Any) -> Any:
        with self._sentences():
            return call(request, timeout=self._deadline_s, metadata=self._metadata)

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        """The one place where errors of the wire become sentences."""
        try:
            yield
        except grpc.RpcError as error:
            details = printable(error.details() or "")
            trailing: Any = error.trailing_metadata() if isinstance(error, grpc.Call) else ()
            if dict(trailing or ()).get("zowarmup-reason") == "preparing":
                raise NoAnswer(
                    f"the coordinator at {self.address} cannot be asked yet: {details}; try again"
                ) from error
            if sentence := distrusted(details) or shut(details):
                contact = look(self.address, self._trust, LOOK_S)
                sentence = sentence if contact.found is ContactFinding.COORDINATOR else contact.sentence
                if distrusted(details):
                    raise CommandError(f"the coordinator at {self.address} is not trusted: {sentence}") from error
                raise NoAnswer(f"the coordinator at {self.address} cannot be talked to: {sentence}") from error
            raise self._sentence(error.code(), details) from error
        except ValueError as error:  # a message that is not one of ours
            raise CommandError(
                f"the coordinator at {self.address} sent what this zowarmup does not know: {error}"
            ) from error

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


def _participant(message: wire.ListClientsResponse) -> Participant:
    return Participant(
        name=printable(message.client),
        tier=tier_from_wire(message.tier),
        connected=message.connected,
        since_s=message.since_s if message.HasField("since_s") else None,
        revoked=printable(message.revoked),
        round=message.round,
        contributed=message.contributed,
        abstained=printable(message.abstained),
        version=message.version,
        agrees=message.agrees if message.HasField("agrees") else None,
        software=printable(message.software),
        contributed_s=message.contributed_s if message.HasField("contributed_s") else None,
        peak_memory_bytes=message.peak_memory_bytes,
        up_bytes=message.up_bytes,
        down_bytes=message.down_bytes,
        examples=message.examples,
    )


def _invitation(message: wire.ListInvitationsResponse) -> InvitationStatus:
    return InvitationStatus(
        name=printable(message.invitation),
        tier=tier_from_wire(message.tier),
        uses=message.uses,
        used=message.used,
        expires_at_s=message.expires_at_s,
        closed=printable(message.closed),
        clients=tuple(map(printable, message.clients)),
    )


def _client(message: wire.ClientStatus) -> ClientStatus:
    return ClientStatus(
        name=printable(message.client),
        tier=tier_from_wire(message.tier),
        connected=message.connected,
        examples=message.examples,
        version=message.version,
        digest=message.digest.hex(),
        peak_memory_bytes=message.peak_memory_bytes,
        gone_s=message.gone_s,
        revoked=printable(message.revoked),
    )


def _traffic(message: wire.Traffic) -> TrafficStatus:
    return TrafficStatus(
        direction=printable(message.direction),
        tier=tier_from_wire(message.tier) if message.tier else None,
        phase=phase_from_wire(message.phase),
        kind=printable(message.kind),
        payload_bytes=message.payload_bytes,
        messages=message.messages,
    )


def _evaluation(message: wire.Evaluation) -> EvaluationStatus:
    metrics = {printable(name): value for name, value in message.metrics.items()}
    return EvaluationStatus(message.version, metrics, message.loss, message.examples)


def _metrics(messages: Iterable[wire.Metric]) -> tuple[Metric, ...]:
    """Raises ValueError where there is none, or one of no good name."""
    metrics = tuple(Metric(one.name, one.best, one.higher_is_better, one.share) for one in messages)
    if not metrics:
        raise ValueError("the coordinator names no metric")
    return metrics


def _version(message: wire.ListVersionsResponse) -> VersionStatus:
    return VersionStatus(
        version=message.version,
        round=message.round,
        # The initial weights belong to no round, and so to no phase but the first.
        phase=phase_from_wire(message.phase) if message.phase else Phase.WARM_UP,
        contributions=message.contributions,
        committed_at_s=message.committed_at_s,
        evaluation=_evaluation(message.evaluation) if message.HasField("evaluation") else None,
        traffic=tuple(_traffic(row) for row in message.traffic),
    )
