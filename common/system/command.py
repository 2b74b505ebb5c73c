"""Errors of a command, a sentence and an exit code each, and the signals that stop one that waits.

Every failure meant for a person is a CommandError: a sentence that names what is wrong and the remedy. Whatever else is
raised, `ending` puts into words.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from zowarmup.common.system.ending import COMMAND, GRACE_S, force_after, unheard


class CommandError(Exception):
    """Could not be done: exit code 1."""

    exit_code = 1


class Usage(CommandError):
    """Asked for something that cannot be: exit code 2."""

    exit_code = 2


class NoAnswer(CommandError):
    """Nobody answered in time; trying again may help. Exit code 1."""


class Interrupted(CommandError):
    """A signal asked us to stop: exit code 128 + its number, as shells expect."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}, and with it everything that was started")
        self.number = number
        self.exit_code = 128 + number


class Interrupts:
    """Counts the signals that asked us to stop. `last_resort`: called before this process is ended by force, as it is some
    time after the first signal where something does not let it come to an end."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self.last_resort: list[Callable[[], None]] = []
        self.over = False

    def note(self, number: int) -> None:
        self.received.append(number)
        if len(self.received) == 1:
            force_after(GRACE_S + 0.4, COMMAND[signal.Signals(number)], self._last)

    def _last(self) -> bool:
        for end in () if self.over else self.last_resort:
            end()
        return not self.over

    def check(self) -> None:
        """Raises Interrupted where one has come."""
        if self.received:
            raise Interrupted(self.received[0])

    def sleep(self, seconds: float) -> None:
        """Wait, but not beyond a signal. Raises Interrupted."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, 0.05))
        self.check()


@contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Within it SIGINT, SIGTERM and SIGHUP are only noted; a SIGHUP that is ignored, as nohup asks, stays so."""
    noted = Interrupts()

    def note(number: int, frame: FrameType | None) -> None:
        noted.note(number)

    before = {number: signal.signal(number, note) for number in COMMAND if not unheard(number)}
    try:
        yield noted
    finally:
        noted.over = True
        for number, handler in before.items():
            signal.signal(number, handler)
