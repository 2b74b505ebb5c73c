"""The coordinators of a run as a device sees them: where they are, what is found there, and which of them it talks to.

There may be several, as several addresses, or as a name that has several: each is a `CoordinatorPlace`. Names are looked up at the start and
whenever a coordinator breaks, so that one that has moved is found. What is called by one name and answers at one address is one
place and left to gRPC, as a device has it that is of both kinds of IP. All that a process says to a run goes to the present place;
`choice` decides when that is another.

What looks (`contact`) is loaded when it is first needed, and most devices never need it.
"""

import asyncio
import contextlib
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from zowarmup.client.net.choice import Choice
from zowarmup.client.net.connection import Connection
from zowarmup.client.net.stream import Meter
from zowarmup.client.net.tls import Trust
from zowarmup.common.settings.addresses import addresses_in, host_and_port, is_ip, is_loopback, proxy_for

if TYPE_CHECKING:
    from zowarmup.client.net.contact import Contact

_T = TypeVar("_T")
LOOK_EVERY_S = 20.0
"""A look is shared by all who ask within so long."""
RESOLVE_S = 2.0
"""How long a name may be looked up; after that, what was known of it before is used."""
SETTLE_S = 10.0


@dataclass(frozen=True, slots=True)
class CoordinatorPlace:
    """Where a coordinator is: HOST:PORT as it was given, by which its certificate is checked, and where that name has several
    addresses, the one to be dialled, IP:PORT."""

    address: str
    dialled: str = ""

    def __str__(self) -> str:
        return f"{self.dialled} ({self.address})" if self.dialled else self.address


def several(host: str, port: int) -> list[str]:
    """The addresses of a name that has several of one kind of IP, IP:PORT; none where it has one, which may be of both kinds.
    Raises OSError."""
    kinds: dict[int, list[str]] = {}
    for family, _, _, _, (ip, *_) in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        dialled = f"[{ip}]:{port}" if family == socket.AF_INET6 else f"{ip}:{port}"
        if dialled not in kinds.setdefault(family, []):
            kinds[family].append(dialled)
    return next((found for found in kinds.values() if len(found) > 1), [])


class Lookout:
    """Looks at one place for all of a process who miss it, once in LOOK_EVERY_S however many ask."""

    def __init__(self, address: str, trust: Trust, dialled: str = "") -> None:
        self._address, self._trust, self._dialled = address, trust, dialled
        self._looking: asyncio.Future[Contact] | None = None
        self._looked_at = 0.0

    async def contact(self) -> "Contact":
        """What is there now, or was lately."""
        now = time.monotonic()
        if self._looking is None or (self._looking.done() and now - self._looked_at > LOOK_EVERY_S):
            self._looking, self._looked_at = _beside(self._look), now
        return await asyncio.shield(self._looking)

    async def why(self, otherwise: str) -> str:
        """A sentence on why the coordinator is not reached; `otherwise` where it seems to be there."""
        from zowarmup.client.net.contact import ContactFinding

        found = await self.contact()
        return otherwise if found.found is ContactFinding.COORDINATOR else found.sentence

    def _look(self) -> "Contact":
        from zowarmup.client.net.contact import Contact, ContactFinding, look

        try:
            return look(self._address, self._trust, dialled=self._dialled)
        except Exception as error:  # noqa: BLE001
            return Contact(ContactFinding.FAILED, ContactFinding.FAILED.value.format(detail=error))


