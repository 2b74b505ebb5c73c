"""Child processes, each in its own group and with its own log, that all end when their parent does.

Signals set a flag and never raise, so there is no moment at which a process has been started and is not yet known
here. What was started is stopped when the `with` block ends, however it ends: SIGTERM to every group at once, SIGKILL
to those still there after a grace period, or at once when a second signal comes. `pdeathsig` covers our own SIGKILL.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from zowarmup.cli.failure import CommandError
from zowarmup.cli.interrupts import Interrupts
from zowarmup.common.system.ending import GRACE_S
from zowarmup.common.system.memory import peak_resident_of
from zowarmup.common.system.pdeathsig import tethered

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
    """Python modules run as processes by this interpreter. Raises CommandError where one cannot be started."""

    def __init__(self, logs: Path, noted: Interrupts, environment: Mapping[str, str]) -> None:
        self._logs, self._noted = logs, noted
        self._environment = {**os.environ, **environment}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._peaks: dict[str, int] = {}
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
                    tethered(sys.executable, "-m", module, *arguments),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
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

    def peak_memory_bytes(self, name: str) -> int:
        """Peak resident memory so far, as the kernel counts it; the last known of one that has ended, 0 where the
        system does not say."""
        seen = peak_resident_of(self._running[name].pid) if self._running[name].poll() is None else 0
        self._peaks[name] = max(seen, self._peaks.get(name, 0))
        return self._peaks[name]

    def stop(self) -> None:
        """End all of them, and wait until they have ended."""
        already = len(self._noted.received)
        self._signal(signal.SIGTERM)
        end = time.monotonic() + (GRACE_S + 0.1 if already else UNHURRIED_S)
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


def last_lines(log: Path, count: int = TAIL_LINES) -> list[str]:
    try:
        return log.read_text(encoding="utf-8", errors="replace").splitlines()[-count:]
    except OSError:
        return []


def indented(lines: list[str]) -> str:
    return "\n".join(f"    {line}" for line in lines) or "    (it is empty)"
