"""The store that a run's coordinators share, as the run file names it: a schema of a PostgreSQL database, with this machine's files in
front of it."""

import secrets
import socket
from collections.abc import Callable
from pathlib import Path

from zowarmup.common.settings.addresses import host_and_port
from zowarmup.common.settings.run import RunFile
from zowarmup.common.settings.store import StoreAddress
from zowarmup.server.cluster.node import SharedStore
from zowarmup.server.cluster.uploads import SpooledUploads
from zowarmup.server.rpc.endpoints import Endpoint
from zowarmup.server.served import Shared
from zowarmup.server.store.archive import BLOBS, UPLOADS
from zowarmup.server.store.blob_files import BlobFiles
from zowarmup.server.store.cached_blobs import CachedBlobs
from zowarmup.server.store.lease import Holder
from zowarmup.server.store.place import remember
from zowarmup.server.stored.opening import open_database

_ANY = ("0.0.0.0", "::", "")


def shared_by(run_file: RunFile, data_dir: Path, advertise: str) -> Shared:
    """What is shared of a run.

    Args:
        run_file: With `server.store`.
        data_dir: Where this coordinator has its files.
        advertise: HOST:PORT that other coordinators reach this one at; empty: where it listens.
    """
    address = StoreAddress.of(run_file.server.store).of_run(run_file.name)
    host = socket.gethostname()

    def opened(took: Callable[[float], None]) -> SharedStore:
        remember(data_dir, address)
        stores = open_database(address, name=f"zowarmup on {host}", took=took)
        return SharedStore(
            stores.log,
            CachedBlobs(stores.blobs, BlobFiles(data_dir / BLOBS)),
            SpooledUploads(BlobFiles(data_dir / UPLOADS), stores.uploads),
            stores.uploads,
            stores.lease,
            stores.close,
        )

    def holder(way: Endpoint, port: int) -> Holder:
        listening, _ = host_and_port(way.at(port))
        named = host if listening in _ANY else listening
        reached = advertise or (f"[{named}]:{port}" if ":" in named else f"{named}:{port}")
        return Holder(
            name=f"{host}:{port}", address=reached, secret=secrets.token_hex(32), authority=way.trusted.decode()
        )

    return Shared(open=opened, holder=holder, lease_s=run_file.server.lease_s)
