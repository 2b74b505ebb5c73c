"""`zowarmup-server RUN.toml --data-dir DIR`: one coordinator, from its run file to its exit code.

Everything that touches the world is composed here: the data directory and its lock, the ledger, the listening port,
the event loop and the signals.
"""

import argparse
import asyncio
import contextlib
import fcntl
import logging
import math
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import grpc
import numpy as np
from numpy.typing import NDArray

from zowarmup.common.layout import digest
from zowarmup.common.run import PROTOCOL, ClientSpec, RunFile
from zowarmup.common.work import Phase
from zowarmup.data import DataError, Dataset, load
from zowarmup.server import events as ev
from zowarmup.server.archive import BLOBS, LEDGER, ArchiveError, replay, restore
from zowarmup.server.blobs import BlobError, Blobs
from zowarmup.server.coordinator import Coordinator, Unavailable
from zowarmup.server.credentials import CredentialError, operator_sha256
from zowarmup.server.decide import decide
from zowarmup.server.effects import Effects, settle_on_grid
from zowarmup.server.evaluation import Evaluator
from zowarmup.server.history import History
from zowarmup.server.ledger import Ledger, LedgerError
from zowarmup.server.listening import Door, ListeningError, door
from zowarmup.server.narrator import Narrator
from zowarmup.server.preparation import Children, PreparationError, prepare
from zowarmup.server.refusals import Refusals
from zowarmup.server.runfile import RunFileError, differences, read_run_file
from zowarmup.server.service.admission import Admission
from zowarmup.server.service.assembly import add_services
from zowarmup.server.service.limits import LONGEST_BYTES, Allowances, Lengths
from zowarmup.server.service.links import Switchboard
from zowarmup.server.service.operators import OperatorService
from zowarmup.server.service.participate import CoordinatorService
from zowarmup.server.service.uploads import Uploads
from zowarmup.server.state import State, fold
from zowarmup.server.traffic import Traffic

log = logging.getLogger("zowarmup.server")

TICK_S = 0.25
REPORTS_S = 10.0
LOOKED_S = 3.0
GIVEN_UP = 3  # the exit code of a run that has paused itself
# Measured: a burst of 2,000 clients is shed by the defaults; the ping option is the one that grpc heeds.
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
)


