"""The end of the coordinator's process by itself, and its exit code."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from zowarmup.common.messages.values import Phase
from zowarmup.server.coordinator import Coordinator
from zowarmup.server.core.state import State

log = logging.getLogger("zowarmup.server")

TICK_S = 0.25
REPORTS_S = 10.0
LOOKED_S = 3.0
SCRAPED_S = 60.0
TOLD_S = 30.0
GIVEN_UP = 3  # the exit code of a run that has paused itself, or ended before its time


async def leave(
    coordinator: Coordinator,
    looked: list[float],
    stopped: "asyncio.Future[int]",
    when_finished: bool,
    scraped: bool,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    pending: Callable[[], bool] = lambda: False,
) -> None:
    """Once the run is finished and evaluated, every client has said what it holds (or had time to), and nobody is
    looking at the status any more; or once the run has paused itself. Started again after that, it waits to be
    resumed.

    A run that gives up ends the process in any case, so that whoever watches over it learns of it; started again, it
    serves its status as any finished run does.

    Args:
        looked: When somebody last asked for the status, on the monotonic clock, seconds; one element.
        stopped: Gets the exit code.
        when_finished: Leave at the end of a run that did not give up, too.
        scraped: Somebody may read the metrics of this process.
        clock: Seconds, monotonic.
        sleep: Waits so many of them.
        pending: Whether trackers are still being told of the run.
    """
    resumable = coordinator.state.paused_itself
    begun_over = coordinator.state.phase is Phase.FINISHED
    while not finished(coordinator.state):
        resumable = resumable and coordinator.state.paused_itself
        if coordinator.state.paused_itself and not resumable and when_finished:
            log.error("leaving, as nobody is here to resume it: %s", coordinator.state.paused)
            settle(stopped, GIVEN_UP)
            return
        await sleep(TICK_S)
    if not when_finished and (begun_over or not coordinator.state.gave_up):
        return
    since = clock()
    while clock() < since + REPORTS_S:
        if reported(coordinator.state):
            break
        await sleep(TICK_S)
    if coordinator.state.gave_up and scraped and not begun_over:
        log.info("leaving in %.0f s, when its metrics have been read", SCRAPED_S)
        await sleep(SCRAPED_S)
    told = clock()
    while pending() and clock() < told + TOLD_S:
        await sleep(TICK_S)
    while clock() < looked[0] + LOOKED_S:
        await sleep(TICK_S)
    settle(stopped, 0)


def finished(state: State) -> bool:
    """Whether the run is over and its last version evaluated."""
    evaluated = state.evaluation is not None and state.evaluation.version == state.version
    return state.phase is Phase.FINISHED and evaluated


def reported(state: State) -> bool:
    """Whether every client that is connected has said what it holds of the present version."""
    presence = state.presence.values()
    return all((p.digest and p.version == state.version) or not p.connected for p in presence)


def settle(stopped: "asyncio.Future[int]", status: int) -> None:
    """Stop with this exit code, unless something else already does."""
    if not stopped.done():
        stopped.set_result(status)
