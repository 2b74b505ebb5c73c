"""Waiting for a coordinator that does not answer: one answer, however long it takes, and what is said meanwhile."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from zowarmup.client.errors import Broken, CoordinatorStops, Distrust, Final, Setback, StillPreparing, Unreached
from zowarmup.client.net.coordinators import Coordinators

log = logging.getLogger(__name__)
_T = TypeVar("_T")
SAY_EVERY_S = 10.0
"""How often at most another reason is said for which the coordinator does not answer."""


async def with_retries(coordinators: Coordinators, ask: Callable[[], Awaitable[_T]], give_up_s: float = math.inf) -> _T:
    """Ask until a coordinator answers, saying why none does yet when that changes.

    Args:
        coordinators: Who may answer.
        ask: Asks the present one, once.
        give_up_s: How long to wait for an answer, seconds.

    Raises:
        Final: It refuses, or none gives an answer within `give_up_s`.
    """
    missing, began = Missing(), time.monotonic()
    while True:
        left_s = began + give_up_s - time.monotonic()
        place, refused, unreached, stopping = coordinators.place, "", False, False
        try:
            async with asyncio.timeout(left_s if left_s < math.inf else None):
                answer = await ask()
            coordinators.works()
            return answer
        except Distrust as fault:
            from zowarmup.client.net.contact import ContactFinding

            found = await coordinators.contact(place)
            reason = found.sentence if found.problem else fault.reason
            if (
                found.found is not ContactFinding.NOT_YET_VALID
            ):  # a device without a clock of its own is told the time later
                refused = f"cannot join {place}: {reason}"
        except Broken as fault:
            reason = fault.reason
            unreached, stopping = isinstance(fault, Unreached), isinstance(fault, CoordinatorStops)
            if isinstance(fault, StillPreparing):  # it has answered
                coordinators.hears()
                began = time.monotonic()
        except TimeoutError:
            reason, unreached = "it does not answer", True
        except Setback as setback:
            log.warning("%s; will ask %s in %.0f s", setback.reason, place, setback.absent_s or 0)
            await asyncio.sleep(setback.absent_s or coordinators.back_off())
            began = time.monotonic()
            continue
        delay_s = await coordinators.broke(place, stopping)
        if refused and coordinators.exhausted:
            raise Final(refused)
        if unreached and coordinators.exhausted:  # there is time to look
            reason = await coordinators.why(place, reason)
        if (waited_s := time.monotonic() - began) >= give_up_s:
            raise Final(
                f"no coordinator answered at {coordinators} within {give_up_s:g} s (--connect-timeout): "
                f"{reason if place == coordinators.place else f'{place}: {reason}'}"
            )
        if missing.worth_saying(reason, waited_s):
            other = "will join when it answers" if place == coordinators.place else f"will ask {coordinators.place}"
            log.warning("waiting for %s (%s); %s", place, reason, other)
        await asyncio.sleep(max(0.0, min(delay_s, give_up_s - waited_s)))


class Missing:
    """What is said of a coordinator that does not answer: the reason, and another reason, but not all the time."""

    def __init__(self) -> None:
        self._reason, self._said_at = "", -math.inf

    def worth_saying(self, reason: str, now_s: float) -> bool:
        if reason == self._reason or now_s - self._said_at < SAY_EVERY_S:
            return False
        self._reason, self._said_at = reason, now_s
        return True
