"""The end of a process: an exit code, at most one sentence, and what a signal does, each in a process of its own."""

import subprocess
import sys

import pytest

from zowarmup.common.system.ending import DONE, FAILED, FAULT, PIPE_CLOSED, sentence

BEGIN = """
import errno, os, signal, sys, time
from zowarmup.common.system.ending import Stopped, Stopping, conclude, force_after
def ends(work, **more):
    sys.exit(conclude("zowarmup", (), work, **{"expected": {}} | more))
def interrupt():
    os.kill(os.getpid(), signal.SIGTERM)
"""


def ended(script: str) -> tuple[int, str]:
    """The exit code of a script, and what it says on standard error."""
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + script], check=False, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stderr.strip()


@pytest.mark.parametrize(
    ("work", "code", "said"),
    [
        ("lambda: 0", DONE, ""),
        ("lambda: 7", 7, ""),
        ("lambda: sys.exit(3)", 3, ""),
        ("lambda: open('/nowhere/x')", FAILED, "zowarmup: /nowhere/x: No such file or directory; "),
        ("lambda: 1 / 0", FAULT, "zowarmup: unexpected "),
        ("lambda: [].remove(1), expected={ValueError: 4}", 4, "zowarmup: list.remove(x): x not in list"),
    ],
)
def test_work_ends_in_an_exit_code_and_at_most_one_sentence(work: str, code: int, said: str) -> None:
    found = ended(f"ends({work})")
    assert found[0] == code
    assert found[1].startswith(said)
    assert len(found[1].splitlines()) == bool(said)


def test_output_that_nobody_reads_is_no_fault() -> None:
    script = f"import os\nread, write = os.pipe()\nos.dup2(write, 1)\nos.close(read)\nos.close(write)\n{BEGIN}"
    done = subprocess.run(
        [sys.executable, "-c", f"{script}\nends(lambda: print('x' * 100_000) or 0)"],
        check=False,
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (PIPE_CLOSED, b"")


def test_a_signal_ends_work_by_an_exception() -> None:
    script = "Stopping({signal.SIGTERM: 143})\nends(lambda: (interrupt(), time.sleep(60)), on_signal='ended by {}')"
    assert ended(script) == (143, "zowarmup: ended by SIGTERM")


def test_a_signal_may_call_a_function_instead_also_where_it_came_before() -> None:
    script = """
stopping, heard = Stopping({signal.SIGTERM: 143}), []
with stopping.notifying(lambda: heard.append("within")):
    interrupt()
with stopping.notifying(lambda: heard.append("before")):
    pass
os._exit(stopping.code if heard == ["within", "before"] else 1)
"""
    assert ended(script) == (143, "")


def test_a_second_signal_ends_by_force() -> None:
    script = """
stopping = Stopping({signal.SIGTERM: 143})
with stopping.notifying(lambda: None):
    interrupt()
    interrupt()
    os._exit(1)
"""
    assert ended(script) == (143, "")


def test_what_does_not_end_in_its_time_is_ended() -> None:
    assert ended("force_after(0.01, 5)\ntime.sleep(60)")[0] == 5
    script = "asked = []\nforce_after(0.0, 5, lambda: asked.append(1))\nwhile not asked: time.sleep(0.01)\nsys.exit(0)"
    assert ended(script)[0] == 0


def test_what_nobody_has_put_into_words_has_a_sentence() -> None:
    assert sentence(MemoryError()).startswith("out of memory: ")
    assert "this is a fault of zowarmup" in sentence(KeyError("x"))
