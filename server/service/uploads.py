"""The room that uploads take: one upload at a time for each client, and a quota for all.

What has been uploaded counts until its round is over, whether a contribution names it or not. The files of a round that
has closed are removed, but for those that are being combined.
"""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from zowarmup.common.work import Delta
from zowarmup.server import events as ev
from zowarmup.server.blobs import Blobs
from zowarmup.server.incoming import Incoming, Quay
from zowarmup.server.rejection import Rejected
from zowarmup.server.state import State

log = logging.getLogger(__name__)


class Uploads:
    """`quota_bytes`: for the deltas of the round in progress, whole or not, each counted whole."""

    def __init__(self, blobs: Blobs, quota_bytes: int) -> None:
        self._blobs, self._quota_bytes, self._quay = blobs, quota_bytes, Quay(blobs)
        self._held: dict[str, tuple[str, int]] = {}  # sha256 and size
        self._calls: dict[str, asyncio.Task[object]] = {}

    @property
    def lengths(self) -> dict[str, float]:
        """The Euclidean norms of uploads that came in whole since the coordinator started, roughly, by sha256."""
        return self._quay.lengths

    def incoming(self, spool: str, sha256: str, size: int, have: int) -> Incoming:
        """An upload that is about to come in, `have` of its bytes here already."""
        return Incoming(self._quay, spool, sha256, size, have)

    @contextmanager
    def only(self, client: str) -> Iterator[None]:
        """The client's call to upload, while it lasts. An older one, perhaps over a link that broke, is ended: it is
        interrupted, and raises Rejected."""
        task = asyncio.current_task()
        assert task is not None
        if older := self._calls.get(client):
            older.cancel()
        self._calls[client] = task
        try:
            yield
        except asyncio.CancelledError:
            if self._calls.get(client) is task:
                raise
            task.uncancel()
            raise Rejected("superseded", f"a newer upload of {client} has superseded this one") from None
        finally:
            if self._calls.get(client) is task:
                del self._calls[client]

    def hold(self, client: str, sha256: str, size_bytes: int) -> str:
        """The name in the spool for the client's delta. Another one that it uploaded for this round is dropped. Raises
        Rejected where there is no room."""
        before, _ = self._held.get(client, (None, 0))
        taken = sum(size for _, size in self._held.values())
        if before is None and taken + size_bytes > self._quota_bytes:
            raise Rejected(
                "spool_full",
                f"{len(self._held)} deltas of this round take {taken >> 20} of the "
                f"{self._quota_bytes >> 20} MB that server.spool_mb allows: try again later",
            )
        if before is not None and before != sha256:
            self._blobs.drop_part(spool_name(client, before))
            if before not in (held for other, (held, _) in self._held.items() if other != client):
                self._blobs.drop_upload(before)
        self._held[client] = sha256, size_bytes
        return spool_name(client, sha256)

    def __call__(self, now: float, events: Sequence[ev.Event], state: State) -> None:
        """Observe."""
        for event in events:
            if isinstance(event, ev.ClientRevoked) and (call := self._calls.get(event.client)):
                call.cancel()
        if any(isinstance(event, ev.RoundClosed | ev.RoundAbandoned | ev.Committed) for event in events):
            current = state.current
            named = {c.sha256 for c in current.contributions.values() if isinstance(c, Delta)} if current else set()
            # What a commit was made of goes when it is made (`effects`), beside the event loop.
            if self._held and not any(isinstance(event, ev.Committed) for event in events):
                self._blobs.drop_uploads(named)
            self._held = {client: held for client, held in self._held.items() if held[0] in named}


def spool_name(client: str, sha256: str) -> str:
    """Of one client's delta, so that no other can write to it."""
    return f"{client}.{sha256[:16]}"