class Coordinators:
    """Those of one run, for one device, or for what shares a stream of its own.

    Args:
        servers: HOST:PORT, or several separated by commas.
        trust: How to talk to them.
        generator: Draws which to take, and how long to wait.
        lookup: Finds the addresses of a name and a port, as `several`.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        servers: str,
        trust: Trust,
        generator: random.Random,
        lookup: Callable[[str, int], Sequence[str]] = several,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.trust, self._lookup, self._clock = trust, lookup, clock
        self._given = addresses_in(servers)
        self._known: dict[str, tuple[CoordinatorPlace, ...]] = {
            address: (CoordinatorPlace(address),) for address in self._given
        }
        self._generator = generator
        self._choice = Choice(self._places, generator)
        self._lookouts: dict[CoordinatorPlace, Lookout] = {}
        self._settled = asyncio.Event()
        self._settled.set()

    def __str__(self) -> str:
        return ", ".join(map(str, self._choice.options))

    @property
    def place(self) -> CoordinatorPlace:
        """The present one."""
        return self._choice.present

    @property
    def places(self) -> tuple[CoordinatorPlace, ...]:
        """All that are known."""
        return self._choice.options

    @property
    def exhausted(self) -> bool:
        """Whether all have failed since one last worked."""
        return self._choice.exhausted

    async def find(self, number: int | None = None) -> None:
        """Look up the names, before all else. `number`: begin with the place of this number, counted round; None: with any."""
        await self._look_up()
        if self._places != self._choice.options:
            self._choice = Choice(self._places, self._generator)
        if number is not None:
            self._choice.take(self.places[number % len(self.places)])

    def connection(
        self, credentials: tuple[str, str] | None = None, meter: Meter | None = None, bulk: bool = False
    ) -> Connection:
        """A connection to the present one, as of `Connection`."""
        place = self.place
        return Connection(place.address, self.trust, credentials, meter, bulk=bulk, dialled=place.dialled)

    def works(self) -> None:
        """The present one does what it should."""
        self._choice.works()
        self._settled.set()

    def hears(self) -> None:
        """The present one is there, if it is not ready."""
        self._choice.hears()

    def back_off(self) -> float:
        """Seconds until the present one is tried again, which is not to blame; longer each time."""
        return self._choice.back_off()

    async def broke(self, place: CoordinatorPlace, stopping: bool = False) -> float:
        """Something is wrong at a place, or it is `stopping`. Another is the present one then, where there is one: seconds until it
        is to be tried."""
        await self._look_up()
        self._choice.renew(self._places)
        delay_s = self._choice.broke(place, self._clock(), stopping)
        if self.place != place:
            self._settled.clear()
        return delay_s

    async def settled(self) -> None:
        """Until the present one has been seen to work, or for SETTLE_S: what goes beside a stream follows it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S):
                await self._settled.wait()

    async def contact(self, place: CoordinatorPlace) -> "Contact":
        """What is at a place now, or was lately."""
        return await self._lookout(place).contact()

    async def why(self, place: CoordinatorPlace, otherwise: str) -> str:
        """A sentence on why it is not reached; `otherwise` where it seems to be there."""
        return await self._lookout(place).why(otherwise)

    def _lookout(self, place: CoordinatorPlace) -> Lookout:
        if place not in self._lookouts:
            self._lookouts[place] = Lookout(place.address, self.trust, place.dialled)
        return self._lookouts[place]

    @property
    def _places(self) -> tuple[CoordinatorPlace, ...]:
        return tuple(place for address in self._given for place in self._known[address])

    async def _look_up(self) -> None:
        names = [address for address in self._given if _is_name(address)]
        looking = {_beside(lambda address=address: self._places_of(address)) for address in names}  # type: ignore[misc]
        if looking:
            done, _ = await asyncio.wait(looking, timeout=RESOLVE_S)
            self._known |= {address: found for address, found in (one.result() for one in done) if found}

    def _places_of(self, address: str) -> tuple[str, tuple[CoordinatorPlace, ...]]:
        try:
            found = self._lookup(*host_and_port(address))
        except (OSError, UnicodeError):  # whoever connects hears what is wrong
            return address, ()
        return address, tuple(CoordinatorPlace(address, dialled) for dialled in found) or (CoordinatorPlace(address),)


def _is_name(address: str) -> bool:
    """Whether it is for us to look up: not where it is an IP address, or a proxy does."""
    return not (is_ip(host_and_port(address)[0]) or is_loopback(address) or proxy_for(address, os.environ))


def _beside(work: Callable[[], _T]) -> "asyncio.Future[_T]":
    """In a thread of its own: the process computes in the other one, and nothing waits for this one at the end."""
    future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()

    def answer(found: _T) -> None:
        if not future.done():
            future.set_result(found)

    def run() -> None:
        found = work()
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            future.get_loop().call_soon_threadsafe(answer, found)

    threading.Thread(target=run, daemon=True).start()
    return future
