"""Uploads of clients where several coordinators share a store: received by one, aggregated by another.

What is not whole yet is on the disk of the coordinator that receives it, so that no chunk waits for the database; a client that goes
on at another coordinator begins that delta anew. What is whole is in the shared store before its client is told so, and is read
from there by whoever leads. Each coordinator drops its own files at a round's end; what is shared only the leader does, beside the event
loop (`SharedUploadsSweeper`).
"""

import logging
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from zowarmup.server.core import events as ev
from zowarmup.server.core.contributions import is_over, last_over, uploads_of
from zowarmup.server.core.state import State
from zowarmup.server.store.blob_files import BlobFiles
from zowarmup.server.store.blobs import PIECE, BlobStore, OpenBlob
from zowarmup.server.store.event_log import LedgerError
from zowarmup.server.store.housekeeping import Housekeeping

log = logging.getLogger(__name__)


class SpooledUploads(BlobStore):
    """Uploads in `files`, which are this coordinator's own, and once they are whole in `shared`, too."""

    def __init__(self, files: BlobFiles, shared: BlobStore) -> None:
        self._files, self._shared = files, shared

    def names(self) -> set[str]:
        return self._files.names()

    def has(self, name: str) -> bool:
        """Whether it was received here."""
        return self._files.has(name)

    def open(self, name: str) -> OpenBlob:
        return self._files.open(name) if self._files.has(name) else self._shared.open(name)

    def delete(self, name: str) -> None:
        self._files.delete(name)

    def free(self) -> None:
        self._files.free()

    def parts(self) -> set[str]:
        return self._files.parts()

    def received(self, part: str) -> int:
        return self._files.received(part)

    def read_part(self, part: str, offset: int, count: int) -> bytes:
        return self._files.read_part(part, offset, count)

    def write(self, part: str, offset: int, *chunks: bytes | memoryview) -> None:
        self._files.write(part, offset, *chunks)

    def finish(self, part: str, name: str) -> bool:
        """See `BlobStore`. The shared blob is there first: what has a file here counts as received."""
        copy = f"{name}.{uuid.uuid4().hex}"  # its round stands in front: whoever dies over it leaves what can be swept
        self._shared.write(copy, 0)
        for start in range(0, self._files.received(part), PIECE):
            self._shared.write(copy, start, self._files.read_part(part, start, PIECE))
        self._shared.finish(copy, name)
        return self._files.finish(part, name)

    def drop(self, part: str) -> None:
        self._files.drop(part)


class SharedUploadsSweeper:
    """An observer that lets shared uploads go when their round is over. `shared`: as the leader deletes them."""

    def __init__(self, shared: BlobStore) -> None:
        self._shared, self._housekeeping = shared, Housekeeping()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sweep")
        self._left_over = True  # what another leader has not come to

    def __call__(self, now: float, events: Sequence[ev.Event], state: State) -> None:
        uploaded = any(isinstance(event, ev.Contributed) and state.trains(event.client) for event in events)
        self._left_over |= uploaded
        if self._left_over and any(isinstance(event, ev.RoundAbandoned | ev.Committed) for event in events):
            self._left_over = False
            self._thread.submit(self._sweep, last_over(state), frozenset(uploads_of(state.current).values()))

    def _sweep(self, ended: int, kept: frozenset[str]) -> None:
        try:
            with self._housekeeping.attempt("remove uploads of rounds that are over"):
                for name in self._shared.names():
                    if is_over(name, ended, kept):
                        self._shared.delete(name)
                for part in self._shared.parts():
                    if is_over(part, ended, kept):
                        self._shared.drop(part)
                self._shared.free()
        except LedgerError as error:
            log.debug("uploads are left to the coordinator that leads: %s", error)

    def close(self) -> None:
        """Give back its thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)
