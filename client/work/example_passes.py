"""The passes of a release under differential privacy: of one example each, and a pass that fails is a loss that is not finite.

What an example contributes must follow from this example alone, whatever program the coordinator has made up: a graph may mix the rows of a batch,
may fail at one of them, and may take any time at it. So no two examples share a pass; a failure, for whatever reason, makes the example count as
nothing (`common.algorithms.private_release`), and neither the contribution nor its being sent depends on it; and the time
that a contribution may take is shared out evenly among the examples, so that none has less of it because of another. The
coordinator is not told. How long an answer takes is not hidden (docs/security.md).
"""

import logging
import math
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from zowarmup.client.store.passes import PassFile
from zowarmup.common.text import in_words

log = logging.getLogger(__name__)
_T = TypeVar("_T")
LONGEST_WHY = 300


class ExamplePasses:
    """Those of one data set.

    Args:
        examples: How many there are.
        contribution_s: How long the passes of a contribution may take together, seconds; each example has its part.
        file: Where it is noted what passes; None: nowhere.
    """

    def __init__(self, examples: int, contribution_s: float = math.inf, file: PassFile | None = None) -> None:
        self._share_s, self._file = contribution_s / examples, file
        self._failed = np.zeros(examples, np.bool_)
        self._took_s = np.zeros(examples)
        self._why = ""

    def begin(self) -> None:
        """A release begins: what failed in the one before is tried again."""
        self._failed[:], self._took_s[:], self._why = False, 0.0, ""

    def attempt(self, example: int, compute: Callable[[], _T]) -> _T | None:
        """What a pass of an example gives; None where it fails, and from then on until the next release, and where a process has ended
        in one."""
        if self._failed[example] or (self._file is not None and self._file.leaves_out(example)):
            return None
        began = time.monotonic()
        if self._file is not None:
            self._file.enter(example)
        try:
            found = compute()
        except Exception as error:  # noqa: BLE001  whatever a program can bring about
            self._fail(example, in_words(error, LONGEST_WHY))
            return None
        finally:
            if self._file is not None:
                self._file.leave(example)
            self._took_s[example] += time.monotonic() - began
        if self._took_s[example] > self._share_s:
            words = "its passes take longer than its part of the time that this device works on a contribution"
            self._fail(example, f"{words}, {self._share_s:.3g} s (contribution_s in --policy)")
            return None
        return found

    def end(self, round_number: int) -> None:
        """Say in this device's log what has failed."""
        failed = int(np.count_nonzero(self._failed))
        if failed:
            log.warning(
                "round %d: %d of %d examples failed and count as nothing in it; the first: %s",
                round_number,
                failed,
                self._failed.size,
                self._why,
            )
        if self._file is not None and (ended := self._file.left_out):
            log.warning(
                "round %d: %d of %d examples are left out, as a process of this device ended while it computed them",
                round_number,
                ended,
                self._failed.size,
            )

    def _fail(self, example: int, why: str) -> None:
        self._why = self._why or why
        self._failed[example] = True
