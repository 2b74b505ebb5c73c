"""Connections of a stranger who says nothing, more of them than the coordinator may have files open."""

import contextlib
import re
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import wait_until
from tests.e2e.test_stopping import Stage
from zowarmup.cli.session.session import Session
from zowarmup.server.listening import OPTIONS
from zowarmup.server.runtime import FILES, OWN_FILES, connections

LIMITED = (
    "import os, resource, sys; limit = int(sys.argv[1]); resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)); "
    "os.execv(sys.argv[2], sys.argv[2:])"
)


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_silent_connections_neither_end_a_run_nor_take_its_descriptors(tmp_path: Path, prepared_models: Path) -> None:
    stage, limit = Stage(tmp_path), 300
    server = [sys.executable, "-c", LIMITED, str(limit), *stage.server("--model-cache", str(prepared_models))]
    with stage.started(server, "server") as process, contextlib.ExitStack() as held:
        stage.printed("server", "listening on")
        with stage.started(stage.client("--tier", "high"), "client"):
            stage.printed("server", "version 10 committed")
            for _ in range(2 * limit):
                silent = held.enter_context(contextlib.closing(socket.socket()))
                silent.settimeout(1)
                with contextlib.suppress(OSError):
                    silent.connect(("127.0.0.1", stage.port))
            seen = int(re.findall(r"version (\d+) committed", stage.log("server"))[-1])
            later = re.compile(rf"version ({seen + 20}|{seen + 30}) committed")
            wait_until(lambda: later.search(stage.log("server")) is not None, 300, "the run to go on")
            assert process.poll() is None
            assert len(list(Path(f"/proc/{process.pid}/fd").iterdir())) < limit - 50, "the run's own are left to it"
        held.close()
        with Session(f"127.0.0.1:{stage.port}") as session:
            assert session.status().version > seen
    assert "Too many open files" not in stage.log("server")
    assert "at most 150 connections are possible here" in stage.log("server")


def test_who_says_nothing_is_cut_off() -> None:
    """Measured with grpc: these two end a connection that never speaks, and one that speaks and calls nothing."""
    assert dict(OPTIONS)["grpc.server_handshake_timeout_ms"] <= 20_000
    assert dict(OPTIONS)["grpc.max_connection_idle_ms"] <= 60_000


@pytest.mark.parametrize(("soft", "hard"), [(256, 4096), (256, 256), (1024, None)])
def test_the_limit_on_open_files_is_raised_as_far_as_the_system_allows(soft: int, hard: int | None) -> None:
    ours = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    hard = hard or ours
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard})); "
        "from zowarmup.server.runtime import raise_file_limit; print(raise_file_limit())"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(said) == (min(hard, FILES) if hard != resource.RLIM_INFINITY else FILES)


def test_most_of_the_descriptors_are_for_connections_and_some_are_not() -> None:
    assert [connections(files) for files in (100, 1024, FILES)] == [50, 512, FILES - OWN_FILES]
