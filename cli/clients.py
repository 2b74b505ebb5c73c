"""`zowarmup clients`: one line per client, aligned, in plain text.

On a terminal the lines fit its width: columns that matter least are left out first. Into a file or a pipe all are written.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from zowarmup.cli.units import counted, size
from zowarmup.common.messages.values import Tier

REASONS_SHOWN = 20
NARROWEST_NAME = 8
_DROPPED_FIRST = ("program", "memory", "since", "last", "down", "up", "tier")


@dataclass(frozen=True, slots=True)
class Participant:
    """A client and what it did last. `since_s`: how long it has been connected or gone, None where it has not been seen
    since the coordinator started; `round`: the open one that it takes part in, 0 for none; `abstained`: why it last did,
    empty where it has contributed since; `agrees`: whether the digest that it last reported is the run's, None where it
    has reported none; `contributed_s`: how long ago it last contributed; `up_bytes` and `down_bytes`: on the wire, since
    the coordinator started."""

    name: str
    tier: Tier
    connected: bool
    since_s: float | None
    revoked: str
    round: int
    contributed: bool
    abstained: str
    version: int
    agrees: bool | None
    software: str
    contributed_s: float | None
    peak_memory_bytes: int
    up_bytes: int
    down_bytes: int
    examples: int

    @property
    def state(self) -> str:
        """In a word or two."""
        if self.revoked:
            return "revoked"
        if not self.connected:
            return "not seen" if self.since_s is None else "gone"
        if self.abstained:
            return "abstains"
        if self.round:
            return f"contributed {self.round}" if self.contributed else f"in round {self.round}"
        return "connected"

    def to_json(self) -> dict[str, Any]:
        return {"state": self.state, **asdict(self)}


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


def _for(seconds: float | None) -> str:
    """A length of time in one unit: 12 s, 4 min, 2 h, 3 d."""
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
    "since": lambda client: _for(client.since_s),
    "version": _version,
    "last": lambda client: _for(client.contributed_s),
    "memory": lambda client: size(client.peak_memory_bytes) if client.peak_memory_bytes else "-",
    "up": lambda client: size(client.up_bytes) if client.up_bytes else "-",
    "down": lambda client: size(client.down_bytes) if client.down_bytes else "-",
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
