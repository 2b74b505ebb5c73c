"""A run opened by one coordinator: its own in the data directory, or one that several share.

Whoever holds the lease of a shared run makes it where there is none; the others wait for that.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from zowarmup.common.exact.replica import Replica
from zowarmup.common.settings.run import RunFile
from zowarmup.common.system.files import read_given
from zowarmup.common.tasks import task_class
from zowarmup.data import Dataset
from zowarmup.server.aggregation.evaluation import Evaluator
from zowarmup.server.cluster.front_end import FrontEnd
from zowarmup.server.cluster.node import Node
from zowarmup.server.coordinator import Coordinator
from zowarmup.server.core.state import State
from zowarmup.server.projections.history import History
from zowarmup.server.setup.open_run import constants_of, evaluated, open_run, require_same, uploads_bytes
from zowarmup.server.setup.prepare import Preparer
from zowarmup.server.store.archive import BLOBS, LEDGER, UPLOADS, replay, restore
from zowarmup.server.store.blob_files import BlobFiles
from zowarmup.server.store.blobs import BlobStore, FiledBlobs
from zowarmup.server.store.ledger import Ledger
from zowarmup.server.store.place import require_alone
from zowarmup.server.store.uploads import UploadStore

log = logging.getLogger("zowarmup.server")

LOOK_S = 0.5


@dataclass(frozen=True)
class RunToOpen:
    """A run as a coordinator is to open it.

    Args:
        run_file: What it is.
        held_out: What it is evaluated on.
        data_dir: Where it lives on disk.
        prepare: Makes the model, if there is no run yet.
    """

    run_file: RunFile
    held_out: Dataset
    data_dir: Path
    prepare: Preparer = field(repr=False)


@dataclass(frozen=True)
class Opened:
    """A run that is open. `replica`: at its version, where the coordinator leads from the start."""

    coordinator: Coordinator
    history: History
    blobs: BlobStore
    uploads: UploadStore
    evaluator: Evaluator
    replica: Replica | None = None


async def open_alone(
    wanted: RunToOpen, stack: contextlib.AsyncExitStack, took: Callable[[float], None] | None
) -> Opened:
    """The run of a data directory that is this coordinator's own.

    Args:
        wanted: Which.
        stack: The ledger is closed when it is left.
        took: Is told the seconds of each transaction.

    Raises:
        StartError, LedgerError, ArchiveError, DataError, BlobError: It cannot be opened, or is another one.
    """
    require_alone(wanted.data_dir)
    path = wanted.data_dir / LEDGER
    ledger = Ledger(path) if took is None else Ledger(path, took=took)
    stack.callback(ledger.close)
    blobs = BlobFiles(wanted.data_dir / BLOBS)

    def take_up() -> tuple[State, History, Replica, int]:
        state, history, end = open_run(wanted.run_file, wanted.held_out, wanted.data_dir, ledger, blobs, wanted.prepare)
        return state, history, restore(state, history, blobs, state.version), end

    state, history, replica, end = await asyncio.to_thread(take_up)
    uploads = UploadStore(BlobFiles(wanted.data_dir / UPLOADS), uploads_bytes(wanted.run_file, state), state)
    coordinator = Coordinator(ledger, state, end=end)
    return Opened(coordinator, history, blobs, uploads, _evaluator(wanted, state, blobs), replica)


async def open_shared(wanted: RunToOpen, node: Node) -> Opened:
    """The run of a shared store, which another coordinator may be making just now. Raises as `open_alone`."""
    store, told = node.store, ""
    while True:
        if epoch := node.election.epoch:
            state, history, end = await asyncio.to_thread(
                open_run,
                wanted.run_file,
                wanted.held_out,
                wanted.data_dir,
                store.log.leading(epoch),
                store.blobs,
                wanted.prepare,
            )
            break
        found, history, end = await asyncio.to_thread(replay, store.log)
        if found is not None:
            require_same(found, wanted.run_file, "the store holds")
            state = found
            break
        if told != node.leader:
            told = node.leader
            log.info("there is no run in the store yet; the coordinator that leads makes it: %s", told)
        await asyncio.to_thread(store.log.wait, 0, LOOK_S)
    uploads = UploadStore(store.uploads, uploads_bytes(wanted.run_file, state), state)
    front_end = FrontEnd(store.log, state, node.election.holder.name, end)
    evaluator = await asyncio.to_thread(_evaluator, wanted, state, store.blobs)
    return Opened(front_end, history, store.blobs, uploads, evaluator)


def _evaluator(wanted: RunToOpen, state: State, blobs: FiledBlobs) -> Evaluator:
    return Evaluator(
        read_given(blobs.path(state.program.sha256), state.program.size_bytes),
        state.layout,
        task_class(wanted.run_file.model.task)(state.program.card),
        evaluated(wanted.held_out, state, blobs),
        constants_of(state, blobs),
    )
