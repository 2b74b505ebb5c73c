"""A command that is bound to the life of the process that started it."""

import os
import subprocess
import sys

import pytest

from zowarmup.common.system.pdeathsig import tethered


def test_the_command_runs_with_its_arguments() -> None:
    line = tethered(sys.executable, "-c", "import sys; print(sys.argv[1])", "a b")
    assert subprocess.run(line, capture_output=True, text=True, check=True, timeout=60).stdout == "a b\n"


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
def test_nothing_runs_where_the_parent_has_ended_already() -> None:
    line = tethered(sys.executable, "-c", "print('runs')")
    assert line[4] == str(os.getpid())
    line[4] = "1"  # not the process that starts it
    done = subprocess.run(line, check=False, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, b"")
