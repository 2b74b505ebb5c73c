"""The record of the example that is passed through the program, under differential privacy: what ended this process is then known.

A program can end the process of a device, and can be made so that one example does it. Whoever is at that example at that moment has it
marked here, in memory that the file shares, so a pass costs no write to a disk. The next process leaves the example out for the rest of
the run, and answers: an example ends a process once at most, and has no part in what is released. A process that is killed from
outside in the midst of a pass has one example marked as well, which is the price.
"""

from pathlib import Path

import numpy as np

from zowarmup.client.errors import Final

PASSING, ENDED = 1, 2


class PassFile:
    """A byte for each example: 0, PASSING while a pass of it goes on, ENDED where a process ended in one.

    Args:
        file: Of one member of one run.
        examples: How many it holds; a file for another number of them is begun anew.

    Raises:
        Final: The file cannot be written.
    """

    def __init__(self, file: Path, examples: int) -> None:
        try:
            if not file.exists() or file.stat().st_size != examples:
                file.write_bytes(bytes(examples))
            self._states = np.memmap(file, np.uint8, "r+", shape=(examples,))
        except OSError as error:
            raise Final(f"cannot write {file} ({error.strerror or error}): make it writable, with free space") from None
        self._states[self._states == PASSING] = ENDED

    @property
    def left_out(self) -> int:
        """How many examples are."""
        return int(np.count_nonzero(self._states == ENDED))

    def leaves_out(self, example: int) -> bool:
        """Whether a process has ended in a pass of it."""
        return bool(self._states[example] == ENDED)

    def enter(self, example: int) -> None:
        """A pass of it begins."""
        self._states[example] = PASSING

    def leave(self, example: int) -> None:
        """It is over."""
        self._states[example] = 0
