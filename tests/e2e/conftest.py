"""Real processes on loopback: one coordinator and its clients, started and stopped by a test."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.prepared import prepared
from zowarmup.cli.session.session import Session
from zowarmup.cli.session.status import Status
from zowarmup.common.messages.values import Phase
from zowarmup.common.settings.run import RunFile
from zowarmup.common.system.command import Interrupts, NoAnswer
from zowarmup.lab.demo.settings import to_toml
from zowarmup.lab.processes import NO_PROXY, ONE_THREAD, Processes, free_port

# Rounds of a run that a test disturbs: however fast the machine is, it is not over before the test has done so.
ENDLESS = 10**6


@dataclass
class Fleet:
    """A coordinator and its clients in one folder. Every process is gone when the test ends."""

    folder: Path
    processes: Processes
    prepared_models: Path
    address: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")

    @property
    def data_dir(self) -> Path:
        return self.folder / "server"

    def lead(self, run: RunFile | None = None, name: str = "server", *options: str, measured: bool = False) -> None:
        """Start the coordinator, or start it again on the same data directory. `measured`: it prepares the model for this run
        alone and measures what devices need, as it does by default; else the model is one that tests share, where they can."""
        path = self.folder / "run.toml"
        arguments = [str(path), "--data-dir", str(self.data_dir), "--address", self.address, *options]
        if run is not None:
            path.write_text(to_toml(run))
            if not measured:
                arguments += prepared(run, self.prepared_models) or ["--model-cache", str(self.folder / "models")]
        self.processes.start(name, "zowarmup.server.main", arguments)

    def join(self, name: str, data: str, tier: str, *more: str, log: str = "") -> None:
        """Start a client; `log` names its process where it is started a second time."""
        state = ["--state-dir", str(self.folder / "clients" / name)]
        arguments = ["--server", self.address, "--data", data, "--tier", tier, "--name", name, *state, *more]
        self.processes.start(log or name, "zowarmup.client.main", arguments)

    def signal(self, name: str, number: signal.Signals) -> None:
        pid = self.processes.pid(name)
        subprocess.run(["kill", f"-{number.value}", str(pid)], check=True)
        wait_until(lambda: name in {ended.name for ended in self.processes.ended()}, 20, f"{name} to end")

    def freeze(self, name: str) -> None:
        """The process stops where it is, and its connections stay open."""
        subprocess.run(["kill", f"-{signal.SIGSTOP.value}", str(self.processes.pid(name))], check=True)

    def thaw(self, name: str) -> None:
        subprocess.run(["kill", f"-{signal.SIGCONT.value}", str(self.processes.pid(name))], check=True)

    def code(self, name: str, seconds: float) -> int:
        """Wait for a process to end by itself: its exit code."""
        wait_until(lambda: name in {ended.name for ended in self.processes.ended()}, seconds, f"{name} to end")
        return next(ended.code for ended in self.processes.ended() if ended.name == name)

    def status(self) -> Status | None:
        with Session(self.address, deadline_s=3.0) as session:
            try:
                return session.status()
            except NoAnswer:
                return None

    def until(self, condition: Callable[[Status], bool], seconds: float, what: str) -> Status:
        """Wait for a status, and fail at once where a process fails. `seconds`: a limit for hangs on an idle machine."""
        found: list[Status] = []

        def look() -> bool:
            failed = [ended for ended in self.processes.ended() if ended.code not in (0, -9)]
            assert not failed, failed[0].sentence()
            status = self.status()
            if status is not None and condition(status):
                found.append(status)
            return bool(found)

        wait_until(look, seconds, what)
        return found[0]

    def finished(self, members: int, seconds: float = 120.0) -> Status:
        """Wait for the end of the run and for every member's last report."""

        def over(status: Status) -> bool:
            done = len(status.replicas.agree) + len(status.replicas.differ)
            evaluated = status.evaluation is not None and status.evaluation.version == status.version
            return status.phase is Phase.FINISHED and done == members and evaluated

        return self.until(over, seconds, "the run to finish")

    def end_run(self) -> None:
        """What an operator does: the run is finished after the round in progress."""
        done = self.run_once("zowarmup.cli.main", "stop", "--server", self.address, "--data-dir", str(self.data_dir))
        assert done.returncode == 0, done.stderr

    def run_once(self, module: str, *arguments: str, seconds: float = 60.0) -> "subprocess.CompletedProcess[str]":
        """A process to its end."""
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)

    def logged(self, name: str) -> str:
        return self.processes.log(name).read_text(errors="replace")


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + PATIENCE * seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:g} s for {what}"
        time.sleep(0.1)


@contextmanager
def fleets(place: Path, prepared_models: Path) -> Iterator[Callable[..., Fleet]]:
    """Makes fleets, each in a folder of its own, of this Python or another; all are gone when the block ends."""
    environment = {**ONE_THREAD, **NO_PROXY, "PYTHONUNBUFFERED": "1"}
    made: list[Processes] = []

    def make(python: str = sys.executable) -> Fleet:
        folder = place / f"fleet-{len(made)}"
        (folder / "logs").mkdir(parents=True)
        processes = Processes(folder / "logs", Interrupts(), environment, python)
        made.append(processes)
        return Fleet(folder, processes, prepared_models)

    try:
        yield make
    finally:
        for processes in made:
            processes.stop()


@pytest.fixture
def fleet(tmp_path: Path, prepared_models: Path) -> Iterator[Callable[..., Fleet]]:
    """Makes fleets of a test's own."""
    with fleets(tmp_path, prepared_models) as make:
        yield make
