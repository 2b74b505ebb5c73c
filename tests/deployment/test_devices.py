"""The installers of a Raspberry Pi and a Jetson: their style, what they say without doing it, and a real installation into
another root, with which a client joins and the doctor finds nothing. No systemd, apt or user is touched here."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.algorithms import warmup_settings, zeroth_order_settings
from tests.deployment.conftest import DEPLOY, REPOSITORY
from tests.deployment.sandbox import settings
from tests.e2e.conftest import Fleet
from zowarmup.common.settings.run import Evaluation, Model, RunFile, Server

DEVICES = ("raspberry-pi", "jetson")
SECRET = "zw1." + "A" * 43 + "."
LINE = f"ZOWARMUP_JOIN={SECRET} zowarmup-client --server pi.local:7070 --tier low --data npz:/srv/zowarmup/mine.npz"
RUN = RunFile(
    name="drawer",
    model=Model(name="mlp"),
    warmup=warmup_settings(rounds=0),
    zeroth_order=zeroth_order_settings(rounds=3, clients_per_round=1, probes=4, head_projections=4),
    server=Server(enrolment="invited"),
    evaluation=Evaluation(data="digits:test"),
)


def install(device: str, *options: str, join: str = "", **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", str(DEPLOY / device / "install.sh"), *options],
        env={**os.environ, "ZOWARMUP_JOIN": join, "PIP_NO_COMPILE": "1", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(out)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=120)
    (path,) = out.glob("*.whl")
    return path


def test_the_scripts_are_in_good_style(tool: Callable[[str], str]) -> None:
    scripts = [*DEPLOY.glob("*/install.sh"), DEPLOY / "docker/take-a-place"]
    assert len(scripts) == 3
    done = subprocess.run([tool("shellcheck"), "-x", *scripts], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert all(os.access(script, os.X_OK) for script in scripts)


@pytest.mark.parametrize("device", DEVICES)
def test_a_dry_run_says_what_it_would_do_and_does_not_say_the_secret(device: str, wheel: Path, tmp_path: Path) -> None:
    done = install(device, "--dry-run", "--wheel", str(wheel), join=LINE, TMPDIR=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "the low tier at pi.local:7070, with npz:/srv/zowarmup/mine.npz" in done.stdout
    for step in (
        "would run: useradd --system",
        "-m venv --clear /opt/zowarmup",
        "would write: /etc/zowarmup/client.env (mode 0600)",
        "would write: /etc/zowarmup/join.env (mode 0600)",
        "would write: /etc/systemd/system/zowarmup-client.service (mode 0644)",
        "would run: systemctl enable --quiet zowarmup-client.service",
        "would run: runuser -u zowarmup -- /opt/zowarmup/bin/zowarmup-client --doctor --server pi.local:7070",
    ):
        assert step in done.stdout
    assert SECRET not in done.stdout
    assert "torch" not in done.stdout
    assert not Path("/opt/zowarmup").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_pi_that_trains_gets_a_torch_without_cuda_and_a_jetson_nvidias(wheel: Path, tmp_path: Path) -> None:
    given = ("--dry-run", "--server", "x:1", "--data", "digits:1/2", "--tier", "high", "--wheel", str(wheel))
    done = install("raspberry-pi", *given)
    assert "torch<2.11" in done.stdout
    assert "high-tier.conf (mode 0644)" in done.stdout
    done = install("jetson", *given, "--torch", "torch-2.9-nv.whl")
    assert "torch-2.9-nv.whl" in done.stdout
    # The Python that is found first has a torch, or has none.
    (tmp_path / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tmp_path / "python3").chmod(0o755)
    done = install("jetson", *given, PATH=f"{tmp_path}:/usr/bin:/bin")
    assert "--system-site-packages /opt/zowarmup" in done.stdout
    (tmp_path / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    done = install("jetson", *given, PATH=f"{tmp_path}:/usr/bin:/bin")
    assert (done.returncode, "give its wheel with --torch" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("controllers", "cmdline", "options", "said", "after"),
    [
        ("cpu memory pids", "root=x rootwait", (), "", "root=x rootwait"),
        ("cpu pids", "root=x rootwait", (), "append cgroup_enable=memory to the one line of", "root=x rootwait"),
        ("cpu pids", "root=x", ("--limit-memory",), "reboot, and the limit holds", "root=x cgroup_enable=memory"),
        ("cpu pids", "root=x cgroup_enable=memory", ("--limit-memory",), "upgrade the kernel", ""),
        ("cpu pids", None, ("--limit-memory",), "start the kernel with cgroup_enable=memory", None),
    ],
)
def test_a_kernel_that_limits_no_memory_is_told_of_and_mended_where_asked(
    tmp_path: Path, controllers: str, cmdline: str | None, options: tuple[str, ...], said: str, after: str | None
) -> None:
    """The part of the installer alone, on the files of a Pi."""
    line = tmp_path / "boot/firmware/cmdline.txt"
    for file, text in ((tmp_path / "sys/fs/cgroup/cgroup.controllers", controllers), (line, cmdline)):
        if text is not None:
            file.parent.mkdir(parents=True)
            file.write_text(f"{text}\n")
    script = f"source {DEPLOY}/device/client.sh; options --root {tmp_path} {' '.join(options)}; memory_limit"
    for _ in range(2):
        done = subprocess.run(
            ["bash", "-c", script], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert said in done.stdout and bool(said) == ("limits no service's memory" in done.stdout)
        if after is not None:
            assert line.read_text() == f"{after or cmdline}\n"
        if after != cmdline:
            said = "reboot; if it still does not"


@pytest.mark.parametrize(
    ("options", "join", "said"),
    [
        (("--server", "x:1"), "", "say what this device's data is"),
        (("--data", "digits:1/2"), "", "say where the coordinator is"),
        (("--server", "x:1", "--data", "npz:/home/pi/x.npz"), "", "cannot see home directories"),
        (("--server", "x:1", "--data", "npz:a b"), "", "would read otherwise"),
        (("--server", "x:1", "--data", "digits:1/2", "--tier", "middle"), "", "must be low or high"),
        (("--server", "x:1", "--data", "digits:1/2"), "zw1.half", "that is no invitation"),
        (("--server",), "", "--server needs a value"),
        (("--frobnicate",), "", "is not an option"),
        (
            ("--server", "x:1", "--data", "digits:1/2", "--wheel", "/nowhere.whl"),
            "",
            "no zowarmup-*.whl at /nowhere.whl",
        ),
    ],
)
def test_what_cannot_be_is_one_sentence(options: tuple[str, ...], join: str, said: str) -> None:
    done = install("raspberry-pi", "--dry-run", *options, join=join)
    assert (done.returncode, done.stderr.count("\n"), said in done.stderr) == (1, 1, True), done.stderr


def test_an_installed_client_joins_and_the_doctor_finds_nothing(
    fleet: Callable[[], Fleet], wheel: Path, tmp_path: Path
) -> None:
    one, root = fleet(), tmp_path / "root"
    one.lead(replace(RUN, zeroth_order=replace(RUN.zeroth_order, minimum_clients=0)), measured=True)
    given = ("--server", one.address, "--data-dir", str(one.data_dir))
    while (
        issued := one.run_once("zowarmup.cli.main", "invite", "--tier", "low", "--data", "digits:1/2", *given)
    ).returncode:
        assert one.processes.ended() == []
    line = tmp_path / "line.txt"
    line.write_text(issued.stdout)
    options = ("--root", str(root), "--wheel", str(wheel))

    done = install("raspberry-pi", *options, "--join-file", str(line), "--name", "pi-1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok       memory" in done.stdout
    env = root / "etc/zowarmup/client.env"
    secret = issued.stdout.split()[0]
    assert [file.stat().st_mode & 0o777 for file in (env, env.with_name("join.env"))] == [0o600, 0o600]
    assert env.with_name("join.env").read_text().strip() == secret
    unit = root / "etc/systemd/system/zowarmup-client.service"
    assert unit.read_text() == (DEPLOY / "systemd/zowarmup-client.service").read_text()
    installed = {path.name for path in (root / "opt/zowarmup/lib").glob("python3*/site-packages/*")}
    assert {"zowarmup", "numpy", "onnxruntime"} <= installed
    assert not {"torch", "pydantic", "typer"} & installed

    # What systemd would start: the unit's command with the two files of settings.
    given_to_it = dict(settings(env.read_text() + env.with_name("join.env").read_text()))
    words = (
        dict(settings(unit.read_text()))["ExecStart"].replace("/opt/", f"{root}/opt/").replace("/var/", f"{root}/var/")
    )
    for name, value in given_to_it.items():
        words = words.replace(f"${{{name}}}", value).replace(f"${name}", value)
    environment = {"PATH": "/usr/bin:/bin", "ZOWARMUP_JOIN": given_to_it["ZOWARMUP_JOIN"]}
    client = subprocess.run(
        shlex.split(words), env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert client.returncode == 0, client.stderr
    assert "joined drawer as pi-1 (tier low: as asked)" in client.stderr

    # Again, with nothing said: it keeps what there is, and the doctor sees a member.
    before = {path: path.stat().st_mtime_ns for path in (env, unit)}
    done = install("raspberry-pi", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "they are of this very wheel" in done.stdout
    assert "ok       membership   pi-1 of the low tier" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before

    identity = root / "var/lib/zowarmup/identity.json"
    assert install("raspberry-pi", "--root", str(root), "--uninstall").returncode == 0
    assert not (root / "opt/zowarmup").exists() and not env.exists() and not unit.exists() and identity.exists()
    assert install("raspberry-pi", "--root", str(root), "--uninstall", "--purge").returncode == 0
    assert not identity.exists()
