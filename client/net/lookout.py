"""Looks at a coordinator's address that many may ask for, and that most devices never need: what looks is loaded then."""

import asyncio
import contextlib
import threading
import time
from typing import TYPE_CHECKING

from zowarmup.client.net.tls import Trust

if TYPE_CHECKING:
    from zowarmup.client.net.contact import Contact

# A look is shared by all who ask within so long.
LOOK_EVERY_S = 20.0


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

        def told() -> None:
            if not future.done():
                future.set_result(found)

        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            future.get_loop().call_soon_threadsafe(told)
