"""The table of rooms, checked: who may import whom, and which packages from outside.

The rules are data (`ROOMS`, `FILES`, `WIRE_FILES`); docs/structure.md says them in words. Imports are found with `ast`,
so nothing is imported to check it, and `breaches` works on any tree: the last part of this file lets every rule catch a
breach in a tree made for it, because a rule that cannot fail proves nothing.
"""

import ast
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


@dataclass(frozen=True)
class Rule:
    """What one room or file may import: `rooms` of this package; packages from outside `anywhere` in the file, or only
    `lazily`, inside a function, so that a process pays for one when it uses it. `pure`: nothing that reaches the
    network, the disk, the clock, threads or global randomness."""

    rooms: frozenset[str]
    anywhere: frozenset[str]
    lazily: frozenset[str]
    pure: bool


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def rule(rooms: str, anywhere: str = "", lazily: str = "", pure: bool = False) -> Rule:
    return Rule(words(rooms), words(anywhere), words(lazily), pure)


ROOMS = {
    "common": rule("common", "numpy xxhash", pure=True),
    "data": rule("common data", "numpy"),
    "server": rule("common data server", "numpy"),
    "client": rule("common data client", "numpy grpc"),
    "cli": rule("common data server client cli", "numpy grpc rich typer"),
}
# Files and folders with a rule of their own; the longest path that fits counts.
FILES = {
    "common/codec.py": rule("common", "google", pure=True),
    "common/compiled.py": rule("common", "llvmlite numba numpy", pure=True),
    "common/graph.py": rule("common", "google", pure=True),
    "common/program.py": rule("common", "numpy", lazily="onnxruntime", pure=True),
    "common/system": rule("common"),
    "common/tensors.py": rule("common", "numpy torch", pure=True),
    "common/models": rule("common", "numpy torch"),
    "common/models/__init__.py": rule("common", "numpy", lazily="torch"),
    "common/tasks": rule("common", "numpy", lazily="torch", pure=True),
    "data/image_file.py": rule("common data", "numpy", lazily="PIL"),
    "server/exposition.py": rule("common server", "prometheus_client"),
    "server/families.py": rule("server", "prometheus_client"),
    "server/listening.py": rule("common server", "grpc"),
    "server/certificate.py": rule("common server", "grpc", lazily="cryptography"),
    "server/ledger.py": rule("common data server", "pydantic"),
    "server/metrics.py": rule("common server", "prometheus_client"),
    "server/main.py": rule("common data server", "grpc"),
    "server/opening.py": rule("common data server", "numpy"),
    "server/building.py": rule("common server", "numpy"),
    "server/continuation.py": rule("common server"),
    "server/safetensors_file.py": rule("common server", lazily="safetensors"),
    "server/schemas.py": rule("common", "pydantic pydantic_core"),
    "server/runfile.py": rule("common server", "pydantic"),
    "server/service": rule("common server", "grpc grpc_health grpc_reflection numpy"),
    "server/service/limits.py": rule("common server", "google grpc"),
    "server/commands.py": rule("common server", pure=True),
    "server/events.py": rule("common server", pure=True),
    "server/evolve.py": rule("common server", pure=True),
    "server/state.py": rule("common server", pure=True),
    "server/decide.py": rule("common server", pure=True),
    "server/membership.py": rule("common server", pure=True),
    "server/guard.py": rule("common server", pure=True),
    "server/deadlines.py": rule("common server", pure=True),
    "server/round.py": rule("common server", pure=True),
    "server/participation.py": rule("common server", pure=True),
    "server/plateau.py": rule("common server", pure=True),
    "server/rejection.py": rule("common server", pure=True),
    "server/resting.py": rule("common server", pure=True),
    "server/sampling.py": rule("common server", pure=True),
    "server/table.py": rule("", pure=True),
    "server/tally.py": rule("common server", pure=True),
    "server/wire.py": rule("", pure=True),
    "client/fleet/profiles.py": rule("common", pure=True),
    "client/fleet/part.py": rule("common client"),
    "client/stream.py": rule("common client", "google grpc"),
    "client/accelerator.py": rule("common data client", "torch"),
    "client/trainer.py": rule("common data client", "numpy torch"),
    "cli/certificates.py": rule("common cli", "cryptography"),
    "cli/experiment/grid.py": rule("common server cli", pure=True),
    "cli/experiment/progress.py": rule("cli", pure=True),
    "cli/experiment/summary.py": rule("cli", pure=True),
    "cli/experiment/table.py": rule("common cli", "pydantic"),
    "cli/experiment/outcome.py": rule("common server cli"),
    "cli/experiment/running.py": rule("common server cli", lazily="safetensors"),
    "cli/experiment/figure.py": rule("cli", "matplotlib"),
    "cli/export.py": rule("common server cli", "google onnx safetensors"),
    "cli/fleet_ray.py": rule("client data cli", lazily="ray"),
    "cli/session.py": rule("common data server client cli", "grpc", lazily="grpc_health"),
    "cli/report_figure.py": rule("common cli", "matplotlib"),
}
# The only files and folders that touch generated protobuf code.
WIRE_FILES = words(
    "common/codec.py common/graph.py server/service client/session.py client/stream.py cli/session.py cli/specimens.py"
)
# The bare install, which is all that a low-tier device has; and what each process may have loaded once it has started,
# before anything is asked of it. A coordinator needs torch in a child, once, and never in itself.
BARE = words("google grpc numpy onnxruntime xxhash")
STARTS = {
    "zowarmup.client.main": BARE,
    "zowarmup.cli.main": BARE,
    "zowarmup.server.command": BARE,
    "zowarmup.server.main": BARE | words("grpc_health grpc_reflection prometheus_client pydantic pydantic_core"),
}
# Modules of the standard library that reach the network, the disk, the clock, other processes or global randomness.
IMPURE = words(
    "asyncio concurrent datetime glob http io multiprocessing os pathlib platform queue random resource sched secrets "
    "select selectors shelve shutil signal socket socketserver sqlite3 ssl subprocess tempfile threading time urllib uuid"
)


