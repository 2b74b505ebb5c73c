"""The device's part of a run: do what the coordinator says until it says that the run is over.

Messages are handled one after the other; computing and disk run in a thread, so that the stream is kept alive
meanwhile. Whatever goes wrong with the replica, the remedy is the same: forget it and say hello without one. Where the
work itself fails, the device is absent for a while, longer each time, so that no round waits for it.
"""

import asyncio
import logging

from zowarmup.client.agenda import Commits, Task
from zowarmup.client.backoff import Backoff
from zowarmup.client.device import Device, OutOfStep
from zowarmup.client.faults import Broken, Declined, Final, Setback, Stopped
from zowarmup.client.messages import Accepted, Fetch, Finished, Refused, Welcome
from zowarmup.client.presence import Presence
from zowarmup.common.grid import HeadroomExceeded
from zowarmup.common.raised import in_words
from zowarmup.common.replica import Diverged
from zowarmup.common.work import Work

log = logging.getLogger(__name__)
# How long to try to bring the last report home when the coordinator is gone after the end of the run.
FAREWELL_S = 10.0
# How long a device that failed is absent, at first and at most.
ABSENT_S, LONGEST_ABSENT_S = 2.0, 120.0


async def take_part(device: Device, presence: Presence) -> None:
    """Take part until the run is over. Raises Final where this device cannot go on."""
    absences, done = Backoff(ABSENT_S, LONGEST_ABSENT_S), presence.contributions
    try:
        async with asyncio.timeout(None) as patience:
            over = False
            while not over:
                task = await presence.next()
                if isinstance(task, Finished):
                    patience.reschedule(asyncio.get_running_loop().time() + FAREWELL_S)
                try:
                    over = await _do(task, device, presence)
                except Broken as fault:
                    log.debug("%s: on the next stream the coordinator says again what it wants", fault.reason)
                except (Declined, OutOfStep) as fault:
                    log.warning("%s; saying hello again", fault)
                    await presence.restart()
                except (Diverged, HeadroomExceeded) as fault:
                    log.error("THE REPLICA IS NOT THE RUN'S: %s; fetching it anew", fault)
                    await device.disown(fault, presence)
                    await presence.restart()
                except (Final, Stopped):
                    raise
                except Exception as error:  # whatever it is, the device stays in the fleet
                    log.debug("%s failed", type(task).__name__, exc_info=True)
                    if presence.contributions > done:
                        absences.reset()
                        done = presence.contributions
                    absent, reason = absences.next_s(), in_words(error)
                    if isinstance(error, Setback):
                        absent, reason = error.absent_s or absent, error.reason
                    log.warning("%s; will try again in %.0f s", reason, absent)
                    await device.distrust()
                    await presence.absent(absent)
    except TimeoutError:
        log.warning("the run is over and the coordinator is gone: leaving without a last report")


async def _do(task: Task, device: Device, presence: Presence) -> bool:
    """Whether the run is over for this device."""
    match task:
        case Welcome():
            device.welcome(task)
        case Commits(commits):
            await device.apply(commits)
        case Fetch():
            await device.fetch(task, presence.greeted)
        case Work():
            await device.contribute(task, presence)
        case Accepted() | Refused():
            await device.settle(task, presence)
        case Finished():
            await device.farewell(task, presence)
            return True
    return False
