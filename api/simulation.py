"""A fleet in this process: a coordinator, and many clients that share one replica, from the first round to the last.

Both are the real ones, and talk to each other by gRPC over loopback. The model is built here too, so it may be an object.
What clients of a process share, and what so differs from processes, is in `lab.simulation`; weights do not differ.
"""

import asyncio
import logging
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from zowarmup.api.background import BackgroundTask
from zowarmup.api.coordination import ANYWHERE, Lead, held_out_set
from zowarmup.api.datasets import dataset, divide
from zowarmup.api.errors import RunError, SettingsError, sentences
from zowarmup.api.folders import PassingFolder
from zowarmup.api.here import forget
from zowarmup.api.participation import NEVER_S
from zowarmup.api.settings import Wanted, code_of, run_of
from zowarmup.api.trained import GivenUp, TrainedRun
from zowarmup.client.policy import Policy
from zowarmup.common.algorithms.settings import WarmUp, ZerothOrder
from zowarmup.common.messages.values import Phase, Tier
from zowarmup.common.settings.run import RunFile, Server
from zowarmup.common.tasks.protocol import Task
from zowarmup.common.text import amount
from zowarmup.data import Dataset

if TYPE_CHECKING:
    from torch import nn

    from zowarmup.server.served import Served

log = logging.getLogger(__name__)
SHOW_EVERY_S, LOOK_S = 5.0, 0.25
UNLIMITED = 1e6
GAVE_UP = 3  # what a coordinator leaves with whose run has paused itself, or ended before its time


@dataclass(frozen=True, kw_only=True)
class SimulationPlan:
    """A run, and who takes part in it.

    Args:
        run: Its settings.
        held_out: What it is evaluated on.
        shards: What each client has.
        names: What each is called.
        high: How many of them, the first ones, train.
        data_dir: Where the run lives.
        threads: How many compute.
        device: Where probes' forward passes run.
    """

    run: RunFile
    held_out: Dataset
    shards: Sequence[Dataset]
    names: tuple[str, ...]
    high: int
    data_dir: Path
    threads: int
    device: str


