"""The units: judged by systemd's own tools, and a real coordinator and client under their limits."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.deployment.conftest import DEPLOY
from tests.deployment.sandbox import settings, supported
from tests.e2e.conftest import Fleet
from zowarmup.common.settings.run import Evaluation, Model, RunFile
from zowarmup.lab.demo.settings import to_toml

SYSTEMD = DEPLOY / "systemd"
UNITS = ("zowarmup-server.service", "zowarmup-client.service")


def sandbox(tool: Callable[[str], str], unit: Path) -> list[str]:
    """What stands before a command of Python that is to run under a unit's limits; skips the test where none can."""
    analyze = tool("systemd-analyze")
    if not supported():
        pytest.skip("PR_SET_MDWE needs Linux 6.3")
    return [analyze, str(unit), sys.executable]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder of units, of which the commands exist."""
    programs = Path(sys.executable).parent
    for unit in UNITS:
        text = (SYSTEMD / unit).read_text(encoding="utf-8").replace("/opt/zowarmup/bin", str(programs))
        (tmp_path / unit).write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("drop_ins", [False, True])
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_understands_every_line(unit: str, drop_ins: bool, installed: Path, tool: Callable[[str], str]) -> None:
    if drop_ins:
        for one, file in (("client", "high-tier.conf"), ("server", "shared-store.conf")):
            (installed / f"zowarmup-{one}.service.d").mkdir()
            shutil.copy(SYSTEMD / file, installed / f"zowarmup-{one}.service.d")
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{installed}:", "SYSTEMD_LOG_LEVEL": "warning"}
    command = [tool("systemd-analyze"), "verify", "--man=no", unit]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "zowarmup" in line]) == (0, [])


@pytest.mark.parametrize("unit", UNITS)
def test_little_is_exposed(unit: str, tool: Callable[[str], str]) -> None:
    """At most 2.0 of 10."""
    command = [tool("systemd-analyze"), "security", "--offline=true", "--no-pager", "--threshold=20"]
    done = subprocess.run([*command, str(SYSTEMD / unit)], capture_output=True, text=True, check=False)
    (exposure,) = re.findall(r"Overall exposure level for \S+: (\d+\.\d)", done.stdout)
    assert (done.returncode, float(exposure) <= 1.2) == (0, True), done.stdout


def test_a_run_that_paused_itself_is_left_alone_and_memory_is_bounded() -> None:
    server, client = (dict(settings((SYSTEMD / unit).read_text(encoding="utf-8"))) for unit in UNITS)
    assert (server["Restart"], server["RestartPreventExitStatus"].split()) == ("on-failure", ["2", "3"])
    assert client["Restart"] == "on-failure"
    assert (client["MemoryMax"], client["MemorySwapMax"]) == ("200M", "0")
    assert "MemoryMax" in server
    assert "ZOWARMUP_JOIN" not in client["ExecStart"], "a secret would be seen in a list of processes"


def test_a_coordinator_with_a_database_is_started_until_it_answers() -> None:
    drop_in = dict(settings((SYSTEMD / "shared-store.conf").read_text(encoding="utf-8")))
    assert drop_in == {"StartLimitIntervalSec": "0", "Environment": "PGPASSFILE=/etc/zowarmup/pgpass"}
    assert dict(settings((SYSTEMD / UNITS[0]).read_text(encoding="utf-8")))["StartLimitIntervalSec"] != "0"


def test_a_client_begins_where_there_is_nothing_and_sees_its_data_and_state_alone() -> None:
    lines = list(settings((SYSTEMD / UNITS[1]).read_text(encoding="utf-8")))
    client = dict(lines)
    assert client["WorkingDirectory"] == f"/run/{client['RuntimeDirectory']}"
    hidden = {path.removesuffix(":ro") for path in client["TemporaryFileSystem"].split()}
    assert {"/var", "/srv", "/media", "/mnt"} <= hidden
    assert client["ProtectHome"] == "tmpfs"
    seen = client["BindPaths"].split() + client["BindReadOnlyPaths"].split()
    assert seen == [f"/var/lib/{client['StateDirectory']}", "-/srv/zowarmup", "-/var/lib/ca-certificates"]


def test_a_run_under_the_units_limits(fleet: Callable[[], Fleet], tool: Callable[[str], str], tmp_path: Path) -> None:
    """A convolution, so that torch in the coordinator, and in a client of the high tier, has something to compile. The
    coordinator is stopped half-way and comes back, which is all that a unit asks of it."""
    one = fleet()
    run = RunFile(
        name="confined",
        model=Model(name="cnn"),
        warmup=warmup_settings(rounds=1, clients_per_round=1, epochs=1),
        zeroth_order=zeroth_order_settings(
            rounds=4, clients_per_round=2, minimum_clients=2, probes=4, head_projections=4
        ),
        evaluation=Evaluation(data="digits:test"),
    )
    high = tmp_path / "high.service"
    drop_in = (SYSTEMD / "high-tier.conf").read_text(encoding="utf-8").partition("[Service]")[2]
    high.write_text((SYSTEMD / UNITS[1]).read_text(encoding="utf-8") + drop_in, encoding="utf-8")
    one.address = one.address.replace("127.0.0.1", "localhost")  # which has to be looked up

    def confined(unit: Path, name: str, program: str, *arguments: str) -> None:
        one.processes.start(name, "tests.deployment.sandbox", [*sandbox(tool, unit), "-m", program, *arguments])

    def lead(name: str) -> None:
        path = one.folder / "run.toml"
        confined(
            SYSTEMD / UNITS[0],
            name,
            "zowarmup.server.main",
            str(path),
            "--data-dir",
            str(one.data_dir),
            "--address",
            one.address,
        )

    def join(name: str, unit: Path, tier: str, shard: str) -> None:
        state = str(one.folder / name)
        confined(
            unit,
            name,
            "zowarmup.client.main",
            "--server",
            one.address,
            "--tier",
            tier,
            "--name",
            name,
            "--data",
            shard,
            "--state-dir",
            state,
        )

    (one.folder / "run.toml").write_text(to_toml(run), encoding="utf-8")
    lead("server")
    join("high", high, "high", "digits:1/2")
    one.until(lambda status: status.version == 1, 90, "the warm-up")
    one.signal("server", signal.SIGTERM)
    lead("again")
    join("low", SYSTEMD / UNITS[1], "low", "digits:2/2")
    status = one.finished(2)
    assert status.replicas.agree == ("high", "low")
    assert status.version == 5


def test_the_sandbox_is_one(tmp_path: Path, tool: Callable[[str], str]) -> None:
    """What the units forbid cannot be done in it."""
    code = """
import ctypes, errno, mmap, os, socket
def refused(call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        return error.errno == errno.EPERM
    return False
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
writable_and_executable = libc.mmap(None, 4096, 7, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
print(
    refused(os.chroot, "/"), refused(socket.socket, 16, socket.SOCK_RAW), refused(os.sched_setaffinity, 0, {0}),
    writable_and_executable in (None, ctypes.c_void_p(-1).value), socket.socket().family.name,
)
"""
    command = [sys.executable, "-m", "tests.deployment.sandbox", *sandbox(tool, SYSTEMD / UNITS[1]), "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=DEPLOY.parent)
    assert done.stdout.split() == ["True", "True", "True", "True", "AF_INET"], done.stderr
