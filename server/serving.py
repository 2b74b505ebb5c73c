"""A coordinator's process at work: one life after the other.

One that shares its store with others and has lost the lease while it led lets go of everything, and begins anew as a front end. One
that does not reach the store waits for it.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from zowarmup.common.text import in_words
from zowarmup.server.coordinator import REMIND_S
from zowarmup.server.life import Life
from zowarmup.server.served import Served, Serving
from zowarmup.server.shutdown import settle
from zowarmup.server.store.blobs import DiskRefused
from zowarmup.server.store.event_log import Fenced, StoreAway

log = logging.getLogger("zowarmup.server")

AGAIN_S = 2.0


class CoordinatorFailed(Exception):
    """A part of the coordinator has ended by itself, and with it the coordinator. The cause is what it raised."""


async def serve(serving: Serving, stopped: "asyncio.Future[int]", ready: Callable[[Served], None]) -> int:
    """Serve a run.

    Args:
        serving: Which, and how.
        stopped: Its result ends the coordinator, which sets one itself where it leaves.
        ready: Called just before the coordinator answers; again, where it begins anew.

    Returns:
        The exit code: the result of `stopped`, or GIVEN_UP where the run has given up.

    Raises:
        CoordinatorFailed: A part of it has failed. And what stands in the way of a start.
    """
    fenced, told_at = 0, -REMIND_S
    while True:
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        faults: list[BaseException] = []

        def end(over: "asyncio.Future[int]", ended: "asyncio.Future[int]" = ended) -> None:
            settle(ended, over.result())

        stopped.add_done_callback(end)
        try:
            async with contextlib.AsyncExitStack() as stack:
                status = await Life(serving, ended, faults, stack, fenced).run(ready)
        except Fenced as error:  # while it opened the run
            faults, status = [error], 1
        except (StoreAway, DiskRefused) as error:
            if serving.shared is None:
                raise
            if (now := time.monotonic()) >= told_at + REMIND_S:
                told_at = now
                log.error("waiting for the store: %s", error)
            await asyncio.wait({stopped}, timeout=AGAIN_S)
            if stopped.done():
                return stopped.result()
            continue
        finally:
            stopped.remove_done_callback(end)
        lost = serving.shared is not None and bool(faults) and isinstance(faults[0], Fenced)
        if faults and not lost:
            settle(stopped, 1)
            raise CoordinatorFailed(f"the coordinator cannot go on: {in_words(faults[0])}") from faults[0]
        if not lost:
            settle(stopped, status)
            return status
        if stopped.done():
            return stopped.result()
        fenced += 1
        log.warning("%s; this coordinator begins anew as a front end, and its clients come again", faults[0])
