"""Which run a data directory belongs to where the run is kept elsewhere: a small file that its coordinator writes, so that a folder stays
the way to name a run."""

import json
import os
from pathlib import Path

from zowarmup.common.settings.store import StoreAddress
from zowarmup.common.system.files import read_given, replacing
from zowarmup.server.store.archive import LEDGER, ArchiveError

PLACE = "store.json"


def remember(data_dir: Path, address: StoreAddress) -> None:
    """Write down that the run of a data directory is kept at an address, which has its schema.

    Args:
        data_dir: The directory, which exists.
        address: Where the run is kept.

    Raises:
        ArchiveError: The directory holds a run of its own, or belongs to another one.
        OSError: It cannot be written.
    """
    if (data_dir / LEDGER).exists():
        raise ArchiveError(
            f"{data_dir} holds a run of its own: copy it to the store (`zowarmup backup`, then `zowarmup restore --store`), and "
            "use another --data-dir"
        )
    found = remembered(data_dir)
    if found is not None and found.schema != address.schema:
        raise ArchiveError(f"{data_dir} belongs to the run in {found}: use another --data-dir for the one in {address}")
    if found != address:
        with replacing(data_dir / PLACE, f".{os.getpid()}.new") as partial:
            partial.write_text(json.dumps({"store": str(address)}) + "\n", encoding="utf-8")


def remembered(data_dir: Path) -> StoreAddress | None:
    """Where the run of a data directory is kept; None where that is the directory itself. Raises ArchiveError where the file that says
    so cannot be read."""
    path = data_dir / PLACE
    try:
        found = StoreAddress.of(json.loads(read_given(path))["store"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArchiveError(
            f'{path} does not say where the run is kept ({error}): write {{"store": "URL?schema=NAME"}} into it'
        ) from error
    if not found.schema:
        raise ArchiveError(f"{path} names no schema: add ?schema=NAME to its URL")
    return found


def require_alone(data_dir: Path) -> None:
    """Raises ArchiveError where the run of a data directory is kept elsewhere."""
    if (found := remembered(data_dir)) is not None:
        raise ArchiveError(
            f"{data_dir} belongs to the run in {found}: set server.store to that, or use another --data-dir"
        )
