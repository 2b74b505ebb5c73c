"""What is declared is what is true: version floors, what the bare install brings, what the wheel holds."""

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest

import zowarmup
import zowarmup.v1.coordinator_pb2 as messages
import zowarmup.v1.coordinator_pb2_grpc as services
from zowarmup.common.settings.run import VERSION

REPOSITORY = Path(__file__).parent.parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
INFO, SHARED = f"zowarmup-{VERSION}.dist-info", f"zowarmup-{VERSION}.data"
ROOMS = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]


def name_of(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9_.-]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def floor(package: str) -> str:
    (line,) = [line for line in requires("zowarmup") or [] if name_of(line) == package and "extra ==" not in line]
    match = re.search(r">=([\d.]+)", line)
    assert match
    return match[1]


def test_runtime_floors_match_the_generated_code() -> None:
    """Generated code refuses an older runtime than the generator's, so the floors are what the generator stamped."""
    stamped = re.search(r"Protobuf Python Version: ([\d.]+)", Path(messages.__file__).read_text(encoding="utf-8"))
    assert stamped
    assert floor("protobuf") == stamped[1]
    assert floor("grpcio") == services.GRPC_GENERATED_VERSION


def test_the_version_stands_in_one_place_and_samples_name_no_other(wheel: zipfile.ZipFile) -> None:
    """Where an image is named, and in the list of changes."""
    assert "version" in PROJECT["project"]["dynamic"]
    assert f"\nVersion: {VERSION}\n" in wheel.read(f"{INFO}/METADATA").decode() and zowarmup.__version__ == VERSION
    named = re.compile(
        r"zowarmup-(?:server|client-low|client-high)(?::|, newTag: )([0-9][0-9.]*)|zowarmup-([0-9][0-9.]*)-py3"
    )
    samples = [path for path in (REPOSITORY / "deploy").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    samples += [REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")]
    found = {(path.name, image or file) for path in samples for image, file in named.findall(path.read_text("utf-8"))}
    assert {version for _, version in found} == {VERSION}, found
    assert (
        re.findall(r"^## \[([0-9.]+)\]", (REPOSITORY / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)[0] == VERSION
    )


def test_one_version_of_the_generator_is_named() -> None:
    (build,) = [line for line in PROJECT["build-system"]["requires"] if name_of(line) == "grpcio-tools"]
    assert build in PROJECT["project"]["optional-dependencies"]["dev"]
    assert build in (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()


def test_the_bare_install_is_the_low_tier_client() -> None:
    bare = {name_of(line) for line in requires("zowarmup") or [] if "extra ==" not in line}
    assert bare == {"grpcio", "protobuf", "numpy", "onnxruntime", "xxhash"}


def test_every_dependency_has_a_tested_version() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {name_of(line) for line in lines if re.fullmatch(r"[A-Za-z0-9_.-]+==(\d+!)?[\w.]+", line)}
    extras = PROJECT["project"]["optional-dependencies"]
    installed = PROJECT["project"]["dependencies"] + [line for e in ("torch", "server", "dev") for line in extras[e]]
    assert {name_of(line) for line in installed} - pinned == set()
    assert "torch==2.13.0" in lines


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(out)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, timeout=120)
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_every_room_and_the_generated_code(wheel: zipfile.ZipFile) -> None:
    held = set(wheel.namelist())
    files = {f"zowarmup/{path.relative_to(REPOSITORY)}" for room in ROOMS for path in (REPOSITORY / room).rglob("*.py")}
    files |= {f"zowarmup/v1/{name}" for name in ("__init__.py", "coordinator_pb2.py", "coordinator_pb2_grpc.py")}
    files |= {"zowarmup/__init__.py", "zowarmup/py.typed", "zowarmup/data/digits.npz"}
    static = REPOSITORY / "server/telemetry/page/static"
    files |= {f"zowarmup/{path.relative_to(REPOSITORY)}" for path in static.iterdir()}
    templates = [path for path in (REPOSITORY / "lab/projects").rglob("*") if path.suffix in (".md", ".toml")]
    assert len(templates) == 6
    files |= {f"zowarmup/{path.relative_to(REPOSITORY)}" for path in templates}
    assert files - held == set()
    assert {name.split("/")[0] for name in held} == {"zowarmup", INFO, SHARED}
    assert any(name.endswith("licenses/LICENSE") for name in held)


def test_the_wheel_names_its_commands(wheel: zipfile.ZipFile) -> None:
    """And each leads to a function that the wheel holds."""
    lines = wheel.read(f"{INFO}/entry_points.txt").decode().split("\n")
    commands = dict(line.split(" = ") for line in lines if " = " in line)
    assert set(commands) == {"zowarmup", "zowarmup-server", "zowarmup-client"}
    for target in commands.values():
        module, function = target.split(":")
        assert f"def {function}(" in wheel.read(module.replace(".", "/") + ".py").decode()


@pytest.mark.parametrize(
    ("command", "missing"), [("zowarmup.server.command", "pydantic"), ("zowarmup.cli.main", "typer")]
)
def test_a_bare_install_says_what_is_missing(command: str, missing: str) -> None:
    """A module that is None in sys.modules is one that is not there."""
    code = f"import sys; sys.modules[{missing!r}] = None; from {command} import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(
        rf"zowarmup\S*: {missing} is missing; install it with: pip install 'zowarmup\[.*\]'\n", done.stderr
    )
