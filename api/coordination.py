"""A coordinator in this process: the one of `zowarmup-server`, for as long as a `with` block lasts."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from zowarmup.api.background import BackgroundTask
from zowarmup.api.datasets import dataset
from zowarmup.api.errors import RunError, sentences
from zowarmup.api.folders import PassingFolder
from zowarmup.api.settings import GIVEN, Wanted, require_importable, run_of
from zowarmup.api.trained import GivenUp, TrainedRun
from zowarmup.cli.session.status import Status
from zowarmup.common.algorithms.settings import WarmUp, ZerothOrder
from zowarmup.common.settings.run import RunFile
from zowarmup.common.tasks.protocol import Task
from zowarmup.data import Dataset, load

if TYPE_CHECKING:
    from torch import nn

    from zowarmup.cli.session.session import Session
    from zowarmup.server.served import Served, Serving

ANYWHERE = "127.0.0.1:0"
"""A port that is free, on this machine alone."""
LOOK_S = 0.1
REPORTS_S = 10.0
"""How long the last reports of clients are waited for."""


class Lead:
    """A coordinator as a coroutine on the loop.

    Args:
        serving: What it leads.
    """

    def __init__(self, serving: "Serving") -> None:
        self.serving = serving
        self.served: asyncio.Future[Served] = asyncio.get_running_loop().create_future()
        self._stopped: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def run(self) -> int:
        """Until it leaves or is stopped; its exit code."""
        from zowarmup.server.serving import serve
        from zowarmup.server.setup.open_run import locked

        with sentences(), locked(self.serving.data_dir) as listens:

            def ready(served: "Served") -> None:
                listens(self.serving.way.at(served.port))
                self.served.set_result(served)

            return await serve(self.serving, self._stopped, ready)

    def stop(self) -> None:
        if not self._stopped.done():
            self._stopped.set_result(0)


class LocalCoordinator:
    """A coordinator that listens as long as a `with` block lasts: devices join it as they join `zowarmup-server`, from this
    process or any other.

    Args:
        run: All that is said of the run: a run file, its tables, or an object. What follows comes in the place of what it says.
        model: A built-in model's name, package.module:factory, or a factory that can be imported from its module.
        held_out: What versions are evaluated on, as `dataset` takes it.
        warmup: Settings of the warm-up, as an object or a table; its "algorithm" may be a class.
        zeroth_order: The same of the rounds after the pivot.
        task: A task's name or class.
        seed: Of all that is drawn.
        evaluate_every: Versions between evaluations.
        name: What people call the run.
        data_dir: Where the run lives, and goes on from; None: in a folder that is gone with the last that reads it.
        address: HOST:PORT to listen on; port 0 stands for any that is free. None: the run file's, and without one a free port
            of this machine.
        insecure: Whether an address that is not this machine's may do without TLS.
        model_cache: Where the model is taken from, or left; nothing is measured then, and clients have to say their tier.

    Raises:
        SettingsError: Settings cannot be.
        DataError: The held-out set cannot be read.

    Example:
        >>> import zowarmup as zw
        >>> with zw.Coordinator("run.toml", model_cache="models") as coordinator:
        ...     with zw.Client(coordinator.address, "digits:1/10", tier="low"):
        ...         run = coordinator.wait()
        >>> run.version, run.gave_up
        (1, '')
    """

    def __init__(
        self,
        run: RunFile | Mapping[str, Any] | str | Path | None = None,
        *,
        model: "str | nn.Module | Callable[..., nn.Module] | None" = None,
        held_out: object = None,
        warmup: WarmUp | Mapping[str, Any] | None = None,
        zeroth_order: ZerothOrder | Mapping[str, Any] | None = None,
        task: str | type[Task] | None = None,
        seed: int | None = None,
        evaluate_every: int | None = None,
        name: str | None = None,
        data_dir: Path | str | None = None,
        address: str | None = None,
        insecure: bool = False,
        model_cache: Path | str | None = None,
    ) -> None:
        wanted = Wanted(run, model, task, held_out, warmup, zeroth_order, evaluate_every, seed, name)
        settings = run_of(wanted)
        require_importable(settings)
        if address is None and run is None:
            address = ANYWHERE
        if address is not None:
            with sentences():
                settings = replace(settings, server=replace(settings.server, address=address))
        self.settings = settings
        self._held_out = held_out_set(settings, held_out)
        self._insecure, self._cache = insecure, None if model_cache is None else Path(model_cache).expanduser()
        self._folder = PassingFolder() if data_dir is None else None
        self.data_dir = self._folder.path / "server" if self._folder else Path(str(data_dir)).expanduser()
        self._task: BackgroundTask[int] | None = None
        self._lead: Lead | None = None
        self._served: Served | None = None

    @property
    def address(self) -> str:
        """HOST:PORT where it listens. Raises RunError outside of its block."""
        return f"{self.settings.server.address.rpartition(':')[0]}:{self._require().port}"

    @property
    def page(self) -> str:
        """The address of its live page, for a browser; empty where there is none. Raises RunError outside of its block."""
        return self._require().page

    def status(self) -> Status:
        """Where the run is, as `zowarmup status` has it. Raises RunError outside of its block."""
        with sentences(), self._session() as session:
            return session.status()

    def pivot(self, reason: str = "") -> None:
        """End the warm-up after the round in progress. Raises RunError."""
        with sentences(), self._session() as session:
            session.pivot(reason)

    def finish(self, reason: str = "") -> None:
        """Finish the run after the round in progress. Raises RunError."""
        with sentences(), self._session() as session:
            session.stop(reason)

    def wait(self, timeout_s: float | None = None) -> TrainedRun:
        """Wait until the run is over, and every client that is connected has said what it holds.

        Args:
            timeout_s: For at most so many seconds; None: for as long as it takes.

        Returns:
            The run.

        Raises:
            GivenUp: It has ended before its time, or paused itself.
            RunError: The coordinator, or a client of this process that takes part in its run, has failed.
            TimeoutError: It takes longer.
        """
        from zowarmup.api.participation import failed_at
        from zowarmup.server.shutdown import finished, reported

        ends = None if timeout_s is None else time.monotonic() + timeout_s
        over_at = 0.0
        while True:
            served, task = self._require(), self._task
            assert task is not None
            left = task.done
            state = served.coordinator.state
            if state.paused_itself or state.gave_up:
                reason = state.gave_up or state.paused
                raise GivenUp(reason, self.run())
            if finished(state):
                over_at = over_at or time.monotonic()
                if reported(state) or time.monotonic() > over_at + REPORTS_S:
                    return self.run()
            elif (fault := failed_at(self.address)) is not None:
                raise fault
            elif left:
                raise RunError("the coordinator has been stopped before the run was over")
            if ends is not None and time.monotonic() >= ends:
                raise TimeoutError(f"run {self.settings.name} is not over after {timeout_s:g} s")
            task.ended(LOOK_S)

    def run(self) -> TrainedRun:
        """The run as far as it has come. Raises RunError where there is none yet."""
        return TrainedRun(self.data_dir, self._folder)

    def __enter__(self) -> Self:
        if self._task is not None:
            raise RunError("this coordinator has been started already: make another on the same data_dir to go on")

        async def work() -> int:
            from zowarmup.server.rpc.endpoints import endpoint_of
            from zowarmup.server.served import Serving
            from zowarmup.server.setup.model_cache import cached
            from zowarmup.server.setup.prepare import Children, prepare
            from zowarmup.server.sharing import shared_by

            children, server, cache = Children(), self.settings.server, self._cache
            shown = None
            with sentences():
                way = endpoint_of(server, server.address, self._insecure)
                if server.metrics_address:
                    from zowarmup.server.telemetry.endpoints import metrics_endpoint

                    shown = metrics_endpoint(server, server.metrics_address, self._insecure)
            self._lead = Lead(
                Serving(
                    run_file=self.settings,
                    held_out=self._held_out,
                    data_dir=self.data_dir,
                    way=way,
                    shown=shown,
                    web_address=server.web_address,
                    insecure=self._insecure,
                    prepare=lambda spec, seed, folder: (
                        cached(spec, seed, cache, children) if cache else prepare(spec, seed, folder, children)
                    ),
                    end_preparing=children.end,
                    shared=shared_by(self.settings, self.data_dir, "") if server.store else None,
                )
            )
            return await self._lead.run()

        self._task = BackgroundTask(work(), self._stop)
        try:
            self._served = self._answering(self._task)
        except BaseException:
            self._task.end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._served = None
        if self._task is None:
            return
        self._task.end()
        if error is None and (fault := self._task.error) is not None:
            raise fault

    def _answering(self, task: BackgroundTask[int]) -> "Served":
        """Wait until it answers. Raises what it ended with."""
        while True:
            if self._lead is not None and self._lead.served.done():
                return self._lead.served.result()
            if task.ended(LOOK_S):
                task.wait()
                raise RunError("the coordinator has been stopped before it was ready")

    def _stop(self) -> None:
        if self._lead is not None:
            self._lead.stop()

    def _require(self) -> "Served":
        """What it knows. Raises RunError where it does not run, or what it ended with."""
        if self._task is not None and (fault := self._task.error) is not None:
            raise fault
        if self._served is None:
            raise RunError(
                "the coordinator is not there: use it inside of `with zowarmup.Coordinator(...) as coordinator:`"
            )
        return self._served

    def _session(self) -> "Session":
        from zowarmup.cli.session.session import Session
        from zowarmup.client.net.tls import trust
        from zowarmup.server.store.archive import CA_FILE, OPERATOR_CREDENTIAL

        authority = self.data_dir / CA_FILE
        trusted = trust(self.address, authority.read_bytes() if authority.exists() else b"")
        credential = (self.data_dir / OPERATOR_CREDENTIAL).read_text(encoding="ascii").strip()
        return Session(self.address, trust=trusted, credential=credential)


def held_out_set(settings: RunFile, given: object) -> Dataset:
    """The held-out set: what was given, or what the settings name. Raises DataError."""
    if given is None or isinstance(given, str):
        return load(settings.evaluation.data)
    return dataset(given, source=GIVEN)
