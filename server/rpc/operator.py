"""Operator RPCs: status, history, and the commands that change a run."""

import secrets
from collections.abc import AsyncIterator, Callable, Sequence

from zowarmup.common.messages import codec
from zowarmup.common.messages.values import Phase, Tier
from zowarmup.common.tasks.protocol import Metric
from zowarmup.server.coordinator import Coordinator
from zowarmup.server.core import commands as cmd
from zowarmup.server.core import events as ev
from zowarmup.server.core.activity import activity, planned
from zowarmup.server.core.membership import came_by, closed, identifier, invitation_named
from zowarmup.server.core.state import Presence, State
from zowarmup.server.projections.history import History
from zowarmup.server.projections.participation import Participation
from zowarmup.server.projections.traffic import Traffic
from zowarmup.server.rpc.auth import Admission, Context, hash_secret
from zowarmup.v1 import coordinator_pb2 as wire
from zowarmup.v1 import coordinator_pb2_grpc as services


class OperatorService(services.OperatorServiceServicer):
    """What an operator needs of a coordinator. `looked` is called at every look at the status.
    `expires_at`: when the coordinator's certificate expires, seconds since 1970, 0 without TLS."""

    def __init__(
        self,
        coordinator: Coordinator,
        history: History,
        traffic: Traffic,
        admission: Admission,
        looked: Callable[[], None] = lambda: None,
        expires_at: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._coordinator, self._history, self._traffic, self._looked = coordinator, history, traffic, looked
        self._admission, self._expires_at = admission, expires_at
        self._started = coordinator.clock()

    async def GetStatus(self, request: wire.GetStatusRequest, context: Context) -> wire.GetStatusResponse:
        async with self._admission.refusing(context):
            self._admission.onlooker(context)
        state, now = self._coordinator.state, self._coordinator.clock()
        pivot = self._history.versions.get(state.pivot_version if state.pivot_version is not None else -1)
        pivot_version, final_version = planned(state)
        current = state.current
        self._looked()
        return wire.GetStatusResponse(
            name=state.run_file.name,
            run_id=state.run_id,
            phase=codec.phase_to_wire(state.phase),
            round=state.round,
            version=state.version,
            digest=bytes.fromhex(state.digest),
            activity=str(self._coordinator.trouble) or activity(state, now),
            pivot_version=pivot_version,
            pivot_reason=state.pivot_reason,
            final_version=final_version,
            clients=[_client(state, name, now) for name in sorted(state.clients)],
            traffic=_traffic(self._traffic.counts()),
            evaluation=_evaluation(state.evaluation),
            pivot_evaluation=_evaluation(pivot.evaluation if pivot else None),
            paused=state.paused,
            participants=len(current.seeds) if current else 0,
            contributed=len(current.contributions) if current else 0,
            uptime_s=now - self._started,
            clipped_scalars=state.clipped_scalars,
            clipped_deltas=state.clipped_deltas,
            rounds_below_tick=state.rounds_below_tick,
            rollbacks=state.progress.rollbacks,
            rate_factor=state.progress.rate_factor,
            gave_up=state.gave_up,
            certificate_expires_at_s=self._expires_at(),
            metrics=[_metric(metric) for metric in state.program.metrics],
            privacy=_privacy(state),
            refusals=[wire.Refusal(reason=r, count=count) for r, count in sorted(self._admission.refusals.items())],
        )

    async def ListVersions(
        self, request: wire.ListVersionsRequest, context: Context
    ) -> AsyncIterator[wire.ListVersionsResponse]:
        async with self._admission.refusing(context):
            self._admission.onlooker(context)
        for number, version in list(self._history.versions.items()):
            if number >= request.from_version:
                yield wire.ListVersionsResponse(
                    version=number,
                    round=version.round,
                    phase=codec.phase_to_wire(version.phase),
                    contributions=version.contributions,
                    committed_at_s=version.committed_at,
                    evaluation=_evaluation(version.evaluation),
                    traffic=_traffic(self._history.traffic.at(number)),
                )

    async def ListClients(
        self, request: wire.ListClientsRequest, context: Context
    ) -> AsyncIterator[wire.ListClientsResponse]:
        async with self._admission.refusing(context):
            self._admission.onlooker(context)
        state, now = self._coordinator.state, self._coordinator.clock()
        for name in sorted(state.clients):
            yield _participation(state, name, self._history.participations[name], self._traffic.of(name), now)

    async def Pause(self, request: wire.PauseRequest, context: Context) -> wire.PauseResponse:
        await self._verb(context, cmd.Pause(request.reason[:200] or "by the operator"))
        return wire.PauseResponse()

    async def Resume(self, request: wire.ResumeRequest, context: Context) -> wire.ResumeResponse:
        await self._verb(context, cmd.Resume())
        return wire.ResumeResponse()

    async def Pivot(self, request: wire.PivotRequest, context: Context) -> wire.PivotResponse:
        await self._verb(context, cmd.Pivot(request.reason[:200] or "by the operator"))
        return wire.PivotResponse()

    async def Stop(self, request: wire.StopRequest, context: Context) -> wire.StopResponse:
        await self._verb(context, cmd.Stop(request.reason[:200] or "by the operator"))
        return wire.StopResponse()

    async def Invite(self, request: wire.InviteRequest, context: Context) -> wire.InviteResponse:
        async with self._admission.refusing(context):
            self._admission.operator(context)
            token, tier = secrets.token_hex(32), codec.tier_from_wire(request.tier)
            today = self._coordinator.date()
            command = cmd.Invite(hash_secret(token), tier, request.expires_s, request.uses, today)
            (issued, *_) = await self._coordinator.handle(command)
            assert isinstance(issued, ev.InvitationIssued)
        return wire.InviteResponse(
            token=token, expires_at_s=issued.expires_at, invitation=identifier(issued.token_sha256)
        )

    async def Revoke(self, request: wire.RevokeRequest, context: Context) -> wire.RevokeResponse:
        reason = request.reason[:200] or "by the operator"
        await self._verb(context, cmd.Revoke(request.client, reason, request.with_invitation))
        token_sha256 = self._coordinator.state.clients[request.client].invitation
        return wire.RevokeResponse(
            invitation=self._invitation(token_sha256) if token_sha256 else None,
            open_enrolment=not self._admission.invited,
        )

    async def ListInvitations(
        self, request: wire.ListInvitationsRequest, context: Context
    ) -> AsyncIterator[wire.ListInvitationsResponse]:
        async with self._admission.refusing(context):
            self._admission.operator(context)
        state, today = self._coordinator.state, self._coordinator.date()
        clients = came_by(state)
        for token_sha256 in state.invitations:
            yield _invitation(state, token_sha256, clients.get(token_sha256, []), today)

    async def Uninvite(self, request: wire.UninviteRequest, context: Context) -> wire.UninviteResponse:
        reason = request.reason[:200] or "by the operator"
        await self._verb(context, cmd.Uninvite(request.invitation, reason))
        token_sha256 = invitation_named(self._coordinator.state, request.invitation)
        return wire.UninviteResponse(invitation=self._invitation(token_sha256))

    def _invitation(self, token_sha256: str) -> wire.ListInvitationsResponse:
        state = self._coordinator.state
        return _invitation(state, token_sha256, came_by(state).get(token_sha256, []), self._coordinator.date())

    async def _verb(self, context: Context, command: cmd.Command) -> None:
        async with self._admission.refusing(context):
            self._admission.operator(context)
            await self._coordinator.handle(command)


def _client(state: State, name: str, now: float) -> wire.ClientStatus:
    client, presence = state.clients[name], state.presence.get(name, Presence())
    return wire.ClientStatus(
        client=name,
        tier=codec.tier_to_wire(client.tier),
        connected=presence.connected,
        examples=client.examples,
        version=presence.version,
        digest=bytes.fromhex(presence.digest),
        peak_memory_bytes=presence.peak_memory_bytes,
        gone_s=now - presence.gone_at if presence.gone_at else 0.0,
        revoked=client.revoked,
    )


def _participation(
    state: State, name: str, did: Participation, carried: tuple[int, int], now: float
) -> wire.ListClientsResponse:
    client, presence, current = state.clients[name], state.presence.get(name, Presence()), state.current
    takes_part = current is not None and name in current.seeds
    row = wire.ListClientsResponse(
        client=name,
        tier=codec.tier_to_wire(client.tier),
        connected=presence.connected,
        since_s=max(0.0, now - did.changed_at) if did.changed_at else None,
        revoked=client.revoked,
        round=current.number if current is not None and takes_part else 0,
        contributed=current is not None and name in current.contributions,
        abstained=did.abstained,
        version=did.version,
        software=did.software,
        contributed_s=max(0.0, now - did.contributed_at) if did.contributed_at else None,
        peak_memory_bytes=presence.peak_memory_bytes,
        up_bytes=carried[0],
        down_bytes=carried[1],
        examples=client.examples,
    )
    if did.agrees is not None:
        row.agrees = did.agrees
    return row


def _invitation(state: State, token_sha256: str, clients: Sequence[str], now: float) -> wire.ListInvitationsResponse:
    invitation = state.invitations[token_sha256]
    return wire.ListInvitationsResponse(
        invitation=identifier(token_sha256),
        tier=codec.tier_to_wire(invitation.tier),
        uses=invitation.uses,
        used=invitation.used,
        expires_at_s=invitation.expires_at,
        closed=closed(invitation, now),
        clients=clients,
    )


def _traffic(counts: tuple[ev.TrafficCount, ...]) -> list[wire.Traffic]:
    return [
        wire.Traffic(
            direction=count.direction,
            tier=codec.tier_to_wire(Tier(count.tier)) if count.tier else wire.TIER_UNSPECIFIED,
            phase=codec.phase_to_wire(Phase(count.phase)),
            kind=count.kind,
            payload_bytes=count.payload_bytes,
            messages=count.messages,
        )
        for count in counts
    ]


def _evaluation(evaluated: ev.Evaluated | None) -> wire.Evaluation | None:
    if evaluated is None:
        return None
    return wire.Evaluation(
        version=evaluated.version, metrics=evaluated.metrics, loss=evaluated.loss, examples=evaluated.examples
    )


def _privacy(state: State) -> wire.PrivacyStatus | None:
    if (budget := state.budget) is None:
        return None
    return wire.PrivacyStatus(
        mode=state.run_file.privacy.mode,
        epsilon=budget.epsilon(state.most_released),
        epsilon_budget=budget.epsilon(budget.releases),
        delta=budget.delta,
        releases=state.most_released,
        releases_budget=budget.releases,
    )


def _metric(metric: Metric) -> wire.Metric:
    return wire.Metric(name=metric.name, best=metric.best, higher_is_better=metric.higher_is_better, share=metric.share)
