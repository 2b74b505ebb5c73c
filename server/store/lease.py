"""The lease of a run that several coordinators share: whoever holds it leads, and it alone decides, appends and deletes.

`Lease` is the contract, which every implementation is tested against; `MemoryLease` keeps it in the process, for tests. A lease
grows its epoch by one each time it is taken, and every write of a leader names the epoch that it leads in: a leader that was paused
or cut off while another took the lease is refused (`Fenced`). That, and not the time, is what keeps two leaders apart: an expired lease
is still of its holder's epoch until another takes it, and until then the holder may write and renew.
"""

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from zowarmup.common.settings.addresses import host_and_port
from zowarmup.server.store.event_log import Fenced

_SECRET = re.compile(r"[0-9a-f]{64}")
_CERTIFICATE = "-----BEGIN CERTIFICATE-----"
LONGEST_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A coordinator that leads, or would.

    Args:
        name: The process's, which no other coordinator of the run has.
        address: HOST:PORT that the others reach it at.
        secret: What they show it, 32 random bytes in hex.
        authority: The certificate (PEM) that vouches for the one it shows; empty where it listens in plain text.
    """

    name: str
    address: str
    secret: str = field(repr=False)
    authority: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if not (0 < len(self.name) <= 128 and self.name.isprintable()):
            raise ValueError(f"a coordinator's name is {self.name!r}: it must be 1 to 128 printable characters")
        host_and_port(self.address)
        if not _SECRET.fullmatch(self.secret):
            raise ValueError("a coordinator's secret must be 64 hexadecimal digits")
        if self.authority and _CERTIFICATE not in self.authority:
            raise ValueError("a coordinator's authority must be a certificate in PEM, or empty")


@dataclass(frozen=True, slots=True)
class Held:
    """The lease as it is. `expires_in_s`: by the store's own clock, negative once it has expired."""

    epoch: int
    holder: Holder
    expires_in_s: float

    def __post_init__(self) -> None:
        if self.epoch < 1:
            raise ValueError(f"a lease's epoch is {self.epoch}: it must be 1 or more")


class Lease(Protocol):
    """Used by any thread. Every call blocks, and raises LedgerError where the store is away."""

    def look(self) -> Held | None:
        """The lease; None where nobody has ever taken it."""
        ...

    def take(self, holder: Holder, lasts_s: float) -> Held | None:
        """Take it in a new epoch, where it is free or has expired.

        Args:
            holder: Who takes it.
            lasts_s: For how long, seconds, unless it is renewed.

        Returns:
            The lease; None where it has not expired, whoever holds it: the holder renews it instead.
        """
        ...

    def renew(self, epoch: int, lasts_s: float) -> None:
        """Let it expire so many seconds from now. Raises Fenced where it is of another epoch by now."""
        ...

    def give_up(self, epoch: int) -> None:
        """Let it expire at once, where it still is of that epoch."""
        ...


class MemoryLease:
    """A lease that lasts as long as the object. `clock`: seconds, monotonic."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._lock = clock, threading.RLock()
        self._epoch, self._expires_at = 0, 0.0
        self._holder: Holder | None = None

    def look(self) -> Held | None:
        """See `Lease`."""
        with self._lock:
            return None if self._holder is None else Held(self._epoch, self._holder, self._expires_at - self._clock())

    def take(self, holder: Holder, lasts_s: float) -> Held | None:
        """See `Lease`."""
        require_lasting(lasts_s)
        with self._lock:
            now = self._clock()
            if self._holder is not None and now < self._expires_at:
                return None
            self._epoch, self._holder, self._expires_at = self._epoch + 1, holder, now + lasts_s
            return Held(self._epoch, holder, lasts_s)

    def renew(self, epoch: int, lasts_s: float) -> None:
        """See `Lease`."""
        require_lasting(lasts_s)
        with self.leading(epoch):
            self._expires_at = self._clock() + lasts_s

    def give_up(self, epoch: int) -> None:
        """See `Lease`."""
        with self._lock:
            if epoch == self._epoch:
                self._expires_at = self._clock()

    @contextlib.contextmanager
    def leading(self, epoch: int) -> Iterator[None]:
        """Nobody takes the lease meanwhile: what makes a write in memory one with the look at the epoch. Raises Fenced where it is of
        another."""
        with self._lock:
            if epoch != self._epoch:
                raise superseded(self._epoch, epoch)
            yield


def superseded(now: int, epoch: int) -> Fenced:
    """The refusal of a writer that leads in `epoch` where the lease is of epoch `now`."""
    return Fenced(f"another coordinator leads by now: the lease is of epoch {now}, and this one led in epoch {epoch}")


def require_lasting(lasts_s: float) -> None:
    """Raises ValueError where a lease cannot last so long."""
    if not 0 < lasts_s <= LONGEST_S:
        raise ValueError(f"a lease lasts {lasts_s:g} s: it must be above 0 and at most {LONGEST_S:g}")
