"""The command itself, as a process: exit codes, one sentence instead of a traceback, nothing heavy imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = "import sys; from zowarmup.cli.main import main; sys.argv[0] = 'zowarmup'; sys.exit(main())"


def zowarmup(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", f"{before}\n{RUN}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "Usage: zowarmup"),
        (("status", "--server", "nowhere"), 2, "--server 'nowhere' must be HOST:PORT"),
        (("status", "--server", "127.0.0.1:1"), 1, "no coordinator answers at 127.0.0.1:1"),
        (("watch", "--server", "127.0.0.1:1"), 1, "no coordinator answers at 127.0.0.1:1"),
        (("demo", "--high", "0"), 2, "--high"),
        (("demo", "--model", "gpt"), 2, "--model"),
        (("demo", "--alpha", "x"), 2, "--alpha"),
        (("demo", "/nowhere"), 2, "/nowhere holds no run.toml: `zowarmup new DIR` makes a project"),
        (("demo", "/nowhere", "--low", "3"), 2, "--low is of the demo without a project: change /nowhere/run.toml"),
        (("new",), 2, "DIR"),
        (("new", "x", "--kind", "sound"), 2, "--kind"),
        (("new", "/"), 2, "/ is not empty: name a folder that does not exist yet"),
        (
            ("demo", "--images", "/nowhere"),
            2,
            "--images: /nowhere: there is no such folder: name one with a folder of images",
        ),
        (("demo", "--images", "x" * 300), 2, "File name too long: check its path and permissions"),
        (("demo", "--images", "~/nowhere"), 2, f"{Path.home()}/nowhere: there is no such folder"),
        (("demo", "--images", "/nowhere", "--paper-mode"), 2, "leave out --paper-mode and --model mlp"),
        (("demo", "--images", "/nowhere", "--model", "mlp"), 2, "leave out --paper-mode and --model mlp"),
        (("export", "--data-dir", "/nowhere", "--out", "x"), 1, "/nowhere holds no run"),
        (("export",), 2, "--data-dir"),
        (("backup", "/nowhere", "x"), 1, "/nowhere holds no run"),
        (("backup", "/nowhere", "/"), 1, "/ exists already"),
        (("restore", "/nowhere", "--store", "sqlite:///x"), 2, "--store: must be a URL of PostgreSQL"),
        (("restore", "/nowhere", "--store", "postgresql://db/x"), 1, "/nowhere holds no run"),
        (("restore", "/nowhere"), 2, "--store"),
        (("health", "--server", "127.0.0.1:1"), 1, "no coordinator answers at 127.0.0.1:1"),
        (("pause", "--server", "127.0.0.1:1"), 1, "no coordinator answers at 127.0.0.1:1"),
        (("revoke",), 2, "CLIENT"),
        (("invite",), 2, "--tier"),
        (("invite", "--tier", "low", "--expires", "soon"), 2, "--expires 'soon': must be a number and s, m, h, d or w"),
        (("invite", "--tier", "low", "--data", "a b; rm"), 2, "holds what a shell would read otherwise"),
        (("stop", "--data-dir", "/nowhere"), 2, "/nowhere/operator.credential cannot be read"),
        (("stop", "--credential-file", "/nowhere"), 2, "--credential-file /nowhere cannot be read"),
        (("status", "--ca", "/nowhere"), 2, "--ca /nowhere cannot be read"),
        (("status", "--certificate", "x"), 2, "--certificate and --key belong together"),
        (("certs", "init", "--out", "/nowhere/x", "--host", "a b"), 2, "must be a name or an IP address"),
        (("certs", "client", "ca", "--out", "x"), 2, "neither ca nor server"),
        (("train",), 2, "train"),
    ],
)
def test_what_cannot_be_is_one_sentence(arguments: tuple[str, ...], code: int, said: str) -> None:
    done = zowarmup(*arguments)
    assert done.returncode == code
    assert said in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_a_fleet_counts_nothing_for_its_clients(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("probes_per_day = 5")
    done = zowarmup("fleet", "--clients", "2", "--data", "digits", "--policy", str(tmp_path / "policy.toml"))
    assert done.returncode == 2
    assert "--policy: mb_per_day, probes_per_day and probes are limits of one client" in done.stderr


def test_a_folder_that_is_not_a_demos_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    done = zowarmup("demo", "--out", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "is not empty, and not from an earlier demo" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = zowarmup("demo", "--out", str(tmp_path / "file" / "demo"))
    assert done.returncode == 1
    assert "Not a directory; name a folder that can be written" in done.stderr


def test_version_names_what_is_installed_and_imports_no_torch() -> None:
    after = "import atexit; atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))"
    done = zowarmup("version", before=f"import sys; {after}")
    assert done.returncode == 0
    told = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert set(told) == {"zowarmup", "protocol", "python", "numpy", "grpcio", "protobuf", "onnxruntime", "torch"}
    assert told["python"] == sys.version.split()[0]
    assert done.stderr == "False\n"


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_a_bare_install_says_what_to_install(missing: str) -> None:
    done = zowarmup("version", before=f"import sys; sys.modules[{missing!r}] = None")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("install it with: pip install 'zowarmup[server]'\n")
    assert done.stderr.count("\n") == 1


def test_each_line_of_the_help_is_a_whole_sentence() -> None:
    commands = zowarmup("--help").stdout.partition("Commands:")[2]
    assert "clients" in commands
    assert "..." not in commands


def test_where_a_coordinator_is_may_be_in_the_environment(tmp_path: Path) -> None:
    known = {**os.environ, "ZOWARMUP_SERVER": "127.0.0.1:1", "ZOWARMUP_DATA_DIR": str(tmp_path / "nothing")}
    for command, said in (
        (["zowarmup", "status"], str(tmp_path / "nothing")),
        (["zowarmup", "fsck"], str(tmp_path / "nothing")),
        (["zowarmup", "export", "--out", "model"], str(tmp_path / "nothing")),
        (["zowarmup", "doctor", "--state-dir", str(tmp_path / "state")], "127.0.0.1:1"),
    ):
        done = subprocess.run(
            [str(Path(sys.executable).parent / command[0]), *command[1:]],
            env=known, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode != 0
        assert said in done.stdout + done.stderr, command
        assert "Missing option" not in done.stderr
    for program, option in (("zowarmup-client", "ZOWARMUP_SERVER"), ("zowarmup-server", "ZOWARMUP_DATA_DIR")):
        shown = subprocess.run(
            [str(Path(sys.executable).parent / program), "--help"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert option in shown.stdout
