"""Payload bytes, counted where messages are made and read: by direction, tier, phase and kind.

Payload is serialised messages, without HTTP/2, TLS and TCP. Counts are saved with each commit, so they survive a
restart up to the last one.
"""

from collections.abc import Iterable

from zowarmup.common.work import Phase, Tier
from zowarmup.server.events import TrafficCount


class Traffic:
    """Counts that only grow, from `saved` on."""

    def __init__(self, saved: Iterable[TrafficCount] = ()) -> None:
        self._counts = {(c.direction, c.tier, c.phase, c.kind): (c.payload_bytes, c.messages) for c in saved}

    def up(self, tier: Tier | None, phase: Phase, kind: str, payload_bytes: int) -> None:
        """A message from a client; `tier` is None before it has enrolled."""
        self._add("up", tier, phase, kind, payload_bytes)

    def down(self, tier: Tier | None, phase: Phase, kind: str, payload_bytes: int) -> None:
        """A message to a client."""
        self._add("down", tier, phase, kind, payload_bytes)

    def counts(self) -> tuple[TrafficCount, ...]:
        return tuple(TrafficCount(*key, *count) for key, count in sorted(self._counts.items()))

    def _add(self, direction: str, tier: Tier | None, phase: Phase, kind: str, payload_bytes: int) -> None:
        key = (direction, str(tier or ""), str(phase), kind)
        had, messages = self._counts.get(key, (0, 0))
        self._counts[key] = (had + payload_bytes, messages + 1)