def simulate(
    model: "str | nn.Module | Callable[..., nn.Module] | None",
    shards: Sequence[object] | str,
    held_out: object = None,
    run: RunFile | Mapping[str, Any] | str | Path | None = None,
    *,
    clients: int | None = None,
    alpha: float = 0.1,
    high: int = 1,
    warmup: WarmUp | Mapping[str, Any] | None = None,
    zeroth_order: ZerothOrder | Mapping[str, Any] | None = None,
    task: str | type[Task] | None = None,
    seed: int | None = None,
    evaluate_every: int | None = None,
    name: str | None = None,
    names: Sequence[str] | None = None,
    data_dir: Path | str | None = None,
    threads: int = 1,
    device: str = "cpu",
    show: bool | Callable[[str], None] = True,
) -> TrainedRun:
    """Train a fleet in this process, and wait until it is done.

    The same settings, data, names and seed give the same weights again, to the last bit, and those of as many processes of
    `zowarmup-server` and `zowarmup-client`, where rounds wait for all who take part: which they do where the phases are tables that
    say nothing else.

    Args:
        model: A built-in model's name, package.module:factory; a torch module, with whose weights the run begins; or a function of
            the input shape and the number of outputs that returns one. None: what `run` names.
        shards: What each client has, as `dataset` takes it; or a data set that is shared out, as `divide` takes it.
        held_out: What versions are evaluated on, as `dataset` takes it. None: what `run` names.
        run: All that is said of the run: a run file, its tables, or an object. What follows comes in the place of what it says.
        clients: How many there are, where `shards` is to be shared out.
        alpha: Of that, as in `divide`.
        high: How many of the clients, the first ones, train by back-propagation; the others only run the model forward.
        warmup: Settings of the warm-up, as a table or an object; its "algorithm" may be a class. None: there is none.
        zeroth_order: The same of the rounds after the pivot.
        task: A task's name or class.
        seed: Of all that is drawn, 0 where nothing is said.
        evaluate_every: Versions between evaluations.
        name: What the run is called.
        names: What the clients are called; None: high-1, ..., low-1, ... The seeds that a client gets depend on its name.
        data_dir: An empty folder for the run, which `load_run` reads; None: a folder that is gone with what this returns. The
            weights of the hundred newest versions of the warm-up are kept in it, unless `run` says another number.
        threads: How many compute.
        device: Where forward passes of probes run: "cpu", or a device of torch's.
        show: Whether a line says how far it is, on standard error; or what is called with it, some times a second, by the thread that waits.

    Returns:
        The run: its history, weights and costs.

    Raises:
        SettingsError: Settings cannot be.
        DataError: Data cannot be.
        GivenUp: The run has ended before its time: it has diverged, or an algorithm's code has failed.
        RunError: It could not begin or not go on.

    Example:
        >>> import zowarmup as zw
        >>> run = zw.simulate(
        ...     "mlp",
        ...     zw.divide("digits", clients=4, alpha=0.5),
        ...     held_out="digits:test",
        ...     warmup={"rounds": 2},
        ...     zeroth_order={"rounds": 3, "probes": 8},
        ...     show=False,
        ... )
        >>> run.version, sorted(run.weights)[0], run.weights["1.weight"].shape
        (5, '1.bias', (128, 64))
    """
    parts, names = _clients(shards, clients, alpha, high, seed or 0, names)
    wanted = Wanted(run, model, task, held_out, warmup, zeroth_order, evaluate_every, seed, name)
    settings = run_of(wanted, {Tier.HIGH: high, Tier.LOW: len(parts) - high})
    settings = replace(settings, server=_alone(settings.server))
    try:
        found = held_out_set(settings, held_out)
        folder = PassingFolder() if data_dir is None else None
        place = folder.path / "server" if folder else Path(str(data_dir)).expanduser()
        plan = SimulationPlan(
            run=settings,
            held_out=found,
            shards=parts,
            names=names,
            high=high,
            data_dir=place,
            threads=threads,
            device=device,
        )
        state = PassingFolder()
        with _threads_kept(), _shown(show) as line:
            reason = _followed(plan, state.path, line)
    finally:
        forget(settings.model.name)
    trained = TrainedRun(place, folder)
    if reason:
        raise GivenUp(reason, trained)
    return trained


def _clients(
    shards: Sequence[object] | str,
    clients: int | None,
    alpha: float,
    high: int,
    seed: int,
    names: Sequence[str] | None,
) -> tuple[list[Dataset], tuple[str, ...]]:
    """What each client has, and what it is called."""
    if clients is not None:
        parts = divide(shards, clients, alpha=alpha, seed=seed)
    elif isinstance(shards, str) or not isinstance(shards, Sequence):
        raise SettingsError("shards is one data set: say how many clients share it, as in clients=10, or give a list")
    else:
        parts = []
    count = clients or len(shards)
    if not 0 <= high <= count:
        raise SettingsError(f"high = {high}: must be 0 to {count}, the number of clients")
    called = names or [f"high-{n + 1}" if n < high else f"low-{n + 1 - high}" for n in range(count)]
    if len(called) != count or len(set(called)) != count:
        raise SettingsError(f"names: there must be {count} different ones, one for each client")
    from zowarmup.client.store.directory import client_name

    try:
        chosen = tuple(map(client_name, called))
    except ValueError as error:
        raise SettingsError(f"names: {error}") from None
    if not parts:
        parts = [dataset(one, source=f"the data of {name}") for one, name in zip(shards, chosen, strict=True)]
    return parts, chosen


def _alone(server: Server) -> Server:
    """Of what a run file says of the coordinator, what is meant for one that nobody else reaches."""
    kept = {name: getattr(server, name) for name in ("abandoned_limit", "keep_snapshots", "uploads_mb")}
    return Server(address=ANYWHERE, messages_per_second=UNLIMITED, **kept)


def _followed(plan: SimulationPlan, state: Path, line: Callable[[str, str], None]) -> str:
    """As `_carry`, with each moment shown by the caller's own thread: a notebook shows it below the cell that asked."""
    moments: SimpleQueue[tuple[str, str]] = SimpleQueue()
    task = BackgroundTask(_carry(plan, state, moments.put))
    try:
        while True:
            over = task.ended(LOOK_S)
            while not moments.empty():
                line(*moments.get())
            if over:
                return task.wait()
    except BaseException:
        task.end()
        raise


