"""The device's main loop: do what the coordinator says until the run is over.

Messages are handled one after the other; computing and disk run in a thread, so that the stream is kept alive
meanwhile. Whatever goes wrong with the replica, the remedy is the same: forget it and say hello without one. Where the
work itself fails, the device is absent for a while, longer each time, so that no round waits for it.
"""

import asyncio
import logging

from zowarmup.client.errors import Broken, ComputingStopped, Declined, Final, Setback
from zowarmup.client.net.choice import Backoff
from zowarmup.client.net.messages import Accepted, Commits, Fetch, Finished, InboxItem, Refused, Welcome
from zowarmup.client.net.reconnecting_stream import ReconnectingStream
from zowarmup.client.work.device import Device, OutOfStep
from zowarmup.common.exact.grid import HeadroomExceeded
from zowarmup.common.exact.replica import Diverged
from zowarmup.common.messages.masking import MaskingAsk
from zowarmup.common.messages.values import Work
from zowarmup.common.text import in_words

log = logging.getLogger(__name__)
# How long to try to bring the last report home when the coordinator is gone after the end of the run.
LAST_REPORT_S = 10.0
# How long a device that failed is absent, at first and at most.
ABSENT_S, LONGEST_ABSENT_S = 2.0, 120.0


async def take_part(device: Device, stream: ReconnectingStream) -> None:
    """Take part until the run is over. Raises Final where this device cannot go on."""
    absences, done = Backoff(ABSENT_S, LONGEST_ABSENT_S), stream.contributions
    try:
        async with asyncio.timeout(None) as patience:
            over = False
            while not over:
                task = await stream.next()
                if isinstance(task, Finished):
                    patience.reschedule(asyncio.get_running_loop().time() + LAST_REPORT_S)
                try:
                    over = await _do(task, device, stream)
                except Broken as fault:
                    log.debug("%s: on the next stream the coordinator says again what it wants", fault.reason)
                except (Declined, OutOfStep) as fault:
                    log.warning("%s; saying hello again", fault)
                    await stream.restart()
                except (Diverged, HeadroomExceeded) as fault:
                    log.error("THE REPLICA IS NOT THE RUN'S: %s; fetching it anew", fault)
                    await device.disown(fault, stream)
                    await stream.restart()
                except (Final, ComputingStopped):
                    raise
                except Exception as error:  # whatever it is, the device stays in the fleet
                    log.debug("%s failed", type(task).__name__, exc_info=True)
                    if stream.contributions > done:
                        absences.reset()
                        done = stream.contributions
                    absent, reason = absences.next_s(), in_words(error)
                    if isinstance(error, Setback):
                        absent, reason = error.absent_s or absent, error.reason
                    log.warning("%s; will try again in %.0f s", reason, absent)
                    await device.distrust()
                    await stream.absent(absent)
    except TimeoutError:
        log.warning("the run is over and the coordinator is gone: leaving without a last report")


async def _do(task: InboxItem, device: Device, stream: ReconnectingStream) -> bool:
    """Whether the run is over for this device."""
    match task:
        case Welcome():
            device.welcome(task)
        case Commits(commits):
            await device.apply(commits)
        case Fetch():
            await device.fetch(task, stream.greeted)
        case Work():
            await device.contribute(task, stream)
        case MaskingAsk():
            await device.mask(task, stream)
        case Accepted() | Refused():
            await device.settle(task, stream)
        case Finished():
            await device.finish(task, stream)
            return True
    return False
