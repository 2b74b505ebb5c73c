"""A coordinator's part in who leads: it takes the lease where that is free, renews it while it leads, and says who leads otherwise.

A leader that cannot reach the store goes on, and renews the lease as soon as it can, unless another has taken it meanwhile: what
it appends is refused then in any case. All that is read from the store is read in a thread of its own, so that a write that
hangs does not cost the lease.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from zowarmup.server.store.event_log import Fenced, LedgerError
from zowarmup.server.store.lease import Held, Holder, Lease

log = logging.getLogger(__name__)
_T = TypeVar("_T")

RENEWALS = 3
"""So often is a lease renewed before it would expire."""
LOOKS = 8
"""So often does a coordinator that does not lead look at the lease in that time."""
REMIND_S = 30.0


class Election:
    """One of a run's coordinators.

    Args:
        lease: The run's.
        holder: This coordinator.
        lasts_s: How long a lease lasts, seconds.
        follow: Is told of every leader but this one; of None where the lease has expired and another may be taking it.
    """

    def __init__(self, lease: Lease, holder: Holder, lasts_s: float, follow: Callable[[Held | None], None]) -> None:
        self.holder, self.lasts_s = holder, lasts_s
        self.epoch = 0
        """Of the lease that this one holds; 0 for none."""
        self.took = asyncio.Event()
        self._lease, self._follow = lease, follow
        self._followed: tuple[int, bool] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lease")
        self._troubled_at = 0.0

    async def begin(self) -> None:
        """Look at the lease for the first time, and take it where it is free. Raises LedgerError."""
        await self._look()

    async def run(self) -> None:
        """Until cancelled. Raises Fenced where this one has lost the lease."""
        while True:
            await asyncio.sleep(self.lasts_s / (RENEWALS if self.epoch else LOOKS))
            try:
                await (self._renew() if self.epoch else self._look())
                self._troubled_at = 0.0
            except Fenced:
                raise
            except LedgerError as error:
                self._remind(error)

    async def leave(self) -> None:
        """Give the lease up, so that another takes it at once."""
        epoch, self.epoch = self.epoch, 0
        try:
            if epoch:
                await self._in_thread(lambda: self._lease.give_up(epoch))
        except LedgerError as error:
            log.warning("the lease could not be given up: %s; another takes it in %.0f s", error, self.lasts_s)
        self._thread.shutdown(wait=False)

    async def _look(self) -> None:
        held = await self._in_thread(self._lease.look)
        if held is None or held.expires_in_s <= 0:
            taken = await self._in_thread(lambda: self._lease.take(self.holder, self.lasts_s))
            if taken is not None:
                self.epoch = taken.epoch
                log.info("this coordinator leads from now on (%s, epoch %d)", self.holder.name, taken.epoch)
                self.took.set()
                return
            held = await self._in_thread(self._lease.look)
        leads = held is not None and held.expires_in_s > 0
        found = (held.epoch if held else 0, leads)
        if found != self._followed:
            self._followed = found
            self._follow(held if leads else None)

    async def _renew(self) -> None:
        epoch = self.epoch
        await self._in_thread(lambda: self._lease.renew(epoch, self.lasts_s))

    def _remind(self, error: LedgerError) -> None:
        now = asyncio.get_running_loop().time()
        if not self._troubled_at or now > self._troubled_at + REMIND_S:
            self._troubled_at = now
            log.error("the lease cannot be read: %s; waiting", error)

    async def _in_thread(self, job: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, job)
