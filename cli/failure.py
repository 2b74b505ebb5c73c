"""Errors of a command: a sentence and an exit code.

Every failure meant for a person is one of these: a sentence that names what is wrong and the remedy, and the exit
code. Whatever else is raised, `common/system/ending.py` puts into words.
"""

import signal


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