class StartError(Exception):
    """The coordinator cannot start; the sentence says why and what to do."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="zowarmup-server", description="Lead one run of federated training.")
    parser.add_argument(
        "run_file", metavar="RUN.toml", type=Path, help="what to train, and how (examples/digits.toml names all)"
    )
    parser.add_argument("--data-dir", metavar="DIR", type=Path, required=True, help="where the run lives on disk")
    parser.add_argument("--address", metavar="HOST:PORT", help="listen here instead of the run file's address")
    parser.add_argument(
        "--insecure", action="store_true", help="allow plain text on an address that is not loopback (docs/security.md)"
    )
    parser.add_argument(
        "--exit-when-finished", action="store_true", help="leave when the run is over (exit code 3: it gave up)"
    )
    parser.add_argument("--verbose", action="store_true", help="log every round")
    parser.add_argument("--version", action="version", version=f"zowarmup {version('zowarmup')}, protocol {PROTOCOL}")
    arguments = parser.parse_args()
    logging.basicConfig(
        level=logging.DEBUG if arguments.verbose else logging.INFO,
        format="%(asctime)s %(levelname)-7s %(message)s",
    )
    for noisy in ("asyncio", "grpc", "grpc._cython.cygrpc"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        run_file = read_run_file(arguments.run_file)
        address = run_file.server.address
        if arguments.address:
            address = type(run_file.server)(address=arguments.address).address
    except (RunFileError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    try:
        held_out = load(run_file.evaluation.data)
        way = door(run_file.server, address, arguments.insecure)
        with _locked(arguments.data_dir):
            return asyncio.run(_serve(run_file, held_out, arguments, way))
    except (
        StartError,
        ListeningError,
        CredentialError,
        LedgerError,
        ArchiveError,
        PreparationError,
        DataError,
        BlobError,
        Unavailable,
    ) as error:
        print(f"zowarmup-server: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"zowarmup-server: {where}{error.strerror or error}; --data-dir {arguments.data_dir} must be readable and "
            "writable by this user, with room to write",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        return 130


@contextlib.contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    """Two coordinators on one data directory would fork the run."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = (data_dir / "lock").open("w")
    except OSError as error:
        raise StartError(
            f"--data-dir {data_dir} cannot be written: {error.strerror}; name a folder that this user can write"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StartError(f"--data-dir {data_dir} is in use by another zowarmup-server") from error
        yield


def _open_run(
    run_file: RunFile, held_out: Dataset, data_dir: Path, ledger: Ledger, blobs: Blobs, children: Children
) -> tuple[State, History]:
    """The run in the data directory, made if there is none."""
    state, history = replay(ledger)
    if state is not None:
        if differing := differences(state.run_file, run_file):
            raise StartError(
                f"{data_dir} holds a run that began otherwise: {'; '.join(differing)}. "
                "Use another --data-dir, or the run file it began with"
            )
        if (held_out.shape, held_out.classes) != (state.program.input_shape, state.program.classes):
            raise StartError(
                f"evaluation.data = {run_file.evaluation.data!r} now has examples of shape {held_out.shape} and "
                f"{held_out.classes} classes, the run began with {state.program.input_shape} and "
                f"{state.program.classes}: restore the data, or use another --data-dir"
            )
        log.info("run %s goes on at version %d (%s)", state.run_file.name, state.version, state.phase)
        return state, history
    spec = ClientSpec(
        model=run_file.model,
        input_shape=held_out.shape,
        classes=held_out.classes,
        warmup=run_file.warmup,
        zeroth_order=run_file.zeroth_order,
    )
    with tempfile.TemporaryDirectory(prefix="preparation-", dir=data_dir) as folder:
        prepared = prepare(spec, run_file.seed, Path(folder), children)
    grid = settle_on_grid(prepared.weights, prepared.layout.trainable)
    initial = ev.Snapshot(
        version=0,
        sha256=blobs.put(prepared.weights.data.cast("B")),
        exponent=grid.exponent,
        digest=digest(prepared.weights).hex(),
    )
    program = ev.Program(
        sha256=blobs.put(prepared.program),
        size_bytes=len(prepared.program),
        layout=prepared.layout.to_json(),
        input_shape=spec.input_shape,
        classes=spec.classes,
        high_memory_bytes=prepared.high_memory_bytes,
        low_memory_bytes=prepared.low_memory_bytes,
    )
    now = time.time()
    events = decide(None, ev.CreateRun(uuid.uuid4().hex, run_file, program, initial), now)
    ledger.append(events, now)
    history.record(now, events)
    state = fold(None, events)
    assert state is not None
    log.info(
        "run %s begins: %s, %d parameters; a round needs about %d MB on the high tier, %d MB on the low",
        run_file.name,
        run_file.model.name,
        prepared.layout.trainable,
        prepared.high_memory_bytes >> 20,
        prepared.low_memory_bytes >> 20,
    )
    _warn_of_divergence(run_file, prepared.weights[: prepared.layout.trainable])
    if prepared.layout.head is None and run_file.zeroth_order.head_projections:
        log.info("this model does not end in a linear classifier: clients will probe every parameter")
    return state, history


def _warn_of_divergence(run_file: RunFile, weights: NDArray[np.float32]) -> None:
    """A normalised step moves each weight by about rate / sqrt(directions a round), whatever the model: too much for
    one with small weights, such as a deep one."""
    phase = run_file.zeroth_order
    move = phase.rate / math.sqrt(phase.clients_per_round * phase.probes)
    usual = math.sqrt(np.mean(np.square(weights, dtype=np.float64)))
    if phase.step == "normalized" and move > usual:
        log.warning(
            "zeroth_order.rate = %g moves each weight by about %.2g in the first round, and their usual size is %.2g: "
            "the model will probably be lost; a rate of %.1g or less is worth trying",
            phase.rate,
            move,
            usual,
            phase.rate * usual / move / 4,
        )


async def _serve(run_file: RunFile, held_out: Dataset, arguments: argparse.Namespace, way: Door) -> int:
    refusals = Refusals()
    server = grpc.aio.server(interceptors=(Lengths(refusals),), options=OPTIONS)
    way.open(server)
    way.publish(arguments.data_dir)
    operator = operator_sha256(arguments.data_dir)
    ledger, blobs = Ledger(arguments.data_dir / LEDGER), Blobs(arguments.data_dir / BLOBS)
    children = Children()
    try:
        state, history = await asyncio.to_thread(
            _open_run, run_file, held_out, arguments.data_dir, ledger, blobs, children
        )
    except asyncio.CancelledError:
        children.end()  # so that the thread, which cannot be cancelled, ends now
        raise
    replica = await asyncio.to_thread(restore, state, history, blobs, state.version)
    evaluator = Evaluator(blobs.path(state.program.sha256).read_bytes(), state.layout, held_out)

    coordinator = Coordinator(ledger, state)
    traffic = Traffic(history.traffic)
    allowances = Allowances(run_file.server.messages_per_second)
    uploads = Uploads(blobs, _spool_bytes(run_file, state))
    switchboard = Switchboard(history, allowances)
    effects = Effects(coordinator, blobs, replica, evaluator, traffic.counts)
    coordinator.observe(lambda now, events, after: history.record(now, events))
    coordinator.observe(switchboard)
    coordinator.observe(effects)
    coordinator.observe(uploads)
    coordinator.observe(Narrator())

    admission = Admission(coordinator, operator, way.invited, way.guarded, refusals)
    looked = [0.0]
    healthy = add_services(
        server,
        CoordinatorService(coordinator, blobs, switchboard, traffic, admission, uploads, allowances),
        OperatorService(coordinator, history, traffic, admission, lambda: looked.__setitem__(0, time.monotonic())),
    )

    stopped: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    for number, status in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
        asyncio.get_running_loop().add_signal_handler(number, _settle, stopped, status)
    loops = [asyncio.create_task(job) for job in (coordinator.run(), effects.run(), _tick(coordinator))]
    if arguments.exit_when_finished:
        loops.append(asyncio.create_task(_leave(coordinator, looked, stopped)))
    for task in loops:
        task.add_done_callback(lambda task: _failed(task, stopped))
    await coordinator.handle(ev.Restart())
    effects.resume()
    await server.start()
    await healthy()
    log.info("%s", way.describe())
    if coordinator.state.phase is Phase.FINISHED:
        log.info("this run is finished: its status and versions are served until you stop the server")

    status = await stopped
    log.info("stopping at version %d; start again with the same --data-dir to go on", coordinator.state.version)
    switchboard.close_all()
    await server.stop(grace=2.0)
    for task in loops:
        task.cancel()
    await asyncio.gather(*loops, return_exceptions=True)
    ledger.close()
    return status


def _spool_bytes(run_file: RunFile, state: State) -> int:
    """The quota for uploads. Raises StartError where one round's do not fit."""
    rules = run_file.warmup
    drawn = -(-rules.clients_per_round * (1 + rules.over_selection) // 1)
    needed_mb = -(-int(drawn) * 4 * state.layout.size // (1 << 20)) if rules.rounds else 0
    if needed_mb > run_file.server.spool_mb:
        raise StartError(
            f"server.spool_mb = {run_file.server.spool_mb}: a round of {drawn:g} deltas needs {needed_mb}; raise it, "
            "or lower warmup.clients_per_round or warmup.over_selection"
        )
    return run_file.server.spool_mb << 20


async def _tick(coordinator: Coordinator) -> None:
    while True:
        with contextlib.suppress(Unavailable):
            await coordinator.handle(ev.Tick())
        await asyncio.sleep(TICK_S)


async def _leave(coordinator: Coordinator, looked: list[float], stopped: "asyncio.Future[int]") -> None:
    """Once the run is finished and evaluated, every client has said what it holds (or had time to), and nobody is
    looking at the status any more; or once the run has paused itself. Started again after that, it waits to be
    resumed."""
    resumable = coordinator.state.given_up
    while coordinator.state.phase is not Phase.FINISHED or _unevaluated(coordinator.state):
        resumable = resumable and coordinator.state.given_up
        if coordinator.state.given_up and not resumable:
            log.error("leaving, as nobody is here to resume it: %s", coordinator.state.paused)
            _settle(stopped, GIVEN_UP)
            return
        await asyncio.sleep(TICK_S)
    finished = time.monotonic()
    while time.monotonic() < finished + REPORTS_S:
        presence = coordinator.state.presence.values()
        if all(p.digest or not p.connected for p in presence):
            break
        await asyncio.sleep(TICK_S)
    while time.monotonic() < looked[0] + LOOKED_S:
        await asyncio.sleep(TICK_S)
    _settle(stopped, 0)


def _unevaluated(state: State) -> bool:
    return state.evaluation is None or state.evaluation.version != state.version


def _settle(stopped: "asyncio.Future[int]", status: int) -> None:
    if not stopped.done():
        stopped.set_result(status)


def _failed(task: "asyncio.Task[None]", stopped: "asyncio.Future[int]") -> None:
    """A part of the coordinator that ends by itself has failed: stop, rather than go on half alive."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("the coordinator cannot go on: %s", error, exc_info=error)
        _settle(stopped, 1)


if __name__ == "__main__":
    sys.exit(main())
