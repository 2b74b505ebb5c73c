"""Upload quota, one active upload per client, and the ownership of deltas.

A client may name only what it has uploaded itself: an upload's name has its client's in it. What has been uploaded counts
until its round is over, whether a contribution names it or not, and only here are uploads dropped: those that a client has
replaced by another, and at a round's end all but those that are being combined. What a contribution names, in the state or
on its way there, stays. Two deltas of one digest can be made, so a whole upload is never replaced by another of its name.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from weakref import WeakValueDictionary

from zowarmup.common.messages.values import Delta
from zowarmup.server.core import events as ev
from zowarmup.server.core.contributions import upload_name, uploads_of
from zowarmup.server.core.errors import Rejected
from zowarmup.server.core.membership import revoked
from zowarmup.server.core.state import State
from zowarmup.server.rpc.upload_writer import IncomingUpload, UploadWriter
from zowarmup.server.store.blobs import Blobs
from zowarmup.server.store.housekeeping import Housekeeping


class Uploads:
    """`quota_bytes`: for the deltas of the round in progress, whole or not, each counted whole; `state`: the run's as it
    begins, or goes on."""

    def __init__(self, blobs: Blobs, quota_bytes: int, state: State) -> None:
        self._blobs, self._quota_bytes, self._writer = blobs, quota_bytes, UploadWriter(blobs)
        self._held: dict[str, tuple[str, int]] = {}  # its upload's name, and size
        self._named = set(uploads_of(state.current).values())
        self._housekeeping = Housekeeping()
        self._left_over = True  # there may be what came before a restart, held by nobody
        self._being_named: Counter[str] = Counter()
        self._calls: dict[str, asyncio.Task[object]] = {}
        self._revoked: dict[asyncio.Task[object], Rejected] = {}
        self._doors: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def lengths(self) -> dict[str, float]:
        """The Euclidean norms of uploads that came in whole since the coordinator started, roughly, by name."""
        return self._writer.lengths

    def incoming(self, name: str, digest: str, size: int, have: int) -> IncomingUpload:
        """An upload that is about to come in, `have` of its bytes here already."""
        return IncomingUpload(self._writer, name, digest, size, have)

    @asynccontextmanager
    async def only(self, client: str) -> AsyncIterator[None]:
        """The client's one call about its upload. An older one, perhaps over a link that broke, is ended first, and what
        it had added is written: it is interrupted, and raises Rejected, as it does where the client is revoked."""
        task = asyncio.current_task()
        assert task is not None
        if older := self._calls.get(client):
            older.cancel()
        self._calls[client] = task
        door = self._doors.setdefault(client, asyncio.Lock())
        try:
            async with door:
                yield
        except asyncio.CancelledError:
            shut_out = self._revoked.get(task)
            if self._calls.get(client) is task and shut_out is None:
                raise
            task.uncancel()
            if shut_out is not None:
                raise shut_out from None
            raise Rejected("superseded", f"a newer upload of {client} has superseded this one") from None
        finally:
            self._revoked.pop(task, None)
            if self._calls.get(client) is task:
                del self._calls[client]

    def hold(self, client: str, digest: str, size_bytes: int) -> str:
        """The name of the client's upload with that digest. Another one that it uploaded for this round is dropped. Raises
        Rejected where there is no room."""
        name = upload_name(client, digest)
        before, _ = self._held.get(client, (None, 0))
        taken = sum(size for _, size in self._held.values())
        if before is None and taken + size_bytes > self._quota_bytes:
            raise Rejected(
                "spool_full",
                f"{len(self._held)} deltas of this round take {taken >> 20} of the "
                f"{self._quota_bytes >> 20} MB that server.spool_mb allows: try again later",
            )
        if before is not None and before != name:
            with self._housekeeping.attempt("drop an upload that another has replaced"):
                self._blobs.drop_part(before)
                if before not in self._kept:
                    self._blobs.drop_upload(before)
                    self.lengths.pop(before, None)
        self._held[client] = name, size_bytes
        return name

    @contextmanager
    def naming(self, client: str, digest: str) -> Iterator[None]:
        """While the client's contribution that names this delta is on its way into the state, the delta stays. Raises
        Rejected where it is not one that the client has uploaded, durably and whole."""
        name = upload_name(client, digest)
        if not self._blobs.has_upload(name) or name in self._writer.finishing:
            raise Rejected("malformed", f"{client} has not uploaded the delta it names: ask GetUpload")
        self._being_named[name] += 1
        try:
            yield
        finally:
            self._being_named -= Counter((name,))  # which forgets what nobody is naming any more

    def __call__(self, now: float, events: Sequence[ev.Event], state: State) -> None:
        """Observe."""
        for event in events:
            if isinstance(event, ev.ClientRevoked) and (call := self._calls.get(event.client)):
                self._revoked[call] = revoked(event.client, event.reason)
                call.cancel()
            if isinstance(event, ev.Contributed) and isinstance(event.contribution, Delta):
                self._named.add(upload_name(event.client, event.contribution.digest))
        if any(isinstance(event, ev.RoundClosed | ev.RoundAbandoned | ev.Committed) for event in events):
            there_were = bool(self._held or self._named) or self._left_over
            self._named = set(uploads_of(state.current).values())
            self._left_over = there_were
            if there_were:
                with self._housekeeping.attempt("drop the uploads of rounds that are over"):
                    self._blobs.drop_uploads(self._kept)
                    self._left_over = False
            self._held = {client: held for client, held in self._held.items() if held[0] in self._kept}
            for name in self.lengths.keys() - self._kept:
                del self.lengths[name]

    @property
    def _kept(self) -> set[str]:
        return self._named | self._being_named.keys()
