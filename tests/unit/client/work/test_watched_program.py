"""The memory that a library needs only while it is loaded goes back to the system."""

import subprocess
import sys
from pathlib import Path

import pytest

from zowarmup.client.work.watched_program import WatchedProgram
from zowarmup.common.models.program import Program

CODE = """
import numpy as np, onnxruntime, grpc
from zowarmup.client.work.watched_program import release_code

def resident_kib():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

before = resident_kib()
release_code()
print(before - resident_kib())
# What was unmapped works on.
assert (np.arange(100.0).reshape(10, 10) @ np.ones(10)).sum() == 4950
assert np.random.Philox(key=7).random_raw() is not None
assert onnxruntime.get_available_providers() and grpc.StatusCode.OK.value[0] == 0
release_code()
"""


def test_a_watched_program_is_all_that_a_program_is() -> None:
    """Who probes looks for what is there: a way that is missing here is never taken on a device."""
    assert {name for name in vars(Program) if not name.startswith("_")} <= set(dir(WatchedProgram))


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux says what is mapped")
def test_what_was_needed_at_import_is_given_back_and_all_still_works() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10_000
