"""Graceful shutdown on SIGTERM and SIGINT, from a process's first moment to its last.

The kernel gives process 1 of a container no default handling of signals, and a library's import, a thread's computing or a
dead disk can hold an orderly end up for long. So a process installs `Stopping` before it imports anything slow. The first
signal raises Stopped in the main thread, or, within `told`, calls a function instead, which ends an event loop in order. The
process has `GRACE_S` seconds from then on; after that, or at a second signal, it is ended by force. That is safe at any
moment: what lasts is written whole or not at all, and what is left half done is removed at the next start.
"""

import _thread
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

GRACE_S = 1.5
SERVICE = {signal.SIGTERM: 0, signal.SIGINT: 130}
"""Exit codes of a service: stopping it is no failure."""
COMMAND = {number: 128 + number for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
"""Exit codes of a command, as shells expect them."""


class Stopped(BaseException):
    """A signal asks this process to end. `code`: its exit code."""

    def __init__(self, number: int, code: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number, self.code = number, code


class Stopping:
    """Hears the signals that are keys of `codes`, exit codes by signal. `number`: the first that came, 0 before."""

    def __init__(self, codes: Mapping[signal.Signals, int]) -> None:
        self._codes = codes
        self._notify: Callable[[], object] | None = None
        self.number = 0
        for number in codes:
            if not unheard(number):
                signal.signal(number, self._handle)

    @property
    def code(self) -> int:
        """The exit code that belongs to the signal. Only to be asked once there was one."""
        return self._codes[signal.Signals(self.number)]

    @contextmanager
    def told(self, notify: Callable[[], object]) -> Iterator[None]:
        """Within it a signal calls `notify`, in the main thread between any two instructions, and raises nothing. A signal
        that has come before is told at once."""
        before, self._notify = self._notify, notify
        if self.number:
            notify()
        try:
            yield
        finally:
            self._notify = before

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            os._exit(self.code)
        self.number = number
        force_after(GRACE_S, self.code)
        if self._notify is None:
            raise Stopped(number, self.code)
        self._notify()


def unheard(number: int) -> bool:
    """Whether a signal must stay ignored: a SIGHUP where nohup asks for that."""
    return number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN


def force_after(seconds: float, code: int, wanted: Callable[[], bool] = lambda: True) -> None:
    """End this process with an exit code, unless it has ended by then or `wanted`, asked then, says no. May be called in a
    signal handler."""

    def force() -> None:
        time.sleep(seconds)
        if wanted():
            os._exit(code)

    # Not threading.Thread: the signal may have interrupted one that is being started, which holds the lock for that.
    _thread.start_new_thread(force, ())
