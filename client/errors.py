"""Errors on a device, by whose fault they are.

`Final` ends the client with one sentence for people and exit code 1. `Broken` is the network's or the coordinator's
passing trouble: the client waits and tries again.

What an error says is for this device's own log. What a coordinator hears of one, `told_of` says: an error's own words may have words of
the data in them.
"""

from zowarmup.common.text import in_words, is_own, printable

PRIVATELY = "it could not compute its part, and its own log says why"
"""What a coordinator hears of an error of which it may hear no more."""


def told_of(error: Exception, private: bool, longest: int) -> str:
    """What a coordinator may hear of an error.

    Args:
        error: That kept a device from contributing.
        private: Whether the run is under differential privacy or has secure aggregation: then nothing may follow from the data but what
            was noised or masked.
        longest: How many characters it may have.

    Returns:
        What the error has to be `told`, where it has that; else, of a private run, one sentence for all errors; else its own words, where it
        was raised by this package's own code, which says numbers and settings, and what kind of an error it is and where, where other
        code raised it, which may say anything.
    """
    told = getattr(error, "told", "")
    if not told and private:
        told = PRIVATELY
    if not told and isinstance(error, Final | Setback):
        told = str(error)
    if not told and is_own(error):
        told = str(error)
    return (told or in_words(error, longest, words=False))[:longest]


class Final(Exception):
    """Trying again would not help. Its text is one sentence, on one line whatever a coordinator or a file had in it, that
    says what is wrong and what to do. `told`: what a coordinator hears in its place, in a private run too; it must have nothing of the
    data. Empty: its own sentence, but in a private run."""

    def __init__(self, sentence: str, told: str = "") -> None:
        super().__init__(printable(sentence))
        self.told = told


class Limit(Final):
    """A `Final` that follows from what the owner allows or the run's budget, and from how much of that is used up alone: a coordinator may
    always hear it."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, sentence)


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
    `absent_s` seconds (None: for a while, longer each time) and then tries again. `told`: as of Final."""

    def __init__(self, reason: str, absent_s: float | None = None, told: str = "") -> None:
        super().__init__(reason)
        self.reason, self.absent_s, self.told = reason, absent_s, told
