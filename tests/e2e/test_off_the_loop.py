"""A digest is never taken on an event loop: for as long as one of a large model takes, a loop answers nobody.

Every process of a run, from its making to its end, with a restart of the coordinator in between, has its hash watched:
one that is called where a loop runs ends the process.
"""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.algorithms import warmup_settings, zeroth_order_settings
from zowarmup.common.settings.run import Evaluation, Model, RunFile

CAUGHT = 97
# Python imports a module of this name when it starts.
WATCH = f"""
import asyncio, os, sys, traceback
import xxhash

taken = xxhash.xxh3_128_digest

def watched(*arguments):
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return taken(*arguments)
    traceback.print_stack(file=sys.stderr)
    sys.stderr.flush()
    os._exit({CAUGHT})

xxhash.xxh3_128_digest = watched
"""
ON_A_LOOP = """
import asyncio, numpy
from zowarmup.common.exact.layout import digest

async def main():
    {how}

asyncio.run(main())
"""


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("digest(numpy.zeros(3, numpy.float32))", CAUGHT),
        ("await asyncio.to_thread(digest, numpy.zeros(3, numpy.float32))", 0),
    ],
)
def test_the_watch_tells_a_loop_from_a_thread(how: str, code: int) -> None:
    done = subprocess.run([sys.executable, "-c", ON_A_LOOP.format(how=how)], capture_output=True, check=False)
    assert done.returncode == code, done.stderr


@pytest.mark.usefixtures("watched")
def test_no_process_of_a_run_takes_a_digest_on_its_loop(fleet: Callable) -> None:  # type: ignore[type-arg]
    whole = fleet()
    whole.lead(
        RunFile(
            name="watched",
            model=Model(name="mlp"),
            warmup=warmup_settings(rounds=1, clients_per_round=1, epochs=1),
            zeroth_order=zeroth_order_settings(rounds=25, clients_per_round=2, probes=4, learn_deadline=False),
            evaluation=Evaluation(data="digits:test"),
        ),
        measured=True,
    )
    whole.join("high", "digits:1/10", "high")
    whole.join("low", "digits:2/10", "low")
    whole.until(lambda status: status.version >= 5, 60, "five versions")
    whole.signal("server", signal.SIGKILL)
    whole.lead(name="server again")
    status = whole.finished(2)
    assert sorted(status.replicas.agree) == ["high", "low"]
