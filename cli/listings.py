"""`zowarmup clients` and `zowarmup invitations`: one line each, in plain text; and what a revocation leaves valid.

On a terminal the lines of clients fit its width: columns that matter least are left out first. Into a file or a pipe all
are written.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime

from zowarmup.cli.session.status import InvitationStatus, Participant
from zowarmup.common.text import amount, counted, listed

REASONS_SHOWN = 20
NARROWEST_NAME = 8
_DROPPED_FIRST = ("program", "memory", "since", "last", "down", "up", "tier")


def clients_text(clients: Sequence[Participant], width: int | None) -> str:
    """All of them, by name. `width`: columns of the terminal, None where it is none."""
    if not clients:
        return "no client has enrolled yet"
    ordered = sorted(clients, key=_natural)
    columns = {title: [cell(client) for client in ordered] for title, cell in _COLUMNS.items()}
    widths = {title: max(len(title), *map(len, cells)) for title, cells in columns.items()}
    for title in _DROPPED_FIRST:
        if width is None or _total(widths) - widths["name"] + min(widths["name"], NARROWEST_NAME) <= width:
            break
        del widths[title]
    if width is not None and _total(widths) > width:
        widths["name"] = max(NARROWEST_NAME, widths["name"] - (_total(widths) - width))
    lines = [_summary(ordered), _line({title: title for title in widths}, widths)]
    lines += [_line({title: columns[title][row] for title in widths}, widths) for row in range(len(ordered))]
    return "\n".join([*lines, *_reasons(ordered)])


def _summary(clients: Sequence[Participant]) -> str:
    members = [client for client in clients if not client.revoked]
    connected = sum(client.connected for client in members)
    counts = Counter(client.state for client in clients if not client.connected or client.revoked or client.abstained)
    others = "".join(f", {number:,} {state}" for state, number in sorted(counts.items()))
    return f"{counted(len(members), 'client')}: {connected:,} connected{others}"


def _reasons(clients: Sequence[Participant]) -> list[str]:
    """What does not fit a column: why a client is revoked or abstains, and whose replica is not the run's."""
    found = []
    for client in clients:
        if client.revoked:
            found.append(f"{client.name} is revoked: {client.revoked}")
        elif client.abstained:
            found.append(f"{client.name} abstains: {client.abstained}")
        if client.agrees is False:
            found.append(f"{client.name} reported a digest that is not the run's at version {client.version}")
    if len(found) > REASONS_SHOWN:
        found[REASONS_SHOWN:] = [f"and {len(found) - REASONS_SHOWN:,} more such lines: --json has all"]
    return ["", *found] if found else []


def _version(client: Participant) -> str:
    if not client.version and client.agrees is None:
        return "-"
    return f"{client.version}{'' if client.agrees is None else ' ok' if client.agrees else ' DIFFERS'}"


def in_one_unit(seconds: float | None) -> str:
    """A length of time in one unit: 12 s, 4 min, 2 h, 3 d; "-" where it is not known."""
    if seconds is None:
        return "-"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"


_COLUMNS: dict[str, Callable[[Participant], str]] = {
    "name": lambda client: client.name,
    "tier": lambda client: client.tier.value,
    "state": lambda client: client.state,
    "since": lambda client: in_one_unit(client.since_s),
    "version": _version,
    "last": lambda client: in_one_unit(client.contributed_s),
    "memory": lambda client: amount(client.peak_memory_bytes) if client.peak_memory_bytes else "-",
    "up": lambda client: amount(client.up_bytes) if client.up_bytes else "-",
    "down": lambda client: amount(client.down_bytes) if client.down_bytes else "-",
    "program": lambda client: client.software or "-",
}
_TO_THE_LEFT = ("name", "tier", "state", "version", "program")


def _line(cells: dict[str, str], widths: dict[str, int]) -> str:
    written = []
    for title, width in widths.items():
        cell = cells[title]
        if len(cell) > width:
            cell = cell[: width - 1] + "…"
        written.append(cell.ljust(width) if title in _TO_THE_LEFT else cell.rjust(width))
    return "  ".join(written).rstrip()


def _total(widths: dict[str, int]) -> int:
    return sum(widths.values()) + 2 * (len(widths) - 1)


def _natural(client: Participant) -> list[tuple[int, str]]:
    """pi-2 before pi-10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", client.name)]


NAMED = 5


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
        f"{_when(invitation.expires_at_s)}  {listed(invitation.clients, NAMED) or '-'}"
        + (f"  ({invitation.closed})" if invitation.closed else "")
        for invitation in shown
    ]
    return "\n".join(lines)


def revoked_text(client: str, invitation: InvitationStatus | None, open_enrolment: bool) -> str:
    """That a client is revoked, who else came by its invitation, and how it could come again."""
    lines = [f"{client} is revoked"]
    if invitation is not None:
        others = tuple(name for name in invitation.clients if name != client)
        came = f"{listed(others, NAMED)} came by the same invitation, {invitation.name}" if others else ""
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


def _when(expires_at_s: float) -> str:
    return f"{datetime.fromtimestamp(expires_at_s).astimezone():%Y-%m-%d %H:%M}"
