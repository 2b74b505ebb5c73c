"""Per-client concurrency limit and stall timeout of download RPCs."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from zowarmup.server.core import events as ev
from zowarmup.server.core.errors import Rejected
from zowarmup.server.core.membership import revoked
from zowarmup.server.core.state import State
from zowarmup.server.rpc.auth import Context

AT_ONCE = 2
"""For each client: one, and an older one over a link that broke unnoticed."""
STALLED_S = 120.0
"""A message of 512 KB takes 26 s on a link of 20 kB/s, twice that where two share it, and counts as taken only at its end."""


class Downloads:
    """The downloads of all clients. Observing the coordinator's events, it ends those of who is revoked."""

    def __init__(self) -> None:
        self._calls: dict[str, list[asyncio.Task[object]]] = {}
        self._revoked: dict[asyncio.Task[object], Rejected] = {}

    def __call__(self, now: float, events: Sequence[ev.Event], state: State) -> None:
        """Observe."""
        for event in events:
            if isinstance(event, ev.ClientRevoked):
                for task in self._calls.get(event.client, ()):
                    self._revoked[task] = revoked(event.client, event.reason)
                    task.cancel()

    @contextmanager
    def one(self, client: str) -> Iterator[None]:
        """A client's call to download, while it lasts. Where it has too many, the oldest is ended, and where it is revoked,
        all are: they are interrupted, and raise Rejected."""
        task = asyncio.current_task()
        assert task is not None
        calls = self._calls.setdefault(client, [])
        calls.append(task)
        if len(calls) > AT_ONCE:
            calls.pop(0).cancel()
        try:
            yield
        except asyncio.CancelledError:
            if task in calls and task not in self._revoked:
                raise
            task.uncancel()
            if (shut_out := self._revoked.get(task)) is not None:
                raise shut_out from None
            raise Rejected("superseded", f"{AT_ONCE} newer downloads of {client} have superseded this one") from None
        finally:
            self._revoked.pop(task, None)
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
