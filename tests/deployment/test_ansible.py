"""The playbooks for many devices: their style, and a real installation into another root of this machine, with a real
coordinator; then an upgrade in batches that stops at the first device which it spoils."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deployment.conftest import DEPLOY, documents
from tests.deployment.test_devices import RUN, wheel
from tests.e2e.conftest import Fleet

__all__ = ["wheel"]

PLAYBOOKS = ("devices", "check")
Tool = Callable[[str], str]


@pytest.fixture
def run(tool: Tool, tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs a program of ansible's, at home in a folder of the test's."""
    settings = {
        "ANSIBLE_HOME": str(tmp_path / "ansible"),
        "ANSIBLE_NOCOLOR": "1",
        "NO_COLOR": "1",
        "PIP_NO_COMPILE": "1",
    }

    def started(name: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
        program = tool(name)
        return subprocess.run(
            [program, *map(str, arguments)],
            env={**os.environ, **settings, "PATH": f"{Path(program).parent}:{os.environ['PATH']}"},
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )

    return started


def test_the_playbooks_are_in_good_style(run: Callable[..., "subprocess.CompletedProcess[str]"]) -> None:
    for name in PLAYBOOKS:
        given = ("-i", DEPLOY / "ansible/inventory.example.yaml", DEPLOY / f"ansible/{name}.yaml")
        done = run("ansible-playbook", "--syntax-check", *given)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
    files = [DEPLOY / f"ansible/{name}.yaml" for name in PLAYBOOKS]
    done = run("ansible-lint", "--offline", "--profile", "production", *files, DEPLOY / "ansible/roles/zowarmup")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_example_says_what_the_playbooks_need() -> None:
    (inventory,) = documents(DEPLOY / "ansible/inventory.example.yaml")
    given = set(inventory["devices"]["vars"])
    text = "".join(file.read_text() for file in (DEPLOY / "ansible/roles").rglob("*.yaml"))
    assert {"zowarmup_server", "zowarmup_data"} <= given
    assert all(name in text for name in given if name.startswith("zowarmup_"))


@pytest.mark.timeout(600)
def test_devices_are_installed_checked_and_upgraded_in_batches(
    fleet: Callable[[], Fleet],
    wheel: Path,
    tmp_path: Path,
    run: Callable[..., "subprocess.CompletedProcess[str]"],
) -> None:
    one = fleet()
    one.lead(RUN)
    given = ("--server", one.address, "--data-dir", str(one.data_dir))
    invite = ("invite", "--tier", "low", "--uses", "2", "--data", "digits:1/2", *given)
    while (issued := one.run_once("zowarmup.cli.main", *invite)).returncode:
        assert one.processes.ended() == []
    hosts: dict[str, Any] = {
        f"pi-{number}": {
            "zowarmup_root": str(tmp_path / f"root-{number}"),
            "zowarmup_kit": str(tmp_path / f"kit-{number}"),
            "zowarmup_install_options": ["--name", f"pi-{number}"],
        }
        for number in (1, 2)
    }
    shared: dict[str, Any] = {"ansible_connection": "local", "ansible_become": False}
    shared |= {
        "ansible_python_interpreter": sys.executable,
        "zowarmup_server": one.address,
        "zowarmup_data": "digits:1/2",
        "zowarmup_wheel": str(wheel),
    }
    inventory, line = tmp_path / "inventory.yaml", tmp_path / "line.yaml"
    inventory.write_text(yaml.safe_dump({"devices": {"hosts": hosts, "vars": shared}}))
    line.write_text(yaml.safe_dump({"zowarmup_invitation": issued.stdout.strip()}))

    play = ("ansible-playbook", "-i", inventory)
    done = run(*play, DEPLOY / "ansible/devices.yaml", "-e", f"@{line}", "--limit", "pi-1")
    assert done.returncode == 0, done.stdout + done.stderr
    secret = issued.stdout.split()[0]
    assert secret not in done.stdout
    root, kit = (Path(hosts["pi-1"][name]) for name in ("zowarmup_root", "zowarmup_kit"))
    assert "--name pi-1" in (root / "etc/zowarmup/client.env").read_text()
    assert (root / "etc/zowarmup/join.env").read_text().strip() == secret
    assert not (kit / "line.txt").exists()

    done = run(*play, DEPLOY / "ansible/check.yaml", "--limit", "pi-1")
    assert done.returncode == 0, done.stdout + done.stderr

    # Again, with nothing new: nothing is changed, and no invitation is needed.
    done = run(*play, DEPLOY / "ansible/devices.yaml", "--limit", "pi-1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "changed=0" in done.stdout

    # A package that is broken: the first device fails, and the second is left as it is.
    broken = tmp_path / wheel.name
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(broken, "w") as out:
        for name in source.namelist():
            out.writestr(
                name, b"raise SystemExit('broken')" if name == "zowarmup/client/main.py" else source.read(name)
            )
    done = run(*play, DEPLOY / "ansible/devices.yaml", "-e", json.dumps({"zowarmup_wheel": str(broken)}))
    assert done.returncode != 0 and "broken" in done.stdout
    assert "pi-2 " not in done.stdout.partition("PLAY RECAP")[2]
    assert not Path(hosts["pi-2"]["zowarmup_kit"]).exists()


def test_a_signature_comes_to_the_device_with_the_package(
    tmp_path: Path, run: Callable[..., "subprocess.CompletedProcess[str]"]
) -> None:
    package, key = tmp_path / "dist/zowarmup-0.1.0-py3-none-any.whl", tmp_path / "release_key"
    package.parent.mkdir()
    package.write_bytes(b"a package")
    commands = (
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)],
        ["ssh-keygen", "-q", "-Y", "sign", "-f", str(key), "-n", "zowarmup", str(package)],
        ["sh", "-c", f"cd {package.parent} && sha256sum {package.name} > SHA256SUMS"],
    )
    for command in commands:
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    kind, public, *_ = key.with_suffix(".pub").read_text().split()
    (tmp_path / "signers").write_text(f"zowarmup {kind} {public}\n")
    host = {
        "ansible_connection": "local",
        "ansible_become": False,
        "ansible_python_interpreter": sys.executable,
        "zowarmup_root": str(tmp_path / "root"),
        "zowarmup_kit": str(tmp_path / "kit"),
        "zowarmup_server": "coordinator.local:7070",
        "zowarmup_data": "digits:1/2",
        "zowarmup_wheel": str(package),
        "zowarmup_signers": str(tmp_path / "signers"),
        "zowarmup_install_options": ["--dry-run"],
    }
    inventory = tmp_path / "inventory.yaml"
    inventory.write_text(yaml.safe_dump({"devices": {"hosts": {"pi-1": host}}}))
    play = ("ansible-playbook", "-v", "-i", inventory, DEPLOY / "ansible/devices.yaml")
    done = run(*play)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "is signed by one of" in done.stdout
    assert (tmp_path / "kit/SHA256SUMS").exists()
    package.write_bytes(b"another package")
    done = run(*play)
    assert done.returncode != 0 and "SHA256SUMS says: copy both again" in done.stdout
