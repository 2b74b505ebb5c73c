"""A signal at any moment ends a process soon, with its exit code, and leaves neither processes nor folders behind."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.e2e.conftest import wait_until
from zowarmup.common.settings.run import Evaluation, Model, RunFile, Server
from zowarmup.lab.demo.settings import to_toml
from zowarmup.lab.processes import NO_PROXY, ONE_THREAD, free_port

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

SOON_S = 2.0
BUSY_S = 4.0  # what a machine with other work may add to it
LONG_S = 120.0  # on an idle machine; a model is built within
AS_PROCESS_1 = (
    "import os, signal, sys; signal.signal(int(sys.argv[1]), signal.SIG_IGN); os.execv(sys.argv[2], sys.argv[2:])"
)
"""The kernel ignores for process 1 what it ignores here, unless the process says otherwise."""


def command(room: str) -> list[str]:
    """As installed: the script imports the module and calls its main."""
    return [sys.executable, "-c", f"import sys; from zowarmup.{room} import main; sys.exit(main())"]


SERVER, CLIENT, ZOWARMUP = command("server.command"), command("client.main"), command("cli.main")


@dataclass
class Stage:
    folder: Path
    port: int = field(default_factory=free_port)
    data: str = "run"

    @property
    def data_dir(self) -> Path:
        return self.folder / self.data

    @property
    def run_file(self) -> Path:
        path, run = (
            self.folder / "run.toml",
            RunFile(
                name="stopping",
                model=Model(name="mlp"),
                warmup=warmup_settings(rounds=500, clients_per_round=1, epochs=5),
                zeroth_order=zeroth_order_settings(rounds=1, clients_per_round=1, rate=0.1),
                evaluation=Evaluation(data="digits:test"),
                server=Server(address=f"127.0.0.1:{self.port}"),
            ),
        )
        path.write_text(to_toml(run))
        return path

    def server(self, *options: str) -> list[str]:
        return [*SERVER, str(self.run_file), "--data-dir", str(self.data_dir), *options]

    def client(self, *options: str) -> list[str]:
        state = str(self.folder / "state")
        address = f"127.0.0.1:{self.port}"
        return [*CLIENT, "--server", address, "--data", "digits:1/2", "--state-dir", state, "--name", "one", *options]

    def fleet(self, *options: str) -> list[str]:
        state = str(self.folder / "fleet")
        address = f"127.0.0.1:{self.port}"
        return [
            *ZOWARMUP,
            "fleet",
            "--server",
            address,
            "--clients",
            "4",
            "--data",
            "digits",
            "--state",
            state,
            *options,
        ]

    def plan(self) -> list[str]:
        return [*ZOWARMUP, "plan", str(self.run_file)]

    @contextlib.contextmanager
    def started(self, line: list[str], name: str, ignored: int = 0) -> "Iterator[subprocess.Popen[bytes]]":
        """In its own group, with its log, and with folders for temporary files of its own."""
        log, temporary = self.folder / f"{name}.log", self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        environment = {**os.environ, **ONE_THREAD, **NO_PROXY, "PYTHONUNBUFFERED": "1", "TMPDIR": str(temporary)}
        if ignored:
            line = [sys.executable, "-c", AS_PROCESS_1, str(ignored), *line]
        with log.open("wb") as out:
            process = subprocess.Popen(line, stdout=out, stderr=out, env=environment, start_new_session=True)
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def printed(self, name: str, words: str) -> None:
        wait_until(lambda: words in self.log(name), LONG_S, f"{name} to say {words!r}")

    def group(self, process: "subprocess.Popen[bytes]") -> list[str]:
        """The command lines of all that is left of a process's group."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, ValueError):
                fields = (path / "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == process.pid and fields[0] != "Z" and int(path.name) != process.pid:
                    found.append((path / "cmdline").read_text().replace("\0", " "))
        return found

    def child_of(self, process: "subprocess.Popen[bytes]", words: str) -> None:
        wait_until(lambda: any(words in line for line in self.group(process)), LONG_S, f"a child {words}")


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def ended(stage: Stage, process: "subprocess.Popen[bytes]", name: str, code: int, number: int) -> None:
    began = time.monotonic()
    process.send_signal(number)
    assert process.wait(SOON_S + BUSY_S + 10) == code, stage.log(name)
    assert time.monotonic() - began < SOON_S + BUSY_S
    wait_until(lambda: not stage.group(process), 2, f"its processes to end: {stage.group(process)}")
    assert "Traceback" not in stage.log(name)
    assert list((stage.folder / "tmp").glob("zowarmup*")) == []  # torch has caches of its own there


CODES: list[tuple[int, int]] = [(signal.SIGTERM, 0), (signal.SIGINT, 130)]
MOMENTS: Mapping[str, Callable[[Stage, "subprocess.Popen[bytes]"], None]] = {
    "it prepares": lambda stage, process: stage.printed("server", "preparing the model"),
    "it builds": lambda stage, process: stage.child_of(process, "server.setup.build_model"),
    "it measures": lambda stage, process: stage.child_of(process, "footprint low"),
    "it listens": lambda stage, process: stage.printed("server", "listening on"),
}


@pytest.mark.parametrize(("moment", "number", "code"), [(m, *CODES[n % 2]) for n, m in enumerate(MOMENTS)])
def test_a_coordinator_as_process_1_ends_while(stage: Stage, moment: str, number: int, code: int) -> None:
    with stage.started(stage.server(), "server", number) as process:
        MOMENTS[moment](stage, process)
        ended(stage, process, "server", code, number)
    assert list(stage.data_dir.glob("preparation-*")) == []


def test_a_coordinator_that_is_killed_takes_its_children_along_and_the_next_start_removes_their_folder(
    stage: Stage,
) -> None:
    def killed(*options: str) -> None:
        with stage.started(stage.server(*options), "server") as process:
            stage.child_of(process, "server.setup.build_model")
            process.kill()
            process.wait()
            wait_until(lambda: not stage.group(process), 5, "its children to end")

    def removed(folder: Path, by: "subprocess.Popen[bytes]") -> None:
        """The next start prepares in a folder of its own, and this one is gone."""
        stage.child_of(by, "server.setup.build_model")
        assert not folder.exists()

    killed()
    killed("--model-cache", str(stage.folder / "model-cache"))
    (preparation,), (building,) = (
        list(stage.data_dir.glob("preparation-*")),
        list((stage.folder / "model-cache").glob("building-*")),
    )
    with stage.started(stage.server(), "again") as process:
        removed(preparation, process)
    elsewhere = Stage(stage.folder, data="elsewhere")
    with stage.started(elsewhere.server("--model-cache", str(stage.folder / "model-cache")), "third") as process:
        removed(building, process)


def test_a_coordinator_ends_at_once_at_a_second_signal(stage: Stage) -> None:
    number, code = CODES[1]
    with stage.started(stage.server(), "server") as process:
        stage.printed("server", "preparing the model")
        process.send_signal(number)
        process.send_signal(number)
        assert process.wait(20) == code
        wait_until(lambda: not stage.group(process), 5, "its children to end")


def test_a_client_as_process_1_ends_while_it_waits_while_it_loads_torch_and_while_it_trains(
    stage: Stage, prepared_models: Path
) -> None:
    number, code = CODES[0]
    with stage.started(stage.client("--tier", "high"), "waiting", number) as process:
        stage.printed("waiting", "waiting for")
        ended(stage, process, "waiting", code, number)
    with stage.started(stage.server("--model-cache", str(prepared_models)), "server"):
        stage.printed("server", "listening on")
        for moment, words in (("loads", "one connected"), ("trains", "version 10 committed")):
            number, code = CODES[1]
            with stage.started(stage.client("--tier", "high"), moment, number) as process:
                stage.printed("server", words)
                ended(stage, process, moment, code, number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_plan_and_a_fleet_end_with_all_that_they_started(stage: Stage, number: int) -> None:
    with stage.started(stage.plan(), "plan") as process:
        stage.child_of(process, "server.setup.build_model")
        ended(stage, process, "plan", 128 + number, number)
    with stage.started(stage.fleet("--workers", "2"), "fleet") as process:
        stage.printed("fleet", "waiting for")
        ended(stage, process, "fleet", 128 + number, number)
