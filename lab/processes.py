"""Child processes, each in its own group and with its own log, that all end when their parent does; and their folder.

Signals set a flag and never raise, so there is no moment at which a process has been started and is not yet known
here. What was started is stopped when the `with` block ends, however it ends: SIGTERM to every group at once, SIGKILL
to those still there after a grace period, or at once when a second signal comes. `pdeathsig` covers our own SIGKILL.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from zowarmup.common.system.command import CommandError, Interrupts, Usage
from zowarmup.common.system.ending import GRACE_S
from zowarmup.common.system.files import Busy, exclusive, strangers
from zowarmup.common.system.pdeathsig import tethered

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")
NO_PROXY = {"no_grpc_proxy": "127.0.0.1"}
UNHURRIED_S = 5.0
"""How long processes have to end where no signal asks us to."""
TAIL_LINES = 8


@dataclass(frozen=True, slots=True)
class Ended:
    """A process that is no more. `code` is negative where a signal ended it."""

    name: str
    code: int
    log: Path

    def sentence(self) -> str:
        how = f"ended with code {self.code}"
        if self.code < 0:
            how = f"was killed by {signal.Signals(-self.code).name}"
        elif self.code == 0:
            how = "left before the run was over"
        return f"{self.name} {how}; the last lines of {self.log}:\n{indented(last_lines(self.log))}"


class Processes:
    """Python modules run as processes by an interpreter, this one or `python`, in a `folder` or the present one. Raises
    CommandError where one cannot be started."""

    def __init__(
        self,
        logs: Path,
        noted: Interrupts,
        environment: Mapping[str, str],
        python: str = sys.executable,
        folder: Path | None = None,
    ) -> None:
        self._logs, self._noted, self._python, self._folder = logs, noted, python, folder
        self._environment = {**os.environ, **environment}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        noted.last_resort.append(lambda: self._signal(signal.SIGKILL))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def pid(self, name: str) -> int:
        return self._running[name].pid

    def start(self, name: str, module: str, arguments: Sequence[str]) -> None:
        """Start `python -m module arguments` under a name. Raises Interrupted where we were asked to stop."""
        self._noted.check()
        try:
            with self.log(name).open("wb") as log:
                self._running[name] = subprocess.Popen(
                    tethered(self._python, "-m", module, *arguments),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                    cwd=self._folder,
                    start_new_session=True,
                )
        except OSError as error:
            raise CommandError(
                f"{name} cannot be started ({error.strerror or error}): stop other programs, or raise the limits on processes, "
                "memory and open files"
            ) from error

    def ended(self) -> list[Ended]:
        """Those that have ended by themselves."""
        codes = {name: process.poll() for name, process in self._running.items()}
        return [Ended(name, code, self.log(name)) for name, code in codes.items() if code is not None]

    def stop(self, unhurried_s: float = UNHURRIED_S) -> None:
        """End all of them, and wait until they have ended: for `unhurried_s`, seconds, where no signal asks us to end."""
        already = len(self._noted.received)
        self._signal(signal.SIGTERM)
        end = time.monotonic() + (GRACE_S + 0.1 if already else unhurried_s)
        while time.monotonic() < end and len(self._noted.received) == already:
            if all(process.poll() is not None for process in self._running.values()):
                break
            time.sleep(0.02)
        # The groups, not only the processes: a process that has ended may have left others behind.
        self._signal(signal.SIGKILL)
        for process in self._running.values():
            process.wait()

    def _signal(self, number: int) -> None:
        for process in self._running.values():
            try:
                os.killpg(process.pid, number)
            except (ProcessLookupError, PermissionError):
                continue  # the whole group has ended (macOS says "not permitted" of zombies)


@contextmanager
def held(out: Path, kind: str, ours: Collection[str] = ()) -> Iterator[None]:
    """The folder of a `kind` ("demo", "experiment") of lab's, made if need be, that no other one of that kind uses meanwhile.
    `ours`: names that may be in it already. Raises Usage where it holds anything else, and CommandError."""
    marker = out / f".{kind}"
    try:
        if not marker.exists() and (found := strangers(out, ours)):
            raise Usage(f"--out {out}: is not empty, and not from an earlier {kind} ({found}); name another folder")
        out.mkdir(parents=True, exist_ok=True)
        lock = exclusive(marker)
    except Busy:
        raise CommandError(f"another {kind} is at work in {out}: name another folder with --out") from None
    except OSError as error:
        raise unwritable(out, error) from error
    with lock:
        yield


def unwritable(out: Path, error: OSError) -> CommandError:
    return CommandError(f"--out {out}: {error.strerror or error}; name a folder that can be written")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def last_lines(log: Path, count: int = TAIL_LINES) -> list[str]:
    try:
        return log.read_text(encoding="utf-8", errors="replace").splitlines()[-count:]
    except OSError:
        return []


def indented(lines: list[str]) -> str:
    return "\n".join(f"    {line}" for line in lines) or "    (it is empty)"
