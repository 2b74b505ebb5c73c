"""The devices on the page: what each does now, and what is known of it.

A device has a number, its place in the order of enrolment, by which changes name it. What it does is one of `STATES`. Of all it is
looked at where somebody has enrolled, come or gone; else of those that the rounds since the last look were about. Its row
(bytes, memory, when it was last heard of) is looked at when what it does has changed, and else in turn, a part of the fleet at
a time, so that a commit which goes to thousands of devices does not send as many rows.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from zowarmup.common.messages.values import Tier
from zowarmup.common.text import printable
from zowarmup.server.core.state import Client, Presence, State
from zowarmup.server.projections.participation import Participation, Participations

STATES = ("idle", "asked", "contributed", "abstains", "gone", "not seen", "revoked", "took part", "did not")
"""idle: connected, and not part of the round in progress; asked: drawn for the round in progress, which waits for its contribution; the last two are of a run without a coordinator."""
IDLE, ASKED, CONTRIBUTED, ABSTAINS, GONE, NOT_SEEN, REVOKED, TOOK_PART, DID_NOT = range(len(STATES))
PRESENT = (IDLE, ASKED, CONTRIBUTED, ABSTAINS)
IN_PASSING = (IDLE, ASKED, CONTRIBUTED)
FEWEST_ROWS, LOOKS = 50, 40
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
        self._numbers: dict[str, int] = {}
        self._identities: list[Row] = []
        self._records: list[Participation] = []
        self._codes: list[int] = []
        self._contributed_at: list[float] = []
        self._rows: list[Row] = []
        self._counts = Counter[tuple[Tier, int]]()
        self._in_round: set[int] = set()
        self._next = 0
        self._seen: State | None = None

    def whole(self) -> dict[str, Any]:
        """Everything, as of the last look."""
        return {"devices": self._identities, "codes": self._codes, "rows": self._rows}

    def changes(self, state: State) -> dict[str, Any]:
        """What has changed since the last look: new `devices`, (number, state) pairs in one list, those that are `lit`
        because they have contributed, and `rows` by number."""
        new = self._enrolled(state)
        turn = self._turn()
        lit = self._contributed(len(self._records) - len(new))
        pairs, turned = self._turned(state, {*turn, *lit})
        rows = self._changed_rows(state, dict.fromkeys((*turned, *turn)))
        self._seen = state
        found = {"devices": new, "codes": pairs, "lit": lit, "rows": rows}
        return {name: value for name, value in found.items() if value}

    def fleet(self) -> dict[str, dict[str, int]]:
        """How many members each tier has, and how many of them are connected, as of the last look."""
        members = [code for code in range(len(STATES)) if code != REVOKED]
        return {
            tier.value: {
                "members": sum(self._counts[tier, code] for code in members),
                "connected": sum(self._counts[tier, code] for code in PRESENT),
            }
            for tier in Tier
        }

    def _enrolled(self, state: State) -> list[Row]:
        """The identities of those that have enrolled since the last look."""
        if len(state.clients) == len(self._numbers):
            return []
        new = list(state.clients.items())[len(self._numbers) :]
        for name, client in new:
            record = self._participations.of(name)
            self._numbers[name] = len(self._numbers)
            self._identities.append((printable(name, LONGEST_TEXT), client.tier.value))
            self._records.append(record)
            self._codes.append(-1)
            self._contributed_at.append(record.contributed_at)
            self._rows.append(())
        return self._identities[-len(new) :]

    def _turn(self) -> list[int]:
        """Whose turn it is."""
        count = len(self._records)
        length = min(count, max(FEWEST_ROWS, -(-count // LOOKS)))
        turn = [(self._next + place) % count for place in range(length)]
        self._next = (self._next + length) % count if count else 0
        return turn

    def _contributed(self, known: int) -> list[int]:
        """Those of the first `known` that have contributed since the last look."""
        times = [record.contributed_at for record in self._records]
        if times == self._contributed_at:
            return []
        before, self._contributed_at = self._contributed_at, times
        return [number for number in range(known) if times[number] != before[number]]

    def _turned(self, state: State, others: set[int]) -> tuple[list[int], list[int]]:
        """(number, state) pairs, in one list, of those that do something else than at the last look, and which of them have come,
        gone or abstained."""
        if state is self._seen:
            return [], []
        clients, presence = dict(state.clients.items()), dict(state.presence.items())
        current, seen = state.current, self._seen
        asked = current.seeds if current is not None and not current.closed else {}
        given = current.contributions if current is not None else {}
        everyone = seen is None or state.clients is not seen.clients or state.presence is not seen.presence
        names = clients if everyone else [*asked, *given]
        looked = {*map(self._numbers.__getitem__, names), *self._in_round, *others}
        identities = list(self._numbers) if not everyone else list(clients)
        pairs: list[int] = []
        turned: list[int] = []
        for number in sorted(looked):
            name = identities[number]
            client = clients[name]
            code = self._code(client, presence.get(name), self._records[number], name in asked, name in given)
            if code == (before := self._codes[number]):
                continue
            self._codes[number] = code
            self._counts[client.tier, before] -= 1
            self._counts[client.tier, code] += 1
            pairs += (number, code)
            if code not in IN_PASSING or before not in IN_PASSING:
                turned.append(number)
            (self._in_round.add if code in (ASKED, CONTRIBUTED) else self._in_round.discard)(number)
        return pairs, turned

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

    def _changed_rows(self, state: State, numbers: Iterable[int]) -> list[Row]:
        found = []
        names = list(self._numbers)
        for number in numbers:
            row = self._row(state, names[number])
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
