"""`zowarmup invitations`: one line per invitation in plain text, and what a revocation leaves valid."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from zowarmup.cli.units import counted
from zowarmup.common.messages.values import Tier

NAMED = 5


@dataclass(frozen=True, slots=True)
class InvitationStatus:
    """An invitation as its coordinator knows it, without its secret.

    Args:
        name: By which `zowarmup uninvite` knows it.
        expires_at_s: Until when it is good, seconds since 1970.
        closed: Why nobody can use it any more, as a clause; empty while it is open.
        clients: Who came by it, revoked or not.
    """

    name: str
    tier: Tier
    uses: int
    used: int
    expires_at_s: float
    closed: str
    clients: tuple[str, ...]

    @property
    def left(self) -> int:
        """How many more devices may use it."""
        return 0 if self.closed else self.uses - self.used

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "left": self.left}


def invitations_text(invitations: Sequence[InvitationStatus], every: bool) -> str:
    """The open ones, or all of them, a line each."""
    shown = [invitation for invitation in invitations if every or not invitation.closed]
    more = len(invitations) - len(shown)
    rest = f"; {counted(more, 'other')} used up, expired or revoked (--all)" if more else ""
    if not shown:
        return f"no invitation is open{rest}"
    lines = [
        f"{counted(len(shown), 'invitation')}{rest}",
        f"{'id':<12}  tier  left        until             came by it",
    ]
    lines += [
        f"{invitation.name:<12}  {invitation.tier:<4}  {f'{invitation.left} of {invitation.uses}':<10}  "
        f"{_when(invitation.expires_at_s)}  {listed(invitation.clients) or '-'}"
        + (f"  ({invitation.closed})" if invitation.closed else "")
        for invitation in shown
    ]
    return "\n".join(lines)


def revoked_text(client: str, invitation: InvitationStatus | None, open_enrolment: bool) -> str:
    """That a client is revoked, who else came by its invitation, and how it could come again."""
    lines = [f"{client} is revoked"]
    if invitation is not None:
        others = tuple(name for name in invitation.clients if name != client)
        came = f"{listed(others)} came by the same invitation, {invitation.name}" if others else ""
        if came:
            lines.append(f"{came}: `zowarmup revoke` them, too, if their line may have leaked")
        if invitation.left:
            left = counted(invitation.left, "more device")
            lines.append(
                f"the invitation that it came by is good for {left}, and so for whoever has that line: "
                f"`zowarmup uninvite {invitation.name}`"
            )
        elif invitation.closed.startswith("revoked"):
            lines.append(f"the invitation that it came by, {invitation.name}, is revoked")
    if open_enrolment:
        lines.append(
            'anyone may enrol here without an invitation, and so may it: server.enrolment = "invited" changes that'
        )
    return "\n".join(lines)


def listed(names: Sequence[str]) -> str:
    """The first few of the names, and how many more there are."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _when(expires_at_s: float) -> str:
    return f"{datetime.fromtimestamp(expires_at_s).astimezone():%Y-%m-%d %H:%M}"