async def _carry(plan: SimulationPlan, state: Path, said: Callable[[tuple[str, str]], None]) -> str:
    """The run to its end: why it ended before its time; empty where it did not. Raises RunError."""
    from zowarmup.lab.simulation.host import Host
    from zowarmup.lab.simulation.part import FleetProgress, FleetShare
    from zowarmup.server.rpc.endpoints import endpoint_of
    from zowarmup.server.served import Serving
    from zowarmup.server.setup.build_model import prepare_here

    server = plan.run.server
    with sentences():
        way = endpoint_of(server, server.address, insecure=False)
    serving = Serving(
        run_file=plan.run,
        held_out=plan.held_out,
        data_dir=plan.data_dir,
        way=way,
        prepare=prepare_here,
        exit_when_finished=True,
    )
    lead = Lead(serving)
    said(("building the model", ""))
    leader = asyncio.create_task(lead.run())
    tasks: list[asyncio.Task[Any]] = [leader]
    try:
        either: set[asyncio.Future[Any]] = {leader, lead.served}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if leader.done():
            leader.result()
            raise RunError("the coordinator left before it was ready")
        served = lead.served.result()
        heard: list[FleetProgress] = []

        def hear(progress: FleetProgress) -> None:
            if progress.fault:
                raise RunError(f"a client cannot go on: {progress.fault}")
            heard[:] = [progress]
            said(_moment(served, progress))

        share = FleetShare(
            server=f"127.0.0.1:{served.port}",
            name=plan.run.name,
            data=plan.shards,
            clients=len(plan.shards),
            first=1,
            count=len(plan.shards),
            high=plan.high,
            state=state,
            secret=secrets.token_bytes(32),
            threads=plan.threads,
            device=plan.device,
            policy=Policy(forward_s=NEVER_S, contribution_s=NEVER_S, program_mb=NEVER_S, snapshot_mb=NEVER_S).allowing(
                code_of(plan.run)
            ),
            names=plan.names,
        )
        host = asyncio.create_task(Host(share, hear).run())
        tasks.append(host)
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if host.done():
            with sentences():
                heard[:] = [host.result()]
        status = await leader
        for progress in heard:
            said(_moment(served, progress))  # how it ended, however short it was
        state_now = served.coordinator.state
        return (state_now.gave_up or state_now.paused) if status == GAVE_UP else ""
    finally:
        lead.stop()
        for task in tasks[1:]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _moment(served: "Served", progress: Any) -> tuple[str, str]:
    """How far a run is, as a line, and what of it is worth a line of its own: the phase."""
    state = served.coordinator.state
    rules, metric = state.rules, state.program.metric
    parts = [str(state.phase)]
    if state.phase is not Phase.FINISHED:
        parts.append(f"round {min(state.rounds_done + 1, max(1, rules.rounds))} of {rules.rounds}")
    if state.evaluation is not None and metric.name in state.evaluation.metrics:
        parts.append(
            f"{metric.title} {metric.shown(state.evaluation.metrics[metric.name])} at version {state.evaluation.version}"
        )
    parts.append(f"{amount(progress.up_bytes)} up, {amount(progress.down_bytes)} down")
    if progress.waiting:
        parts.append(progress.waiting)
    return " | ".join(parts), str(state.phase)


@contextmanager
def _shown(show: bool | Callable[[str], None]) -> Iterator[Callable[[str, str], None]]:
    """What is called with a line and its key."""
    if callable(show):
        yield lambda line, key: show(line)
        return
    if not show:
        yield lambda line, key: None
        return
    try:
        from rich.console import Console

        from zowarmup.lab.progress import progress
    except ModuleNotFoundError:
        yield lambda line, key: None
        return
    with progress(Console(stderr=True, highlight=False, markup=False), SHOW_EVERY_S) as tell:
        yield lambda line, key: tell(line, key=key)


@contextmanager
def _threads_kept() -> Iterator[None]:
    """torch computes with as many threads afterwards as before."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else None
    try:
        yield
    finally:
        if before is not None and torch is not None:
            torch.set_num_threads(before)
