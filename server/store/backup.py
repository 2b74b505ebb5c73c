"""A whole copy of a data directory, made while its coordinator goes on.

The ledger is copied first while it is being written: all of it, as it was at one moment. What
it names is then copied from the blobs, each checked against its name. A blob is on disk before the ledger names it, so
nothing can be missing, but for a snapshot that was pruned in between; then both are copied again. The copy has its name
only once it is whole, and the newest version has been computed anew from it.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from zowarmup.common.system.files import strangers
from zowarmup.server.core.contributions import deltas_of, upload_name
from zowarmup.server.core.state import State
from zowarmup.server.store.archive import ArchiveError, open_archive, restore
from zowarmup.server.store.blobs import BlobError, Blobs, digest_of, sha256_of
from zowarmup.server.store.data_dir import BLOBS, CA_FILE, LEDGER, OPERATOR_CREDENTIAL
from zowarmup.server.store.files import sync_folder, sync_tree
from zowarmup.server.store.ledger import Ledger, remove_beside, remove_files

ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy holds: its newest version with its digest (hex), and its size."""

    run: str
    version: int
    digest: str
    size_bytes: int


def back_up(data_dir: Path, out: Path) -> Copied:
    """Copy the run in a data directory to the folder `out`, which must not exist. Raises ArchiveError, BlobError,
    LedgerError or OSError; then there is no `out`."""
    if out.exists():
        raise ArchiveError(f"{out} exists already: name a folder that does not, one for each backup")
    if not (data_dir / LEDGER).exists():
        raise ArchiveError(f"{data_dir} holds no run: {data_dir / LEDGER} does not exist")
    if out.resolve().is_relative_to(data_dir.resolve()):
        raise ArchiveError(f"{out} lies in {data_dir} itself: name a folder outside of it, best on another disk")
    part = out.with_name(out.name + ".part")
    if found := strangers(part, (f"{LEDGER}*", BLOBS, CA_FILE, OPERATOR_CREDENTIAL)):
        raise ArchiveError(f"{part}, where the copy would be made, holds other files ({found}): name another folder")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True, mode=0o700)
    try:
        copied = _copy(data_dir, part)
        sync_tree(part)
        part.rename(out)
        sync_folder(out.absolute().parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return copied


def _copy(data_dir: Path, part: Path) -> Copied:
    for attempt in range(ATTEMPTS):
        ledger = Ledger(data_dir / LEDGER, read_only=True)
        try:
            remove_files(part / LEDGER)
            ledger.copy_to(part / LEDGER)
        finally:
            ledger.close()
        archive = open_archive(part)
        try:
            _copy_blobs(archive.state, data_dir / BLOBS, part / BLOBS)
            break
        except FileNotFoundError as error:
            if attempt == ATTEMPTS - 1:
                raise ArchiveError(
                    f"{error.filename} is missing, though the ledger names it: `zowarmup fsck {data_dir}` says what can "
                    "be saved"
                ) from error
    for name in (OPERATOR_CREDENTIAL, CA_FILE):
        if (data_dir / name).exists():
            shutil.copy(data_dir / name, part / name)  # with its mode
    replica = restore(archive.state, archive.history, Blobs(part / BLOBS), archive.state.version)
    remove_beside(part / LEDGER)
    size = sum(file.stat().st_size for file in part.rglob("*") if file.is_file())
    return Copied(archive.name, replica.version, replica.digest().hex(), size)


def _copy_blobs(state: State, source: Path, target: Path) -> None:
    """What a state names: the program, its snapshots, and the deltas of the round in progress. Raises FileNotFoundError
    where one is not there."""
    named = [(Path(sha256), sha256, sha256_of) for sha256 in {state.program.sha256, *state.snapshot_blobs}]
    for client, delta in deltas_of(state.current).items():
        named.append((Path("uploads", upload_name(client, delta.digest)), delta.digest, digest_of))
    for name, expected, found in named:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)
        if found(target / name) != expected:
            raise BlobError(f"{source / name} is damaged: `zowarmup fsck {source.parent}` says what can be saved")
