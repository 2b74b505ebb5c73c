"""One simulated client: the real one, restricted by its profile.

A device that is slow, or on a slow link, says its contribution later than it was computed; one that drops out ends its
stream when it is given work, and comes back after a while; one that is there at certain hours only ends it when they
are over. The client's own code knows nothing of it: it is the network that does this to a device.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from zowarmup.client.errors import ComputingStopped, Final
from zowarmup.client.net.connection import Connection
from zowarmup.client.net.coordinators import Coordinators
from zowarmup.client.net.messages import Accepted, Commits, Fetch, Finished, Hello, InboxItem, Refused, Saying, Welcome
from zowarmup.client.net.reconnecting_stream import ReconnectingStream
from zowarmup.client.net.stream import Meter
from zowarmup.client.work.device import Device
from zowarmup.client.work.executor import Executor
from zowarmup.client.work.loop import take_part
from zowarmup.common.exact.layout import Layout
from zowarmup.common.messages.masking import Keys
from zowarmup.common.messages.values import Delta, Phase, Scalars, Work
from zowarmup.common.text import in_words
from zowarmup.lab.simulation.profiles import Mix, Profile
from zowarmup.lab.simulation.shared import SharedReplica, View

log = logging.getLogger(__name__)


class Gone(Exception):
    """This device has dropped out."""


class SimulatedStream(ReconnectingStream):
    """A presence over a device's own link. `own_executor` and `meter`: what the device has computed and what it has sent and
    received; `notice` hears of everything that arrives."""

    def __init__(
        self,
        coordinators: Coordinators,
        connect: Callable[[], Connection],
        layout: Layout,
        hello: Callable[[], Hello],
        profile: Profile,
        own_executor: Executor,
        meter: Meter,
        notice: Callable[[InboxItem], None],
    ) -> None:
        super().__init__(coordinators, connect, layout, hello)
        self._profile, self._own_executor, self._meter, self._notice = profile, own_executor, meter, notice
        self._charged_s, self._charged = 0.0, Meter()

    async def next(self) -> InboxItem:
        task = await super().next()
        self._notice(task)
        return task

    async def say(self, saying: Saying) -> int:
        if isinstance(saying, Scalars | Delta | Keys):
            await asyncio.sleep(self._behind_s())
        return await super().say(saying)

    def _behind_s(self) -> float:
        """How far the device is behind its host, for what has not been waited for yet."""
        spent_s, up, down = self._own_executor.spent_s, self._meter.up_bytes, self._meter.down_bytes
        wait = self._profile.delay_s(
            spent_s - self._charged_s, up - self._charged.up_bytes, down - self._charged.down_bytes
        )
        self._charged_s, self._charged = spent_s, Meter(up, down)
        return wait


class SimulatedClient:
    """Client `number` of a fleet; `client` is its name in the run. `stream`: makes its presence of its hello, its profile and
    what is to hear of everything that arrives."""

    def __init__(
        self,
        number: int,
        client: str,
        device: Device,
        view: View,
        shared: SharedReplica,
        mix: Mix,
        profile: Profile,
        seed: int,
        stream: Callable[[Callable[[], Hello], Callable[[InboxItem], None]], SimulatedStream],
    ) -> None:
        self.number, self.client = number, client
        self._device, self._view, self._shared = device, view, shared
        self._profile, self._mix, self._seed = profile, mix, seed
        self._link = stream(self._hello, self._notice)
        self._dropped = 0
        self.phase, self.round, self.version, self.waiting = "", 0, 0, ""
        self.contributions = self.refused = 0
        self.over = self.agrees = False
        self.lost: Final | None = None

    @property
    def connected(self) -> bool:
        return self._link.connected

    async def take_part(self) -> None:
        """Until the run is over. What this client alone cannot get over is kept in `lost`."""
        profile, day_s = self._profile, self._mix.day_s
        try:
            while not self.over:
                if wait := profile.absent_s(time.time(), day_s):
                    await asyncio.sleep(wait)
                stays = profile.present_s(time.time(), day_s)
                try:
                    async with asyncio.timeout(stays if stays < float("inf") else None):
                        async with self._link as link:
                            await take_part(self._device, link)
                            self.over = True
                except TimeoutError:
                    log.info("%s leaves until its hours come again", self.client)
                except Gone:
                    log.info("%s has dropped out of round %d", self.client, self._dropped)
                    await asyncio.sleep(profile.away_s)
        except Final as fault:
            self.lost = fault
            log.warning("%s cannot go on: %s", self.client, fault)
        except ComputingStopped:
            raise
        except Exception as error:  # one client's failure is its own
            self.lost = Final(in_words(error))
            log.warning("%s cannot go on: %s", self.client, self.lost)
            log.debug("%s failed", self.client, exc_info=True)

    def _hello(self) -> Hello:
        self._view.greet()
        return self._device.hello()

    def _notice(self, task: InboxItem) -> None:
        """Raises Gone where this is the work that cuts the device off."""
        match task:
            case Welcome():
                self.phase, self.version, self.waiting = str(task.phase), task.version, task.waiting
            case Work():
                self._shared.hear(task.version)
                self.phase, self.round, self.waiting = str(task.phase), task.round, ""
                if task.round > self._dropped and self._profile.drops(self._seed, self.number, task.round):
                    self._dropped = task.round
                    raise Gone
            case Commits(commits):
                self.version = commits[-1].version
                self._shared.hear(self.version)
            case Fetch():
                self._shared.hear(task.version)
            case Accepted():
                self.contributions += 1
            case Refused():
                self.refused += 1
            case Finished():
                self.phase, self.version, self.waiting = str(Phase.FINISHED), task.version, ""
                self.agrees = self._view.position.digest == task.digest