@dataclass(frozen=True)
class Import:
    """One imported module, absolute; `eager`: at the top of the file, so it is loaded together with it."""

    line: int
    name: str
    eager: bool


def imports(path: Path, modules: set[str]) -> Iterator[Import]:
    """All of a file's imports. `from a import b` is a.b where that is one of `modules`, else a. A relative import
    yields a name that begins with a dot."""

    def walk(node: ast.AST, eager: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(child.lineno, alias.name, eager) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = "." * child.level + (child.module or "")
                full = [f"{base}.{alias.name}" for alias in child.names]
                yield from (Import(child.lineno, name if name in modules else base, eager) for name in full)
            else:
                inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
                yield from walk(child, eager and not inside and not typing)

    return walk(ast.parse(path.read_text(encoding="utf-8")), eager=True)


def sources(root: Path) -> dict[str, str]:
    """Every file of every room, relative to `root`, with its module name."""
    files = sorted(str(path.relative_to(root)) for room in ROOMS for path in (root / room).rglob("*.py"))
    return {file: "zowarmup." + file.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for file in files}


def covers(key: str, file: str) -> bool:
    return file == key or file.startswith(key + "/")


def rule_of(file: str) -> Rule:
    fitting = [key for key in FILES if covers(key, file)]
    return FILES[max(fitting, key=len)] if fitting else ROOMS[file.split("/")[0]]


def breaches(root: Path) -> list[str]:
    """What in the rooms under `root` breaks a rule, as "file:line: sentence"."""
    files = sources(root)
    modules = set(files.values())
    graph = {module: list(imports(root / file, modules)) for file, module in files.items()}
    found = [f"{file}:{breach}" for file, module in files.items() for breach in _local(file, graph[module])]
    found += [f"import cycle: {' -> '.join(cycle)}" for cycle in _cycles(graph)]
    for start, may in STARTS.items():
        found += [f"{start}: may not load {package} when it starts" for package in sorted(_loaded(start, graph) - may)]
    return list(dict.fromkeys(found))


def _local(file: str, found: list[Import]) -> Iterator[str]:
    """The breaches of one file on its own."""
    allowed = rule_of(file)
    for item in found:
        top, _, rest = item.name.partition(".")
        if not top:
            yield f"{item.line}: relative import; say zowarmup.room.module"
        elif top == "zowarmup":
            room = rest.split(".")[0]
            if room == "v1":
                if not any(covers(key, file) for key in WIRE_FILES):
                    yield f"{item.line}: generated code (zowarmup.v1) is for {', '.join(sorted(WIRE_FILES))} only"
            elif room not in allowed.rooms:
                yield f"{item.line}: may not import zowarmup.{room}"
        elif top in sys.stdlib_module_names:
            if allowed.pure and top in IMPURE:
                yield f"{item.line}: pure code may not import {top}"
        elif top in allowed.lazily:
            if item.eager:
                yield f"{item.line}: {top} may only be imported inside a function"
        elif top not in allowed.anywhere:
            yield f"{item.line}: may not import {top}"


def _cycles(graph: dict[str, list[Import]]) -> list[list[str]]:
    """Import cycles between modules, lazy imports included, each found once."""
    done: set[str] = set()
    cycles: list[list[str]] = []

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            cycles.append([*path[path.index(module) :], module])
        elif module not in done:
            for item in graph.get(module, []):
                if item.name in graph and item.name != module:
                    visit(item.name, [*path, module])
            done.add(module)

    for module in graph:
        visit(module, [])
    return cycles


def _loaded(start: str, graph: dict[str, list[Import]]) -> set[str]:
    """The packages from outside that importing `start` loads, through whatever it imports eagerly."""
    seen: set[str] = set()
    outside: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if not name.startswith("zowarmup"):
            outside |= {name.split(".")[0]} - sys.stdlib_module_names
        elif name not in seen:
            seen.add(name)
            waiting.append(name.rpartition(".")[0])  # a package is loaded before what is in it
            waiting += [item.name for item in graph.get(name, []) if item.eager]
    return outside - {""}


def test_the_rooms_keep_to_the_table() -> None:
    assert breaches(REPOSITORY) == []


def test_every_rule_is_about_a_file_that_exists() -> None:
    assert [name for name in (*ROOMS, *FILES, *WIRE_FILES) if not (REPOSITORY / name).exists()] == []


def test_every_folder_with_code_is_a_room_and_the_wheel_holds_them_all() -> None:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    folders = {path.parent.name for path in REPOSITORY.glob("[a-z]*/*.py")} - {"tests", "benchmarks"}
    wheel = settings["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert folders == set(ROOMS) == set(wheel["only-include"])
    assert wheel["sources"] == {room: f"zowarmup/{room}" for room in ROOMS}


def test_the_type_checker_sees_every_room() -> None:
    """mypy reads the package tree of the editable install; its links must lead to the rooms of this checkout."""
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    tree, *_ = settings["tool"]["mypy"]["files"]
    assert {room: (REPOSITORY / tree / room).resolve() for room in ROOMS} == {
        room: (REPOSITORY / room).resolve() for room in ROOMS
    }


# Does each rule catch what it is there to catch?


def tree(root: Path, **files: str) -> Path:
    """A tree of files under `root`: keys are paths with __ for / (and no .py), values their source."""
    for name, text in files.items():
        path = root / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


EVERY_RULE = {**ROOMS, **FILES}


def one_file(root: Path, key: str, text: str) -> tuple[Path, str]:
    """A tree whose only file is one that the rule `key` is about, and that file's path in it."""
    file = key if key.endswith(".py") else f"{key}/a_file.py"
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return root, file


@pytest.mark.parametrize("key", EVERY_RULE)
def test_a_rule_permits_what_it_permits(key: str, tmp_path: Path) -> None:
    allowed = EVERY_RULE[key]
    lines = ["import json"]
    lines += [f"from zowarmup.{room} import thing" for room in sorted(allowed.rooms)]
    lines += [f"import {package}.part" for package in sorted(allowed.anywhere)]
    lines += ["def use():", "    pass"] + [f"    from {package} import thing" for package in sorted(allowed.lazily)]
    root, _ = one_file(tmp_path, key, "\n".join(lines))
    assert breaches(root) == []


@pytest.mark.parametrize("key", EVERY_RULE)
def test_a_rule_catches_a_breach(key: str, tmp_path: Path) -> None:
    allowed = EVERY_RULE[key]
    forbidden = [f"zowarmup.{room}" for room in ROOMS if room not in allowed.rooms] + ["tensorflow"]
    lines = [f"import {name}" for name in forbidden]
    expected = [f"may not import {name}" for name in forbidden]
    lines += [f"import {package}" for package in sorted(allowed.lazily)]
    expected += [f"{package} may only be imported inside a function" for package in sorted(allowed.lazily)]
    if allowed.pure:
        lines.append("import time")
        expected.append("pure code may not import time")
    root, file = one_file(tmp_path, key, "\n".join(lines))
    here = [breach for breach in breaches(root) if breach.startswith(file)]
    assert here == [f"{file}:{line}: {text}" for line, text in enumerate(expected, 1)]


@pytest.mark.parametrize("place", ["def f():\n    {}", "class A:\n    {}", "try:\n    {}\nfinally:\n    pass"])
def test_no_place_hides_an_import(place: str, tmp_path: Path) -> None:
    root = tree(tmp_path, server__service=place.format("import zowarmup.client.loop"))
    assert [breach.split(": ")[1] for breach in breaches(root)] == ["may not import zowarmup.client"]


def test_generated_code_is_only_for_its_files(tmp_path: Path) -> None:
    wire = "from zowarmup.v1 import coordinator_pb2"
    for key in WIRE_FILES:
        one_file(tmp_path, key, wire)
    assert breaches(tmp_path) == []
    (breach,) = breaches(tree(tmp_path, server__coordinator=wire))
    assert breach.startswith("server/coordinator.py:1: generated code")


def test_relative_imports_are_refused(tmp_path: Path) -> None:
    (breach,) = breaches(tree(tmp_path, server__state="from . import decide"))
    assert breach.startswith("server/state.py:1: relative import")


def test_cycles_are_found_lazy_ones_too(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        common__a="from zowarmup.common import b",
        common__b="def f():\n    from zowarmup.common.c import x",
        common__c="import zowarmup.common.a",
    )
    assert breaches(root) == [
        "import cycle: zowarmup.common.a -> zowarmup.common.b -> zowarmup.common.c -> zowarmup.common.a"
    ]


def test_torch_behind_a_module_that_may_have_it_is_found(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        client__main="from zowarmup.client.loop import run",
        client__loop="from zowarmup.client import trainer",
        client__trainer="import torch",
    )
    assert breaches(root) == ["zowarmup.client.main: may not load torch when it starts"]
    tree(root, client__loop="def run():\n    from zowarmup.client import trainer")
    assert breaches(root) == []
