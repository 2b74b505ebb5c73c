"""Command lines carried out in this process, by the thousand, and judged; a sample of them as real processes.

What is true of each: it ends with a documented exit code and, where that says that something failed, a sentence; it shows
no traceback; it leaves no process, no temporary folder and no half of a file. In this process a command may do anything
but start another process, which the system refuses here as it does where there are too many.
"""

import atexit
import contextlib
import errno
import fnmatch
import functools
import io
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import util
from pathlib import Path
from unittest import mock

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.faults.small import TRIO, create, run_file
from tests.fuzz.attempts import (
    AUTHORITY,
    CERTIFICATE,
    CLIENT,
    COMMAND,
    FOLDER,
    KEY,
    LINK,
    PIPE,
    RUN,
    SERVER,
    Attempt,
    attempts,
)
from zowarmup.cli.certificates import init
from zowarmup.cli.main import main as command
from zowarmup.client import main as client_module
from zowarmup.server.main import main as server

MAINS: dict[str, Callable[[], int]] = {CLIENT: client_module.main, SERVER: server, COMMAND: command}
CODES = {"kept": {0, 1, 2}, "full": {0, 1, 2}, "closed": {0, 1, 2, 141}}
LEFT = ("*.part", "*.new", "preparation-*", "put-*", ".*.[0-9]*")
"""Names of what is not finished."""
STUCK_S = 100
_MEMORY = Path("/dev/shm")
BASE = _MEMORY if _MEMORY.is_dir() else Path(tempfile.gettempdir())


class Finding(AssertionError):
    """What a command did that none may."""


@dataclass(frozen=True)
class Outcome:
    code: int
    said: str
    left: tuple[str, ...]


