"""The monotonic clock by which a coordinator waits.

Deadlines, "gone for", "up for" and the times learnt from contributions are differences between readings of one clock
that never jumps: Unix time as it was when the process started, plus the monotonic time since. Setting the system's clock
(by NTP after a wrong start, by hand) neither ends a round early nor makes it last longer. A reading that is stored (a
round's beginning and deadline) is an instant to show and, by its differences, a duration; after a restart the clock is
another one, and the open round gets its time again (`Restart`).

Calendar dates are for people: when an event was written, until when an invitation is valid. They come from the system's
clock (`Coordinator.date`).

The monotonic clock is CLOCK_MONOTONIC, as asyncio's, which stands still while a machine sleeps: nobody could be heard
then, so a round that was open when a laptop's lid was shut has its remaining time when it is opened again.
"""

import time
from collections.abc import Callable


def steady_clock(
    date: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic
) -> Callable[[], float]:
    """A clock that starts at the date, seconds since 1970, and then only counts the time that passes."""
    offset = date() - monotonic()
    return lambda: offset + monotonic()
