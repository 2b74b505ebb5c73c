"""Which of a run's coordinators to talk to, and how long to wait before it is tried.

A device stays with one while it answers. When that breaks, it goes to another at once, but not at the same moment as all the
others that it has broken for: they spread over some seconds, and evenly over what is left. Once every one has failed since one
last worked, waits grow, as they do from the first where there is only one. Nothing here looks at a clock or draws from a
generator of its own: both are given.
"""

import random
from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

SPREAD_S = 3.0
"""Those that a coordinator breaks for come to the others within so long."""
STOPPING_S = 1.0
"""The same where it has said that it stops: they have lost nothing, and the others are known to be well."""
REST_S = 30.0
"""What has broken is not chosen again for so long, where another may be."""

_T = TypeVar("_T", bound=Hashable)
_SHARED = random.Random()


class Backoff:
    """Seconds between attempts, from `first_s` to `cap_s`.

    Decorrelated jitter: each wait is drawn between the first one and three times the last, up to a cap, so that a fleet cut off
    at one moment does not come back at one moment.
    """

    def __init__(self, first_s: float = 0.2, cap_s: float = 30.0, generator: random.Random = _SHARED) -> None:
        self._first_s, self._cap_s, self._generator = first_s, cap_s, generator
        self._last_s = first_s

    def next_s(self) -> float:
        self._last_s = min(self._cap_s, self._generator.uniform(self._first_s, 3 * self._last_s))
        return self._last_s

    def reset(self) -> None:
        """What was tried worked."""
        self._last_s = self._first_s


class Choice(Generic[_T]):
    """One of several, the `present` one; at first any.

    Args:
        options: What there is, at least one; each once.
        generator: Draws what is left to chance.
    """

    def __init__(self, options: Sequence[_T], generator: random.Random) -> None:
        self.options, self._generator = tuple(options), generator
        self.present = generator.choice(self.options)
        self._backoff = Backoff(generator=generator)
        self._broke_at: dict[_T, float] = {}
        self._tried: set[_T] = set()  # and found broken, since one last worked

    @property
    def exhausted(self) -> bool:
        """Whether all have failed since one last worked."""
        return self._tried.issuperset(self.options)

    def renew(self, options: Sequence[_T]) -> None:
        """There are others now. The present one stays, though it be none of them, until it breaks."""
        self.options = tuple(options)
        self._broke_at = {option: at for option, at in self._broke_at.items() if option in self.options}
        self._tried.intersection_update(self.options)

    def take(self, option: _T) -> None:
        """Begin with this one."""
        self.present = option

    def works(self) -> None:
        """The present one does what it should."""
        self.hears()
        self._tried.clear()
        self._broke_at.pop(self.present, None)

    def hears(self) -> None:
        """The present one is there, if it is not ready: waits begin anew."""
        self._backoff.reset()

    def back_off(self) -> float:
        """Seconds until the present one is tried again, which is not to blame; longer each time."""
        return self._backoff.next_s()

    def broke(self, option: _T, now_s: float, stopping: bool = False) -> float:
        """Something is wrong with one of them; another is the present one then, if it was.

        Args:
            option: The one.
            now_s: The time, seconds, by a clock that never jumps.
            stopping: Whether it has said that it stops.

        Returns:
            Seconds to wait before the present one is tried.
        """
        if option != self.present:  # somebody else has found that before
            return self._generator.uniform(0.0, SPREAD_S)
        self._broke_at[option] = now_s
        self._tried.add(option)
        if self.exhausted:
            self.present = min(self.options, key=self._broke_at.__getitem__)
            return self._backoff.next_s() / len(self.options)  # so each is asked as often as one alone would be
        untried = [other for other in self.options if other not in self._tried]
        rested = [other for other in untried if now_s - self._broke_at.get(other, -REST_S) >= REST_S]
        self.present = self._generator.choice(rested or untried)
        return self._generator.uniform(0.0, STOPPING_S if stopping else SPREAD_S)
