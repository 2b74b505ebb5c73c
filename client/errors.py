"""Errors on a device, by whose fault they are.

`Final` ends the client with one sentence for people and exit code 1. `Broken` is the network's or the coordinator's
passing trouble: the client waits and tries again.
"""

from zowarmup.common.text import printable


class Final(Exception):
    """Trying again would not help. Its text is one sentence, on one line whatever a coordinator or a file had in it, that
    says what is wrong and what to do."""

    def __init__(self, sentence: str) -> None:
        super().__init__(printable(sentence))


class Broken(Exception):
    """A call or the stream broke; `reason` says how, for the log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class StillPreparing(Broken):
    """The coordinator is there and not yet ready: it answers soon, and there is no need to wait ever longer."""


class CoordinatorStops(Broken):
    """The coordinator has said that it stops. Another, where there is one, is as good as it was."""


class Unreached(Broken):
    """No word came from a coordinator: the network, or something else at its address."""


class Distrust(Broken):
    """One side did not accept the other's certificate. Joining ends with it; a member tries again, for what answers may
    be something else in passing."""


class Declined(Exception):
    """The coordinator answered one request with no (a version it no longer keeps, a round that has closed), and `word` is
    its word for that. The stream goes on and brings something newer."""

    def __init__(self, sentence: str, word: str = "") -> None:
        super().__init__(sentence)
        self.word = word


class ComputingStopped(Exception):
    """The process was asked to end while it was computing."""


class Setback(Exception):
    """This device could not do what it was asked, for a reason of its own: `reason`, one line. It takes no part for
    `absent_s` seconds (None: for a while, longer each time) and then tries again."""

    def __init__(self, reason: str, absent_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.absent_s = reason, absent_s
