"""`zowarmup-server RUN.toml --data-dir DIR`: one coordinator, from its run file to its exit code.

Everything that touches the world is composed here: the data directory and its lock, the ledger, the listening port,
the event loop and the signals.
"""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from zowarmup.common.exact.steps import allow_compiled
from zowarmup.common.settings.addresses import DATA_DIR_VARIABLE, host_and_port
from zowarmup.common.settings.run import PROTOCOL, SOFTWARE, RunFile
from zowarmup.common.system.ending import FAILED, SERVICE, USAGE, Stopping, conclude
from zowarmup.common.system.files import PRIVATE
from zowarmup.common.system.logs import Throttle, log_to_errors
from zowarmup.data import DataError, load
from zowarmup.server.coordinator import Unavailable
from zowarmup.server.core.errors import ListeningError, TrackingError
from zowarmup.server.rpc.auth import CredentialError
from zowarmup.server.rpc.endpoints import endpoint_of
from zowarmup.server.runtime import tune_allocator, tune_collector
from zowarmup.server.served import Served, Serving, Shared
from zowarmup.server.serving import CoordinatorFailed, serve
from zowarmup.server.setup.model_cache import cached
from zowarmup.server.setup.open_run import StartError, locked
from zowarmup.server.setup.prepare import Children, PreparationError, prepare
from zowarmup.server.setup.run_file import RunFileError, read_run_file
from zowarmup.server.shutdown import settle
from zowarmup.server.store.archive import ArchiveError
from zowarmup.server.store.blobs import BlobError
from zowarmup.server.store.ledger import LedgerError

log = logging.getLogger("zowarmup.server")

LINES, RUN_LINES = (20.0, 2.0), (500.0, 50.0)
"""How many lines of a kind are logged at once, and then a second; and of what the run itself says (`event_logger`), as a fast
one commits often, and a fleet connects at once."""


_EXPECTED: dict[type[Exception], int] = {
    RunFileError: USAGE,
    **dict.fromkeys(
        (
            StartError,
            ListeningError,
            CredentialError,
            LedgerError,
            ArchiveError,
            PreparationError,
            DataError,
            BlobError,
            TrackingError,
            Unavailable,
            CoordinatorFailed,
        ),
        FAILED,
    ),
}


def main(stopping: Stopping | None = None) -> int:
    """Exit code: 0 when stopped by SIGTERM or left as asked, 1 where something stands in the way, 2 for a wrong command line,
    3 for a run that gave up, 130 on Ctrl-C; conclude has the others."""
    stopping = stopping or Stopping(SERVICE)
    tune_allocator()
    return conclude("zowarmup-server", sys.argv[1:], lambda: _run(stopping), _EXPECTED)


def arguments_parser() -> argparse.ArgumentParser:
    """What the command understands; the environment says what may be left out."""
    parser = argparse.ArgumentParser(
        prog="zowarmup-server",
        description="Lead one run of federated training: wait for devices (zowarmup-client), and train with them until the run is over. "
        "Started again with the same --data-dir, it goes on where it was.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "run_file", metavar="RUN.toml", type=Path, help="what to train, and how (examples/digits.toml names all)"
    )
    known = os.environ.get(DATA_DIR_VARIABLE) or None
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        type=Path,
        required=known is None,
        default=known,
        help=f"where the run lives on disk (or in {DATA_DIR_VARIABLE})",
    )
    parser.add_argument("--address", metavar="HOST:PORT", help="listen here instead of the run file's address")
    parser.add_argument(
        "--advertise",
        metavar="HOST:PORT",
        default="",
        help="where the run's other coordinators reach this one, if that is not where it listens (docs/scaling.md)",
    )
    parser.add_argument(
        "--metrics-address",
        metavar="HOST:PORT",
        help="show Prometheus metrics here instead of at the run file's metrics_address",
    )
    parser.add_argument(
        "--web-address", metavar="HOST:PORT", help="serve the live page here instead of at the run file's web_address"
    )
    parser.add_argument(
        "--insecure", action="store_true", help="allow plain text on an address that is not loopback (docs/security.md)"
    )
    parser.add_argument(
        "--model-cache",
        metavar="DIR",
        type=Path,
        help="take the model from here, or build it and leave it here, and measure nothing (docs/experiments.md)",
    )
    parser.add_argument("--exit-when-finished", action="store_true", help="leave when the run is over")
    parser.add_argument("--verbose", action="store_true", help="log every round, and tracebacks")
    parser.add_argument("--version", action="version", version=f"{SOFTWARE}, protocol {PROTOCOL}")
    return parser


def _run(stopping: Stopping) -> int:
    arguments = arguments_parser().parse_args()
    os.umask(PRIVATE)
    handler = log_to_errors("%(asctime)s %(levelname)-7s %(message)s", arguments.verbose)
    handler.addFilter(Throttle(*LINES, {"zowarmup.run": RUN_LINES}))
    allow_compiled()
    try:
        run_file = read_run_file(arguments.run_file)
        address = run_file.server.address
        if arguments.address:
            address = type(run_file.server)(address=arguments.address).address
        metrics_address = run_file.server.metrics_address
        if arguments.metrics_address:
            metrics_address = type(run_file.server)(metrics_address=arguments.metrics_address).metrics_address
        web_address = run_file.server.web_address
        if arguments.web_address is not None:
            web_address = type(run_file.server)(web_address=arguments.web_address).web_address
    except ValueError as error:
        raise RunFileError(str(error)) from error
    try:
        held_out = load(run_file.evaluation.data)
        way = endpoint_of(run_file.server, address, arguments.insecure)
        shown = None
        if metrics_address:
            from zowarmup.server.telemetry.endpoints import metrics_endpoint

            shown = metrics_endpoint(run_file.server, metrics_address, arguments.insecure)
        children, cache = Children(), arguments.model_cache
        serving = Serving(
            run_file=run_file,
            held_out=held_out,
            data_dir=arguments.data_dir,
            way=way,
            shown=shown,
            web_address=web_address,
            insecure=arguments.insecure,
            prepare=lambda spec, seed, folder: (
                cached(spec, seed, cache, children) if cache else prepare(spec, seed, folder, children)
            ),
            end_preparing=children.end,
            exit_when_finished=arguments.exit_when_finished,
            shared=_shared(run_file, arguments.data_dir, arguments.advertise),
        )
        with locked(arguments.data_dir) as listens:
            return asyncio.run(_serve(serving, stopping, listens))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise StartError(
            f"{where}{error.strerror or error}; --data-dir {arguments.data_dir} must be readable and writable by this "
            "user, with room to write"
        ) from error


def _shared(run_file: RunFile, data_dir: Path, advertise: str) -> Shared | None:
    """The store that the run file says is shared with other coordinators; None where it is the data directory's own."""
    if advertise:
        try:
            host_and_port(advertise)
        except ValueError as error:
            raise RunFileError(f"--advertise: {error}") from error
    if not run_file.server.store:
        return None
    from zowarmup.server.sharing import shared_by

    return shared_by(run_file, data_dir, advertise)


async def _serve(serving: Serving, stopping: Stopping, listens: Callable[[str], None]) -> int:
    def ready(served: Served) -> None:
        listens(serving.way.at(served.port))
        tune_collector()

    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[int] = loop.create_future()
    with stopping.notifying(lambda: loop.call_soon_threadsafe(settle, stopped, stopping.code)):
        return await serve(serving, stopped, ready)


if __name__ == "__main__":
    sys.exit(main())
