"""The calls that send a client much: a few at a time for each, and none that nobody reads."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from zowarmup.server.rejection import Rejected
from zowarmup.server.service.admission import Context

AT_ONCE = 2
"""For each client: one, and an older one over a link that broke unnoticed."""
STALLED_S = 120.0
"""A message of 512 KB takes 26 s on a link of 20 kB/s, twice that where two share it, and counts as taken only at its end."""


class Downloads:
    """The downloads of all clients."""

    def __init__(self) -> None:
        self._calls: dict[str, list[asyncio.Task[object]]] = {}

    @contextmanager
    def one(self, client: str) -> Iterator[None]:
        """A client's call to download, while it lasts. Where it has too many, the oldest is ended: it is interrupted, and
        raises Rejected."""
        task = asyncio.current_task()
        assert task is not None
        calls = self._calls.setdefault(client, [])
        calls.append(task)
        if len(calls) > AT_ONCE:
            calls.pop(0).cancel()
        try:
            yield
        except asyncio.CancelledError:
            if task in calls:
                raise
            task.uncancel()
            raise Rejected("superseded", f"{AT_ONCE} newer downloads of {client} have superseded this one") from None
        finally:
            if task in calls:
                calls.remove(task)
                if not calls:
                    del self._calls[client]


async def taken(context: Context, message: Any) -> None:
    """Write a message; returns when the link has taken it. Raises Rejected where it does not."""
    try:
        async with asyncio.timeout(STALLED_S):
            await context.write(message)
    except TimeoutError:
        raise Rejected("too_slow", f"nothing was read for {STALLED_S:g} s: go on from where it broke off") from None
