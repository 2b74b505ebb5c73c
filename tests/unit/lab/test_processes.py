"""Processes that must not outlive us, with real ones: this file's own folder serves as their modules."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from zowarmup.common.system.command import CommandError, Interrupted, Interrupts, interrupts
from zowarmup.lab.processes import Processes

STUBBORN = (
    "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf', flush=True)\ntime.sleep(60)"
)
PARENT = "import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-m', 'sleeper'])\ntime.sleep(60)"
SLEEPER = "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)"
FAILING = "print('one')\nprint('two', flush=True)\nraise SystemExit('three')"


@pytest.fixture
def modules(tmp_path: Path) -> dict[str, str]:
    for name, source in (("sleeper", SLEEPER), ("stubborn", STUBBORN), ("parent", PARENT), ("failing", FAILING)):
        (tmp_path / f"{name}.py").write_text(source)
    return {"PYTHONPATH": str(tmp_path)}


@pytest.fixture
def noted() -> Iterator[Interrupts]:
    with interrupts() as noted:
        yield noted


def until(condition: object, seconds: float = 10.0) -> None:
    end = time.monotonic() + PATIENCE * seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process is there and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def pids(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def test_all_are_stopped_when_the_block_ends(tmp_path: Path, modules: dict[str, str], noted: Interrupts) -> None:
    def fail_while_they_run() -> None:
        with Processes(tmp_path, noted, modules) as processes:
            for name in ("a", "b"):
                processes.start(name, "sleeper", [])
            until(lambda: pids(processes.log("a")) and pids(processes.log("b")))
            assert processes.ended() == []
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_while_they_run()
    assert not any(alive(pid) for name in ("a", "b") for pid in pids(tmp_path / f"{name}.log"))


def test_one_that_does_not_hear_is_killed_at_a_second_signal(
    tmp_path: Path, modules: dict[str, str], noted: Interrupts
) -> None:
    processes = Processes(tmp_path, noted, modules)
    processes.start("deaf", "stubborn", [])
    until(lambda: "deaf" in processes.log("deaf").read_text())
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    begun = time.monotonic()
    processes.stop(unhurried_s=600.0)
    assert time.monotonic() - begun < 300
    assert processes.ended()[0].code == -signal.SIGKILL
    assert "was killed by SIGKILL" in processes.ended()[0].sentence()


def test_what_a_process_started_itself_is_stopped_too(
    tmp_path: Path, modules: dict[str, str], noted: Interrupts
) -> None:
    with Processes(tmp_path, noted, modules) as processes:
        processes.start("parent", "parent", [])
        until(lambda: pids(processes.log("parent")))
    until(lambda: not alive(pids(tmp_path / "parent.log")[0]))


def test_one_that_failed_is_told_with_its_last_words(
    tmp_path: Path, modules: dict[str, str], noted: Interrupts
) -> None:
    with Processes(tmp_path, noted, modules) as processes:
        processes.start("low-1", "failing", [])
        until(processes.ended)
        (ended,) = processes.ended()
        assert ended.code == 1
        assert ended.sentence() == (
            f"low-1 ended with code 1; the last lines of {tmp_path / 'low-1.log'}:\n    one\n    two\n    three"
        )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_noted_and_nothing_more_is_started(
    number: signal.Signals, tmp_path: Path, noted: Interrupts
) -> None:
    os.kill(os.getpid(), number)
    until(lambda: noted.received)
    with Processes(tmp_path, noted, {}) as processes, pytest.raises(Interrupted) as raised:
        processes.start("late", "sleeper", [])
    assert raised.value.exit_code == 128 + number
    assert not (tmp_path / "late.log").exists()


def test_a_hangup_that_nohup_ignores_is_not_noted() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts() as noted:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
            until(lambda: noted.received)
        assert noted.received == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_one_that_cannot_be_started_is_named(tmp_path: Path, noted: Interrupts) -> None:
    with (
        Processes(tmp_path / "none", noted, {}) as processes,
        pytest.raises(CommandError, match="low-1 cannot be started"),
    ):
        processes.start("low-1", "sleeper", [])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has died")
def test_they_die_even_if_we_are_killed(tmp_path: Path, modules: dict[str, str]) -> None:
    demo = (
        "import sys, time; from pathlib import Path; from zowarmup.common.system.command import Interrupts; from zowarmup.lab.processes import Processes\n"
        "Processes(Path(sys.argv[1]), Interrupts(), {}).start('a', 'sleeper', []); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", demo, str(tmp_path)], env={**os.environ, **modules}) as process:
        until(lambda: pids(tmp_path / "a.log"))
        process.kill()
    (pid,) = pids(tmp_path / "a.log")
    until(lambda: not alive(pid))
