"""Strangers who flood a coordinator with connections and calls while its fleet trains: a short form of `make flood`."""

import contextlib
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import wait_until
from tests.e2e.test_few_descriptors import LIMITED
from tests.e2e.test_stopping import Stage
from tests.faults import flooded

FEWEST_FILES = 3000


@pytest.mark.timeout(600)
@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_NOFILE)[1] < FEWEST_FILES, reason="too few open files are allowed here"
)
def test_a_fleet_loses_no_round_while_a_stranger_floods(tmp_path: Path, prepared_models: Path) -> None:
    found = flooded.run(1000, 2000, 60.0, tmp_path / "flooded", prepared_models)
    assert (found.abandoned, found.disconnected, found.tracebacks) == (0, 0, 0)
    assert found.versions > 0
    assert set(found.health) == {"SERVING"}
    assert found.met["connected"] == 1000
    assert found.met["RESOURCE_EXHAUSTED"] > 0
    assert found.lines < 1000


@pytest.mark.timeout(1200)
@pytest.mark.skipif(sys.platform != "linux", reason="the rest of 127.0.0.0/8 is no address elsewhere")
def test_a_member_that_starts_again_gets_in_beside_a_stranger_who_takes_every_connection(
    tmp_path: Path, prepared_models: Path
) -> None:
    stage, limit = Stage(tmp_path), 400
    server = [sys.executable, "-c", LIMITED, str(limit), *stage.server("--model-cache", str(prepared_models))]
    flood = [sys.executable, "-m", "tests.faults.flood", f"127.0.0.1:{stage.port}", "--source", "127.0.0.2", "--again"]
    flood += ["--connections", str(2 * limit), "--calls", "0", "--seconds", "1200"]

    def logged(words: str, times: int = 1) -> None:
        wait_until(lambda: stage.log("server").count(words) >= times, 300, f"the coordinator to say {words!r}")

    with contextlib.ExitStack() as running:
        running.enter_context(stage.started(server, "server"))
        logged("listening on")
        with stage.started(stage.client("--tier", "high"), "before"):
            logged("version 10 committed")
            stranger = running.enter_context(subprocess.Popen(flood, stdout=subprocess.DEVNULL))
            running.callback(stranger.kill)
            logged("of strangers are cut off")
        logged("one disconnected")
        running.enter_context(stage.started(stage.client("--tier", "high"), "after"))
        logged("one connected", 2)
        assert stranger.poll() is None, "while the flood goes on"
