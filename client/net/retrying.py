"""Waiting for a coordinator that does not answer: the time between attempts, a look at its address, and what is said meanwhile.

Decorrelated jitter: each wait is drawn between the first one and three times the last, up to a cap, so that a fleet
cut off at one moment does not come back at one moment. What looks (`contact`) is loaded when it is first needed, and most
devices never need it.
"""

import asyncio
import contextlib
import logging
import math
import random
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from zowarmup.client.errors import Broken, Distrust, Final, Setback, StillPreparing, Unreached
from zowarmup.client.net.tls import Trust

if TYPE_CHECKING:
    from zowarmup.client.net.contact import Contact

log = logging.getLogger(__name__)
_T = TypeVar("_T")
LOOK_EVERY_S = 20.0
"""A look is shared by all who ask within so long."""
SAY_EVERY_S = 10.0
"""How often at most another reason is said for which the coordinator does not answer."""


class Lookout:
    """Looks at one address for all of a process who miss it, once in LOOK_EVERY_S however many ask."""

    def __init__(self, address: str, trust: Trust) -> None:
        self._address, self._trust = address, trust
        self._looking: asyncio.Future[Contact] | None = None
        self._looked_at = 0.0

    async def contact(self) -> "Contact":
        """What is there now, or was lately."""
        now = time.monotonic()
        if self._looking is None or (self._looking.done() and now - self._looked_at > LOOK_EVERY_S):
            self._looking, self._looked_at = asyncio.get_running_loop().create_future(), now
            # In a thread of its own: the process computes in the other one, and nothing waits for this one at the end.
            threading.Thread(target=self._look, args=(self._looking,), daemon=True).start()
        return await asyncio.shield(self._looking)

    async def why(self, otherwise: str) -> str:
        """A sentence on why the coordinator is not reached; `otherwise` where it seems to be there."""
        from zowarmup.client.net.contact import ContactFinding

        found = await self.contact()
        return otherwise if found.found is ContactFinding.COORDINATOR else found.sentence

    def _look(self, future: "asyncio.Future[Contact]") -> None:
        from zowarmup.client.net.contact import Contact, ContactFinding, look

        try:
            found = look(self._address, self._trust)
        except Exception as error:  # noqa: BLE001
            found = Contact(ContactFinding.FAILED, ContactFinding.FAILED.value.format(detail=error))

        def answer() -> None:
            if not future.done():
                future.set_result(found)

        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            future.get_loop().call_soon_threadsafe(answer)


class Backoff:
    """Seconds between attempts, from `first_s` to `cap_s`."""

    def __init__(self, first_s: float = 0.2, cap_s: float = 30.0) -> None:
        self._first_s, self._cap_s = first_s, cap_s
        self._last_s = first_s

    def next_s(self) -> float:
        self._last_s = min(self._cap_s, random.uniform(self._first_s, 3 * self._last_s))
        return self._last_s

    def reset(self) -> None:
        """What was tried worked."""
        self._last_s = self._first_s


async def with_retries(
    address: str, ask: Callable[[], Awaitable[_T]], lookout: Lookout, give_up_s: float = math.inf
) -> _T:
    """Ask until the coordinator answers, saying why it does not yet when that changes.

    Args:
        address: HOST:PORT, for sentences.
        ask: Asks once.
        lookout: Says what is at the address where nothing answers.
        give_up_s: How long to wait for an answer, seconds.

    Raises:
        Final: It refuses, or gives no answer within `give_up_s`.
    """
    delays, missing, began = Backoff(), Missing(), time.monotonic()
    while True:
        left_s = began + give_up_s - time.monotonic()
        try:
            async with asyncio.timeout(left_s if left_s < math.inf else None):
                return await ask()
        except Distrust as fault:
            from zowarmup.client.net.contact import ContactFinding

            found = await lookout.contact()
            reason = found.sentence if found.problem else fault.reason
            if (
                found.found is not ContactFinding.NOT_YET_VALID
            ):  # a device without a clock of its own is told the time later
                raise Final(f"cannot join {address}: {reason}") from None
        except Unreached as fault:
            reason = await lookout.why(fault.reason)
        except Broken as fault:
            reason = fault.reason
            if isinstance(fault, StillPreparing):  # it has answered
                delays.reset()
                began = time.monotonic()
        except TimeoutError:
            reason = await lookout.why("it does not answer")
        except Setback as setback:
            log.warning("%s; will ask %s in %.0f s", setback.reason, address, setback.absent_s or 0)
            await asyncio.sleep(setback.absent_s or delays.next_s())
            began = time.monotonic()
            continue
        if (waited_s := time.monotonic() - began) >= give_up_s:
            raise Final(f"no coordinator answered at {address} within {give_up_s:g} s (--connect-timeout): {reason}")
        if missing.worth_saying(reason, waited_s):
            log.warning("waiting for %s (%s); will join when it answers", address, reason)
        await asyncio.sleep(max(0.0, min(delays.next_s(), give_up_s - waited_s)))


class Missing:
    """What is said of a coordinator that does not answer: the reason, and another reason, but not all the time."""

    def __init__(self) -> None:
        self._reason, self._said_at = "", -math.inf

    def worth_saying(self, reason: str, now_s: float) -> bool:
        if reason == self._reason or now_s - self._said_at < SAY_EVERY_S:
            return False
        self._reason, self._said_at = reason, now_s
        return True
