"""Decorrelated back-off between attempts.

Decorrelated jitter: each wait is drawn between the first one and three times the last, up to a cap, so that a fleet
cut off at one moment does not come back at one moment.
"""

import random


class Backoff:
    """Seconds between attempts, from `first_s` to `cap_s`."""

    def __init__(self, first_s: float = 0.2, cap_s: float = 30.0) -> None:
        self._first_s, self._cap_s = first_s, cap_s
        self._last_s = first_s

    def next_s(self) -> float:
        self._last_s = min(self._cap_s, random.uniform(self._first_s, 3 * self._last_s))
        return self._last_s

    def reset(self) -> None:
        """What was tried worked."""
        self._last_s = self._first_s
