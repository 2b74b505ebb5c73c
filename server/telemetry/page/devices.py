"""The devices on the page: what each does now, and what is known of it.

A device has a number, its place in the order of enrolment, by which changes name it. What it does is one of `STATES` and is
compared at every look. Its row (bytes, memory, when it was last heard of) is looked at when what it does has changed, and
else in turn, a part of the fleet at a time, so that a commit which goes to thousands of devices does not send as many rows.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from zowarmup.common.messages.values import Tier
from zowarmup.common.text import printable
from zowarmup.server.core.state import Client, Presence, State
from zowarmup.server.projections.participation import Participation, Participations

STATES = ("idle", "asked", "contributed", "abstains", "gone", "not seen", "revoked", "took part", "did not")
"""idle: connected, and not part of the round in progress; asked: drawn for the round in progress, which waits for its contribution; the last two are of a run without a coordinator."""
IDLE, ASKED, CONTRIBUTED, ABSTAINS, GONE, NOT_SEEN, REVOKED, TOOK_PART, DID_NOT = range(len(STATES))
PRESENT = (IDLE, ASKED, CONTRIBUTED, ABSTAINS)
FEWEST_ROWS, LOOKS = 50, 20
"""At each look so many rows are compared, or one in so many of the fleet's, whichever is more."""
LONGEST_TEXT = 200

Row = tuple[Any, ...]


class Devices:
    """What the page says of the devices.

    Args:
        participations: What each did last.
        carried: The bytes (up, down) of a device's messages since the coordinator started.
        live: Whether there is a coordinator that knows who is connected.
    """

    def __init__(
        self, participations: Participations, carried: Callable[[str], tuple[int, int]], live: bool = True
    ) -> None:
        self._participations, self._carried, self._live = participations, carried, live
        self._names: list[str] = []
        self._identities: list[Row] = []
        self._codes: list[int] = []
        self._contributed_at: list[float] = []
        self._rows: list[Row] = []
        self._next = 0
        self._seen: State | None = None
        self.fleet: Mapping[str, Mapping[str, int]] = {}

    def whole(self) -> dict[str, Any]:
        """Everything, as of the last look."""
        return {"devices": self._identities, "codes": self._codes, "rows": self._rows}

    def changes(self, state: State) -> dict[str, Any]:
        """What has changed since the last look: new `devices`, (number, state) pairs in one list, those that are `lit`
        because they have contributed, and `rows` by number."""
        found: dict[str, Any] = {}
        if state is not self._seen:
            self._seen = state
            found = self._look(state)
        if rows := self._changed_rows(state, found.pop("turned", ())):
            found["rows"] = rows
        return found

    def _look(self, state: State) -> dict[str, Any]:
        clients, presence = dict(state.clients.items()), dict(state.presence.items())
        new = list(clients)[len(self._names) :]
        for name in new:
            self._names.append(name)
            self._identities.append((printable(name, LONGEST_TEXT), clients[name].tier.value))
            self._codes.append(-1)
            self._contributed_at.append(self._participations[name].contributed_at)
            self._rows.append(())
        turned: list[int] = []
        pairs: list[int] = []
        lit: list[int] = []
        numbers = Counter[tuple[Tier, int]]()
        current = state.current
        asked = current.seeds if current is not None and not current.closed else {}
        given = current.contributions if current is not None else {}
        for number, (name, client) in enumerate(clients.items()):
            did = self._participations[name]
            code = self._code(client, presence.get(name), did, name in asked, name in given)
            if code != (before := self._codes[number]):
                self._codes[number] = code
                pairs += (number, code)
                if code not in PRESENT[:3] or before not in PRESENT[:3]:
                    turned.append(number)
            if did.contributed_at != self._contributed_at[number]:
                self._contributed_at[number] = did.contributed_at
                lit.append(number)
            numbers[client.tier, code] += 1
        self.fleet = {
            tier.value: {
                "members": sum(numbers[tier, code] for code in range(len(STATES)) if code != REVOKED),
                "connected": sum(numbers[tier, code] for code in PRESENT),
            }
            for tier in Tier
        }
        found = {"devices": self._identities[-len(new) :] if new else [], "codes": pairs, "lit": lit, "turned": turned}
        return {name: value for name, value in found.items() if value}

    def _code(self, client: Client, here: Presence | None, did: Participation, asked: bool, given: bool) -> int:
        if client.revoked:
            return REVOKED
        if not self._live:
            return TOOK_PART if did.contributed_at else DID_NOT
        if here is None or not here.connected:
            return GONE if did.changed_at else NOT_SEEN
        if did.abstained:
            return ABSTAINS
        if given:
            return CONTRIBUTED
        return ASKED if asked else IDLE

    def _changed_rows(self, state: State, turned: "list[int] | tuple[()]") -> list[Row]:
        count = len(self._names)
        length = min(count, max(FEWEST_ROWS, -(-count // LOOKS)))
        looked = [(self._next + place) % count for place in range(length)] if count else []
        self._next = (self._next + length) % count if count else 0
        found = []
        for number in dict.fromkeys((*turned, *looked)):
            row = self._row(state, self._names[number])
            if row != self._rows[number]:
                self._rows[number] = row
                found.append((number, *row))
        return found

    def _row(self, state: State, name: str) -> Row:
        """contributed_at, changed_at (both by the coordinator's clock, seconds, 0 for never), peak memory, bytes up, bytes
        down, examples, version, whether the replica agrees, its program, and why it abstains or is revoked."""
        client, here, did = state.clients[name], state.presence.get(name), self._participations[name]
        why = client.revoked or did.abstained
        return (
            round(did.contributed_at, 1),
            round(did.changed_at, 1),
            0 if here is None else here.peak_memory_bytes,
            *self._carried(name),
            client.examples,
            did.version,
            did.agrees,
            printable(did.software, LONGEST_TEXT),
            printable(why, LONGEST_TEXT),
        )
