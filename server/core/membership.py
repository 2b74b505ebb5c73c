"""Decisions about membership: invitations, enrolment, revocation.

Pure, as all of `decide`: secrets come hashed, and the date is given. An invitation is valid until a date on the calendar,
or until it is revoked. An enrolment that is sent again with the same
credential is the same one, so a device whose answer was lost is not a second client and does not need a second token.
"""

from collections import defaultdict
from collections.abc import Mapping

from zowarmup.common.messages.values import Phase
from zowarmup.server.core import commands as cmd
from zowarmup.server.core import events as ev
from zowarmup.server.core.errors import Rejected
from zowarmup.server.core.state import IssuedInvitation, State

LONGEST_INVITATION_S = 366 * 86400.0
SET_BACK_S = 86400.0
"""A clock that was corrected by up to this much leaves invitations valid; set back further, it would prolong them."""
IDENTIFIER_DIGITS = 12
MOST_USES = 100_000
MOST_MEMBERS = 200_000


def identifier(token_sha256: str) -> str:
    """An invitation's name for people: the first digits of its token's hash, which say nothing of the token."""
    return token_sha256[:IDENTIFIER_DIGITS]


def came_by(state: State) -> Mapping[str, list[str]]:
    """The clients, revoked or not, that enrolled with an invitation, in ascending order, by the hash of its token."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in sorted(state.clients):
        if token_sha256 := state.clients[name].invitation:
            found[token_sha256].append(name)
    return found


def closed(invitation: IssuedInvitation, date: float) -> str:
    """Why nobody can enrol with an invitation (any more): a clause; empty while it is open."""
    if invitation.revoked:
        return f"revoked: {invitation.revoked}"
    if invitation.used >= invitation.uses:
        return "used up"
    if date >= invitation.expires_at:
        return "expired"
    return "the coordinator's clock is set back" if date < invitation.issued_at - SET_BACK_S else ""


def member_with(state: State, credential_sha256: str) -> str | None:
    """The client, revoked or not, that has this credential."""
    return state.credentials.get(credential_sha256)


def check_member(state: State, name: str) -> None:
    """Raises Rejected where a client is not a member (any more)."""
    if (client := state.clients.get(name)) is None:
        raise Rejected("unknown_client", f"client {name[:80]!r} is not enrolled in this run")
    if client.revoked:
        raise revoked(name, client.revoked)


def revoked(client: str, reason: str) -> Rejected:
    """What a client hears that was shut out."""
    return Rejected("revoked", f"{client} has been revoked ({reason}): it can take part again only as a new client")


def invite(command: cmd.Invite) -> tuple[ev.Event, ...]:
    """The events of issuing an invitation. Raises Rejected."""
    if not 0 < command.expires_s <= LONGEST_INVITATION_S:
        raise Rejected("invalid", f"expires_s = {command.expires_s:g}: must be above 0 and at most 366 days")
    if not 1 <= command.uses <= MOST_USES:
        raise Rejected("invalid", f"uses = {command.uses}: must be 1 to {MOST_USES}")
    until = command.date + command.expires_s
    return (ev.InvitationIssued(command.token_sha256, command.tier, until, command.uses, command.date),)


def enrol(command: cmd.Enrol, state: State) -> tuple[ev.Event, ...]:
    """The events of an enrolment, none where it is sent again. Raises Rejected."""
    if (known := member_with(state, command.credential_sha256)) is not None:
        check_member(state, known)
        return ()
    if state.phase is Phase.FINISHED:
        raise Rejected("finished", "this run is finished; there is nothing left to join")
    if command.token_sha256 or command.invited:
        _check_invitation(state, command)
    if len(state.clients) >= MOST_MEMBERS:
        raise Rejected("fleet_full", f"{MOST_MEMBERS} clients have enrolled, and a run has no room for more")
    if bool(command.identity) != state.run_file.privacy.secure_aggregation:
        needs = "needs" if state.run_file.privacy.secure_aggregation else "has no use for"
        raise Rejected("invalid", f"identity: this run {needs} a public key of the device, for secure aggregation")
    name, credential = _free(state, command.name), command.credential_sha256
    return (
        ev.ClientEnrolled(
            name, command.tier, command.examples, credential, command.token_sha256, identity=command.identity
        ),
    )


def _free(state: State, name: str) -> str:
    """The name, or the first of name-2, name-3 ... that is free. Where there are gaps it may be a later one: it is found
    by doubling and halving, as thousands of devices may have the name that their image came with."""
    if name not in state.clients:
        return name
    taken, free = 1, 2
    while f"{name}-{free}" in state.clients:
        taken, free = free, 2 * free
    while free - taken > 1:
        middle = (taken + free) // 2
        if f"{name}-{middle}" in state.clients:
            taken = middle
        else:
            free = middle
    return f"{name}-{free}"


def _check_invitation(state: State, command: cmd.Enrol) -> None:
    again = "ask the operator for a new one (zowarmup invite)"
    if not command.token_sha256:
        raise Rejected("invitation_missing", f"this run is joined by invitation, and none was shown: {again}")
    invitation = state.invitations.get(command.token_sha256)
    if invitation is None:
        raise Rejected("invitation_unknown", f"this coordinator issued no such invitation: {again}")
    if invitation.revoked:
        raise Rejected("invitation_revoked", f"the invitation has been revoked ({invitation.revoked}): {again}")
    if command.date < invitation.issued_at - SET_BACK_S:
        found = "the coordinator's clock shows a date before the invitation was issued"
        raise Rejected("invitation_expired", f"{found}, so it may have expired: have that clock set, or {again}")
    if command.date >= invitation.expires_at:
        raise Rejected("invitation_expired", f"the invitation has expired: {again}")
    if invitation.used >= invitation.uses:
        times = "once" if invitation.uses == 1 else f"{invitation.uses} times"
        raise Rejected("invitation_used", f"the invitation was good for joining {times} and is used up: {again}")
    if command.tier is not invitation.tier:
        raise Rejected(
            "tier_not_invited",
            f"the invitation is for the {invitation.tier} tier: join with --tier {invitation.tier}, or {again}",
        )


def is_good(state: State, token_sha256: str, date: float) -> bool:
    """Whether an invitation has uses left at a date, and was not revoked."""
    invitation = state.invitations.get(token_sha256)
    if invitation is None or invitation.revoked:
        return False
    return invitation.used < invitation.uses and date < invitation.expires_at


def revoke(command: cmd.Revoke, state: State) -> tuple[ev.Event, ...]:
    """The events of shutting a client out, and its invitation where that is asked. Raises Rejected."""
    client = state.clients.get(command.client)
    if client is None:
        raise Rejected("unknown_client", f"client {command.client[:80]!r} is not enrolled in this run")
    shut_out = () if client.revoked else (ev.ClientRevoked(command.client, command.reason),)
    if not command.with_invitation or not client.invitation:
        return shut_out
    return (*shut_out, *_withdraw(state, client.invitation, f"{command.client} came by it: {command.reason}"))


def invitation_named(state: State, given: str) -> str:
    """The token's hash of the invitation with that identifier. Raises Rejected where there is none."""
    found = [token for token in state.invitations if token.startswith(given)]
    if len(given) < IDENTIFIER_DIGITS or len(found) != 1:
        raise Rejected("not_found", f"there is no invitation {given[:80]!r}: `zowarmup invitations --all` lists them")
    return found[0]


def uninvite(command: cmd.Uninvite, state: State) -> tuple[ev.Event, ...]:
    """The events of revoking an invitation. Raises Rejected."""
    return _withdraw(state, invitation_named(state, command.invitation), command.reason)


def _withdraw(state: State, token_sha256: str, reason: str) -> tuple[ev.Event, ...]:
    return () if state.invitations[token_sha256].revoked else (ev.InvitationRevoked(token_sha256, reason),)