class _Refusing(io.RawIOBase):
    """A full disk, or a reader that has left."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def writable(self) -> bool:
        return True

    def write(self, data: object, /) -> int:
        raise OSError(self._number, os.strerror(self._number))


def judge(attempt: Attempt, outcome: Outcome) -> None:
    """Raises Finding."""
    said = f"{outcome.said[-2000:]!r}"
    if "Traceback" in outcome.said or "Exception ignored" in outcome.said:
        raise Finding(f"a traceback: {said}")
    if outcome.code not in CODES[attempt.output]:
        raise Finding(f"exit code {outcome.code}: {said}")
    doctor = "--doctor" in attempt.arguments or attempt.arguments[:1] == ("doctor",)
    if outcome.code in (1, 2) and not outcome.said.strip() and not doctor:
        raise Finding(f"exit code {outcome.code} and not a word")
    if outcome.left:
        raise Finding(f"left behind: {outcome.left}")


def carry_out(attempt: Attempt) -> Outcome:
    """In this process. Raises Finding where it raises."""
    before = _children()
    with _stage(attempt) as (here, environment), contextlib.ExitStack() as restored:
        restored.callback(os.chdir, os.getcwd())
        os.chdir(here)
        restored.callback(os.umask, os.umask(0o022))
        kept_errors, kept_output = io.BytesIO(), io.BytesIO()
        errors = io.TextIOWrapper(kept_errors, attempt.encoding, "backslashreplace", write_through=True)
        raw = {"full": _Refusing(errno.ENOSPC), "closed": _Refusing(errno.EPIPE)}.get(attempt.output)
        output = io.TextIOWrapper(io.BufferedWriter(raw) if raw else kept_output, attempt.encoding)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            restored.callback(signal.signal, number, signal.getsignal(number))
        restored.callback(logging.root.setLevel, logging.root.level)
        restored.callback(logging.root.handlers.__setitem__, slice(None), logging.root.handlers[:])
        refuse = mock.Mock(side_effect=BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)))
        for place, name, value in (
            (sys, "argv", [attempt.program, *attempt.arguments]),
            (sys, "stdout", output),
            (sys, "stderr", errors),
            (subprocess, "Popen", refuse),
            (util, "spawnv_passfds", refuse),
            (client_module, "force_after", mock.Mock()),  # which would end this process
            (tempfile, "tempdir", None),  # where it is, is remembered
        ):
            restored.enter_context(mock.patch.object(place, name, value))
        restored.enter_context(mock.patch.dict(os.environ, environment, clear=True))
        signal.alarm(STUCK_S)  # ends the process, with whoever draws the examples
        restored.callback(signal.alarm, 0)
        try:
            code = MAINS[attempt.program]()
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 1
        except BaseException as error:
            raise Finding(f"it raises {error!r}") from error
        told = kept_errors.getvalue().decode(attempt.encoding, "replace")
        if raw is None:
            told += kept_output.getvalue().decode(attempt.encoding, "replace")
        return Outcome(code, told, tuple(_left(here, before)))


def carry_out_apart(attempt: Attempt, full_disk: bool = False) -> Outcome:
    """As a process, as it is installed; `full_disk`: no file of it may hold a byte."""
    limit = ["sh", "-c", 'ulimit -f 0 && exec "$@"', "sh"] if full_disk else []
    rooms = {CLIENT: "client.main", SERVER: "server.command", COMMAND: "cli.main"}
    code = f"import sys; from zowarmup.{rooms[attempt.program]} import main; sys.argv[0] = {attempt.program!r}; sys.exit(main())"
    before = _children()
    with _stage(attempt) as (here, environment), open("/dev/full", "wb") as full:
        reading, writing = os.pipe()
        os.close(reading)
        with open(writing, "wb") as closed:
            process = subprocess.Popen(
                [*limit, sys.executable, "-c", code, *attempt.arguments],
                stdin=subprocess.DEVNULL,
                stdout={"full": full, "closed": closed}.get(attempt.output, subprocess.PIPE),
                stderr=subprocess.PIPE,
                cwd=here,
                env={**environment, "PYTHONIOENCODING": attempt.encoding},
                start_new_session=True,
            )
        try:
            out, errors = process.communicate(timeout=STUCK_S)
        except subprocess.TimeoutExpired:
            raise Finding(f"it has not ended after {STUCK_S} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        told = (errors + (out or b"")).decode(errors="replace")
        return Outcome(process.returncode, told, tuple(_left(here, before)))


@contextlib.contextmanager
def _stage(attempt: Attempt) -> Iterator[tuple[Path, dict[str, str]]]:
    """The working directory, with its files, and the environment."""
    root = Path(tempfile.mkdtemp(prefix=f"zowarmup-fuzz-commands-{os.getpid()}-", dir=BASE))
    here, temporary = root / "in" / "here", root / "in" / "here" / "tmp"
    try:
        temporary.mkdir(parents=True)
        for name, content in sorted(attempt.files.items()):
            with contextlib.suppress(FileExistsError, NotADirectoryError, IsADirectoryError):
                _lay(here / name, content)
        kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH") if name in os.environ}
        given = {name: value.replace("HERE", str(here)) for name, value in attempt.environment.items()}
        yield here, {**kept, "HOME": str(here / "home"), **given, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _lay(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if content == FOLDER:
        path.mkdir()
    elif content == LINK:
        path.symlink_to(path.name)
    elif content == PIPE:
        os.mkfifo(path)
    elif content == RUN:
        create(path, run_file(TRIO))
    elif content == AUTHORITY:
        shutil.copytree(_authority(), path)
    elif content in (CERTIFICATE, KEY):
        shutil.copy(_authority() / ("server.crt" if content == CERTIFICATE else "server.key"), path)
    else:
        path.write_bytes(content)


@functools.cache
def _authority() -> Path:
    """Made once, and removed when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix=f"zowarmup-fuzz-authority-{os.getpid()}-", dir=BASE))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    init(folder, ["a", "127.0.0.1"])
    return folder


def _left(here: Path, children: frozenset[str]) -> Iterator[str]:
    """Files, and children of this process beside those that it had before."""
    yield from (f"tmp/{name}" for name in os.listdir(here / "tmp"))
    for folder, folders, files in os.walk(here):
        for name in (*folders, *files):
            if any(fnmatch.fnmatch(name, pattern) for pattern in LEFT) and not folder.startswith(f"{here}/images"):
                yield os.path.relpath(os.path.join(folder, name), here)
    yield from (f"process {pid}" for pid in sorted(_children() - children))


def _children() -> frozenset[str]:
    """The process numbers of those that live."""
    found: set[str] = set()
    tasks = Path("/proc/self/task")
    for task in tasks.iterdir() if tasks.is_dir() else ():
        with contextlib.suppress(OSError):
            found |= {
                pid for pid in (task / "children").read_text().split() if Path(f"/proc/{pid}/cmdline").read_bytes()
            }
    return frozenset(found)


def assail(examples: int, number: int | None) -> tuple[Counter[str], Counter[int]]:
    """Carry out so many attempts, drawn from a seed (None: always the same); how many of each command, and how each
    ended. Raises Finding, with the smallest attempt that shows it."""
    kinds: Counter[str] = Counter()
    codes: Counter[int] = Counter()

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=number is None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(attempts())
    def judged(attempt: Attempt) -> None:
        kinds[attempt.program if attempt.program != COMMAND else f"zowarmup {attempt.arguments[0]}"] += 1
        outcome = carry_out(attempt)
        codes[outcome.code] += 1
        judge(attempt, outcome)

    (judged if number is None else seed(number)(judged))()
    return kinds, codes
