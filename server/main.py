"""`zowarmup-server RUN.toml --data-dir DIR`: one coordinator, from its run file to its exit code.

Everything that touches the world is composed here: the data directory and its lock, the ledger, the listening port,
the event loop and the signals.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from zowarmup.common.exact.replica import Replica
from zowarmup.common.exact.steps import allow_compiled
from zowarmup.common.messages.values import Phase
from zowarmup.common.settings.addresses import DATA_DIR_VARIABLE, is_loopback
from zowarmup.common.settings.run import PROTOCOL, SOFTWARE, RunFile
from zowarmup.common.system.ending import FAILED, GRACE_S, SERVICE, USAGE, Stopping, conclude
from zowarmup.common.system.files import PRIVATE, read_given
from zowarmup.common.system.logs import Throttle, log_to_errors
from zowarmup.common.system.tracing import traces_of
from zowarmup.common.tasks import task_class
from zowarmup.common.text import in_words
from zowarmup.data import DataError, Dataset, load
from zowarmup.server.aggregation.evaluation import Evaluator
from zowarmup.server.aggregation.round_jobs import RoundJobs
from zowarmup.server.coordinator import Coordinator, Unavailable
from zowarmup.server.core import commands as cmd
from zowarmup.server.core.errors import ListeningError, TrackingError
from zowarmup.server.core.state import State
from zowarmup.server.projections.history import History
from zowarmup.server.projections.traffic import Traffic
from zowarmup.server.rpc.auth import Admission, CredentialError, operator_sha256
from zowarmup.server.rpc.endpoints import Endpoint, endpoint_of, health_server
from zowarmup.server.rpc.limits import LONGEST_BYTES, MessageSizeInterceptor, RateLimiter
from zowarmup.server.rpc.operator import OperatorService
from zowarmup.server.rpc.participate import CoordinatorService
from zowarmup.server.rpc.server import Health, PreparingInterceptor, Services
from zowarmup.server.rpc.strangers import (
    INVITED_AT_ONCE,
    INVITED_PER_S,
    OPEN_AT_ONCE,
    OPEN_PER_S,
    Callers,
    Strangers,
    keep_room,
)
from zowarmup.server.rpc.streams import StreamRegistry
from zowarmup.server.runtime import connections, raise_file_limit, tune_allocator, tune_collector
from zowarmup.server.setup.model_cache import cached
from zowarmup.server.setup.open_run import StartError, constants_of, evaluated, locked, open_run, uploads_bytes
from zowarmup.server.setup.prepare import Children, PreparationError, Preparer, prepare
from zowarmup.server.setup.run_file import RunFileError, read_run_file
from zowarmup.server.shutdown import GIVEN_UP, TICK_S, leave, settle
from zowarmup.server.store.archive import BLOBS, LEDGER, UPLOADS, ArchiveError, restore
from zowarmup.server.store.blob_files import BlobFiles
from zowarmup.server.store.blobs import BlobError
from zowarmup.server.store.ledger import Ledger, LedgerError
from zowarmup.server.store.uploads import UploadStore
from zowarmup.server.telemetry.event_logger import EventLogger
from zowarmup.server.telemetry.round_traces import RoundTraces
from zowarmup.server.tracking.delivery import RunTracking
from zowarmup.server.tracking.opening import trackers_of
from zowarmup.server.websites import Site, page_of

if TYPE_CHECKING:
    from zowarmup.server.telemetry.endpoints import HttpEndpoint

log = logging.getLogger("zowarmup.server")

LAST_S = 0.5
"""How long a server that stops waits for calls that have been answered to end."""
TOLD_S = 0.3
"""How long it then tells trackers what they have not been told yet, and exports its last spans."""
FEW = 2048
"""A limit of connections that a fleet may meet."""
LINES, RUN_LINES = (20.0, 2.0), (500.0, 50.0)
"""How many lines of a kind are logged at once, and then a second; and of what the run itself says (`event_logger`), as a fast
one commits often, and a fleet connects at once."""


class CoordinatorFailed(Exception):
    """A part of the coordinator has ended by itself, and with it the coordinator. The cause is what it raised."""


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
# Measured: a burst of 2,000 clients is shed by the defaults; the ping option is the one that grpc heeds. A call may be
# sent so much ahead of its reader: left to itself, grpc finds a fast link out and takes 9 MB of every upload into memory.
OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.server.max_pending_requests", 20000),
    ("grpc.server.max_pending_requests_hard_limit", 40000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5000),
    ("grpc.keepalive_time_ms", 10000),
    ("grpc.keepalive_timeout_ms", 10000),
    ("grpc.http2.ping_timeout_ms", 10000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", LONGEST_BYTES),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 1 << 19),
    # Whoever connects and says nothing, or has said nothing for long, is cut off. Measured: the first holds until a
    # connection has sent its HTTP/2 settings, the second for one without a call from then on (a device has its stream).
    ("grpc.server_handshake_timeout_ms", 20_000),
    ("grpc.max_connection_idle_ms", 60_000),
    # Four times as many as the clients of a fleet process that share a connection.
    ("grpc.max_concurrent_streams", 1024),
)


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
        leading = Leading(
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
        )
        with locked(arguments.data_dir) as listens:
            return asyncio.run(_serve(leading, stopping, listens))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise StartError(
            f"{where}{error.strerror or error}; --data-dir {arguments.data_dir} must be readable and writable by this "
            "user, with room to write"
        ) from error


@dataclass(frozen=True, kw_only=True)
class Leading:
    """A run that a coordinator leads, and how.

    Args:
        run_file: The run.
        held_out: What it is evaluated on.
        data_dir: Where it lives on disk; this process holds it (`locked`).
        way: Where the coordinator listens.
        shown: Where its metrics are shown; None: nowhere.
        web_address: Where the live page is, as `Server.web_address` has it.
        insecure: Whether it may be in plain text for others to read.
        prepare: Makes the model, if there is no run yet.
        end_preparing: Ends that, from another thread, where the coordinator is stopped meanwhile.
        exit_when_finished: Whether it leaves when the run is over, or has paused itself.
    """

    run_file: RunFile
    held_out: Dataset
    data_dir: Path
    way: Endpoint
    shown: "HttpEndpoint | None" = None
    web_address: str = ""
    insecure: bool = False
    prepare: Preparer = field(repr=False)
    end_preparing: Callable[[], None] = field(default=lambda: None, repr=False)
    exit_when_finished: bool = False


@dataclass(frozen=True)
class Served:
    """A coordinator that answers, at `port`, and what it knows. `page`: the address of its live page; empty where there is
    none."""

    port: int
    coordinator: Coordinator
    history: History
    traffic: Traffic
    page: str = ""


async def _serve(leading: Leading, stopping: Stopping, listens: Callable[[str], None]) -> int:
    def ready(served: Served) -> None:
        listens(leading.way.at(served.port))
        tune_collector()

    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[int] = loop.create_future()
    with stopping.notifying(lambda: loop.call_soon_threadsafe(settle, stopped, stopping.code)):
        return await lead(leading, stopped, ready)


async def lead(leading: Leading, stopped: "asyncio.Future[int]", ready: Callable[[Served], None]) -> int:
    """Lead a run.

    Args:
        leading: Which, and how.
        stopped: Its result ends the coordinator, which sets one itself where it leaves.
        ready: Called just before the coordinator answers.

    Returns:
        The exit code: the result of `stopped`, or GIVEN_UP where the run has given up.

    Raises:
        CoordinatorFailed: A part of it has failed. And what `_EXPECTED` names.
    """
    async with contextlib.AsyncExitStack() as listening:
        return await _lead(leading, stopped, ready, listening)


async def _lead(
    leading: Leading,
    stopped: "asyncio.Future[int]",
    ready: Callable[[Served], None],
    listening: contextlib.AsyncExitStack,
) -> int:
    run_file, held_out, data_dir = leading.run_file, leading.held_out, leading.data_dir
    way, shown = leading.way, leading.shown
    trackers = trackers_of(run_file.tracking)
    refusals = Counter[str]()
    preparing = PreparingInterceptor()
    most = connections(raise_file_limit())
    strangers = Strangers(*((INVITED_PER_S, INVITED_AT_ONCE) if way.invited else (OPEN_PER_S, OPEN_AT_ONCE)))
    lengths, callers = MessageSizeInterceptor(refusals, strangers.arriving), Callers(strangers, refusals)
    server = grpc.aio.server(
        interceptors=(preparing, callers, lengths),
        options=(*OPTIONS, ("grpc.max_allowed_incoming_connections", most)),
    )
    if most < FEW:
        log.warning("at most %d connections are possible here: raise the limit on open files (ulimit -Hn)", most)
    port = way.open(server)
    probing = Strangers(INVITED_PER_S, INVITED_AT_ONCE)
    bounds = Callers(probing, refusals), MessageSizeInterceptor(refusals, probing.arriving)
    beside = health_server(run_file.server.health_address, bounds)
    health = Health(server, beside)
    services = Services(server, run_file.server.reflection or is_loopback(way.address))
    await health.declare(serving=False)
    way.publish(data_dir)
    operator = operator_sha256(data_dir)
    page = page_of(run_file.server, leading.web_address, leading.insecure, way, operator, data_dir)
    metrics = None
    if shown is not None:
        from zowarmup.server.telemetry.metrics import RunMetrics

        metrics = RunMetrics(run_file.name)
    path = data_dir / LEDGER
    ledger = Ledger(path) if metrics is None else Ledger(path, took=metrics.appended)
    listening.callback(ledger.close)
    blobs = BlobFiles(data_dir / BLOBS)

    def take_up() -> tuple[State, History, Replica, int]:
        state, history, end = open_run(run_file, held_out, data_dir, ledger, blobs, leading.prepare)
        return state, history, restore(state, history, blobs, state.version), end

    for early in filter(None, (server, beside)):
        await early.start()
        listening.push_async_callback(early.stop, LAST_S)
    listening.callback(preparing.end)
    opening = asyncio.create_task(asyncio.to_thread(take_up))
    either: set[asyncio.Future[Any]] = {opening, stopped}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if stopped.done():
        leading.end_preparing()  # so that the thread, which cannot be cancelled, ends now
        log.info("stopped before the run was ready; start again with the same --data-dir")
        await asyncio.wait({opening}, timeout=GRACE_S)
        opening.add_done_callback(lambda over: over.cancelled() or over.exception())  # what it met was our doing
        return stopped.result()
    state, history, replica, end = opening.result()
    evaluator = Evaluator(
        read_given(blobs.path(state.program.sha256), state.program.size_bytes),
        state.layout,
        task_class(run_file.model.task)(state.program.card),
        evaluated(held_out, state, blobs),
        constants_of(state, blobs),
    )

    coordinator = Coordinator(ledger, state, end=end)
    traffic = Traffic(lambda: coordinator.state.phase, history.traffic.latest)
    rate_limiter = RateLimiter(run_file.server.messages_per_second)
    uploads = UploadStore(BlobFiles(data_dir / UPLOADS), uploads_bytes(run_file, state), state)
    traces = traces_of("zowarmup-server")
    rounds = RoundTraces(traces, state) if traces else None
    stream_registry = StreamRegistry(history, rate_limiter, *((rounds.parent,) if rounds else ()))
    round_jobs = RoundJobs(
        coordinator, blobs, uploads, replica, evaluator, history, lambda: traffic.since(history.traffic.latest)
    )
    coordinator.observe(lambda now, events, after: history.record(coordinator.written_at, events, now))
    if rounds is not None:
        round_jobs.part = rounds.part
        coordinator.observe(rounds)  # before the streams, which say whose child a client's span is
    coordinator.observe(stream_registry)
    coordinator.observe(round_jobs)
    coordinator.observe(uploads)
    coordinator.observe(EventLogger())
    tracking = RunTracking(trackers, state, history)
    coordinator.observe(tracking)

    admission = Admission(coordinator, operator, way.invited, way.guarded, refusals)
    callers.knows = admission.knows
    looked = [0.0]
    services.add(
        CoordinatorService(coordinator, blobs, stream_registry, traffic, admission, uploads, rate_limiter, strangers),
        OperatorService(
            coordinator,
            history,
            traffic,
            admission,
            lambda: looked.__setitem__(0, time.monotonic()),
            lambda: way.expires_at or 0.0,
        ),
    )

    website, sites = None, list[Site]()
    if shown is not None and metrics is not None:
        from zowarmup.server.telemetry.http import HttpServer
        from zowarmup.server.telemetry.metrics import Sources
        from zowarmup.server.telemetry.tcp_info import WireBytes

        wire = WireBytes(port, traffic, lambda: coordinator.state.phase)
        wire.listen(asyncio.get_running_loop())
        coordinator.observe(wire)
        metrics.show(
            Sources(
                coordinator,
                history,
                traffic,
                refusals,
                data_dir,
                data_dir / LEDGER,
                data_dir / BLOBS,
                stream_registry.catch_ups,
                wire,
                lambda: way.expires_at,
            )
        )
        website = HttpServer(shown, {"/metrics": metrics.application})
        log.info("metrics at %s/metrics", website.open())
        sites.append(website)
    if page is not None:
        page.open(coordinator, history, traffic, refusals, way)
        sites.append(page)

    def renewed() -> None:
        way.publish(data_dir)
        for site in sites:
            site.renew()

    loops = [asyncio.create_task(job) for job in (coordinator.run(), round_jobs.run(), _tick(coordinator))]
    if way.certificates is not None:
        loops.append(asyncio.create_task(way.certificates.watch(renewed)))
    watching = asyncio.create_task(keep_room(port, most, traffic.members))
    listening.callback(lambda: [task.cancel() for task in (*loops, watching)])
    scraped = website is not None
    over = leave(coordinator, looked, stopped, leading.exit_when_finished, scraped, pending=lambda: tracking.pending)
    loops.append(asyncio.create_task(over))
    faults: list[BaseException] = []
    for task in loops:
        task.add_done_callback(lambda task: _failed(task, stopped, faults))
    await coordinator.handle(cmd.Restart())
    round_jobs.resume()
    ready(Served(port, coordinator, history, traffic, page.url if page else ""))
    preparing.ready.set()
    await health.declare(serving=True)
    log.info("%s", way.describe(port))
    if coordinator.state.gave_up:
        log.error(
            "this run has given up: %s; `zowarmup export` its model and begin another run from it (model.weights), at a "
            "lower rate",
            coordinator.state.gave_up,
        )
    elif coordinator.state.phase is Phase.FINISHED:
        log.info("this run is finished: its status and versions are served until you stop the server")

    status = await stopped
    if coordinator.state.gave_up and not status:
        status = GIVEN_UP
    more = "" if coordinator.state.phase is Phase.FINISHED else "; start again with the same --data-dir to go on"
    log.info("stopping at version %d%s", coordinator.state.version, more)
    for site in sites:
        await asyncio.to_thread(site.close)
    stream_registry.close_all()
    await asyncio.gather(*(asyncio.to_thread(one.close, TOLD_S) for one in (tracking, traces) if one is not None))
    await server.stop(grace=GRACE_S / 2)
    if beside is not None:
        await beside.stop(None)
    for task in (*loops, watching):
        task.cancel()
    await asyncio.gather(*loops, watching, return_exceptions=True)
    if faults:
        raise CoordinatorFailed(f"the coordinator cannot go on: {in_words(faults[0])}") from faults[0]
    return status


async def _tick(coordinator: Coordinator) -> None:
    while True:
        with contextlib.suppress(Unavailable):
            await coordinator.handle(cmd.Tick())
        await asyncio.sleep(TICK_S)


def _failed(task: "asyncio.Task[None]", stopped: "asyncio.Future[int]", faults: list[BaseException]) -> None:
    """A part of the coordinator that ends by itself has failed: stop, rather than go on half alive."""
    if not task.cancelled() and (error := task.exception()) is not None:
        faults.append(error)
        log.critical("the coordinator cannot go on", exc_info=error)
        settle(stopped, 1)


if __name__ == "__main__":
    sys.exit(main())
