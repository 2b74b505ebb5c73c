"""Refused calls since the coordinator's start, counted by reason."""

from collections import Counter


class Refusals:
    """Reasons are the coordinator's own words, so there are few of them whatever the network sends."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def count(self, reason: str) -> None:
        self._counts[reason] += 1

    def counts(self) -> tuple[tuple[str, int], ...]:
        """(reason, how often), in ascending order of reason."""
        return tuple(sorted(self._counts.items()))
