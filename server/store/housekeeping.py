"""Deferred work on disk: removal of files that are no longer needed.

Where the system refuses (no file descriptor is left, the disk fails, is full or read-only, a file is another user's), the run
goes on all the same: it is logged once, again every `REMIND_S` seconds while it lasts, and tried anew at the next occasion.
What must be durable before something is said is no housekeeping: there a refusal is `Unavailable`, or is waited out.
"""

import contextlib
import errno
import logging
import time
from collections.abc import Callable, Iterator

from zowarmup.server.store.blobs import DiskRefused

log = logging.getLogger(__name__)

REMIND_S = 60.0
PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""Errors of a machine that is short of something: the same may succeed later, unlike what a damaged file says (EIO)."""


class Housekeeping:
    """`clock`: seconds, monotonic. Used by any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._logged: dict[str, float] = {}

    @contextlib.contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """A piece of it, which may fail. `what` completes "cannot ... at the moment"."""
        try:
            yield
        except (OSError, DiskRefused) as error:
            now = self._clock()
            if now >= self._logged.get(what, -REMIND_S) + REMIND_S:
                self._logged[what] = now
                log.warning("cannot %s at the moment (%s); the run goes on, and it is tried again later", what, error)
        else:
            if self._logged.pop(what, None) is not None:
                log.info("can %s again", what)


def passes(error: Exception) -> bool:
    """Whether to try again: the machine is short of something. What is missing, damaged or cannot be read stays so."""
    return isinstance(error, DiskRefused) or (isinstance(error, OSError) and error.errno in PASSING)
