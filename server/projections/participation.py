"""The read model of what each client did last, for `zowarmup clients`.

It answers what the present state does not hold. Contributions and abstentions are in the ledger, so a restart knows them
again; streams and reports are not.
"""

from collections.abc import Callable
from dataclasses import dataclass

from zowarmup.common.messages.values import Scalars
from zowarmup.server.core import events as ev


@dataclass(slots=True)
class Participation:
    """`changed_at`: when its stream opened or closed, 0 where it has had none since the coordinator started;
    `contributed_at`: when it last contributed, 0 for never; both as the coordinator's clock reads, which never jumps (before its start: dates). `version`: of its replica, as last known;
    `agrees`: whether the digest that it last reported is the run's, None where it has reported none. `abstained`: why it
    last abstained, empty once it has contributed again. `software`: what it runs, in its own words."""

    changed_at: float = 0.0
    contributed_at: float = 0.0
    version: int = 0
    agrees: bool | None = None
    abstained: str = ""
    software: str = ""


class Participations:
    """By client. `digest_of`: the run's digest (hex) at a version, empty where there is no such version."""

    def __init__(self, digest_of: Callable[[int], str]) -> None:
        self._digest_of = digest_of
        self._clients: dict[str, Participation] = {}
        self._version = 0

    def __getitem__(self, client: str) -> Participation:
        return self._clients.get(client) or Participation()

    def record(self, at: float, event: ev.Event) -> None:
        """Fold an event, stamped `at` (unix seconds), in."""
        match event:
            case ev.RoundOpened():
                self._version = event.version
            case ev.Contributed():
                known = self.of(event.client)
                known.contributed_at, known.abstained = at, ""
                if isinstance(event.contribution, Scalars):
                    known.version = self._version
            case ev.Abstained():
                self.of(event.client).abstained = event.abstention.reason
            case ev.ClientConnected():
                known = self.of(event.client)
                known.changed_at, known.software = at, event.software
                self._position(known, event.version, event.digest)
            case ev.ClientReported():
                self._position(self.of(event.client), event.version, event.digest)
            case ev.ClientDisconnected():
                self.of(event.client).changed_at = at

    def of(self, client: str) -> Participation:
        """What is kept of a client and changes as events come; made where there is nothing yet."""
        return self._clients.setdefault(client, Participation())

    def _position(self, known: Participation, version: int, digest: str) -> None:
        known.version = version
        known.agrees = self._digest_of(version) == digest if digest else None
