"""The table of rooms, checked: who may import whom, and which packages from outside.

The rules are data: `ROOMS`, a folder a line; `PACKAGES`, the few files that may import a package which their room may
not; `WIRE_FILES`. Imports are found with `ast`, so nothing is imported to check it, and `breaches` works on any tree: the
last part of this file lets every rule catch a breach in a tree made for it, because a rule that cannot fail proves nothing.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


@dataclass(frozen=True)
class Rule:
    """What one room may import: `rooms` of this package beside itself; packages from outside `anywhere` in the file, or only
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


NUMBERS = "common common/exact common/secure_aggregation common/messages common/tasks common/algorithms common/settings"
COMMON = f"{NUMBERS} common/models common/system data"
BELOW = f"{COMMON} server/core server/projections server/store server/coordinator.py"
DEVICE = f"{COMMON} client/errors.py client/policy.py"
SERVER = (
    f"{BELOW} server/aggregation server/rpc server/telemetry server/telemetry/page server/setup server/stored server/tracking "
    "server/cluster"
)
CLIENT = f"{DEVICE} client/store client/net client/work client/diagnostics"
# The package itself, `zowarmup`.
PUBLIC = "public.py"
# A room is a folder without the rooms inside it, or a file of one; the longest path that fits counts.
ROOMS = {
    "common": rule("", pure=True),
    "common/exact": rule("common", "numpy xxhash", pure=True),
    "common/messages": rule("common common/exact common/secure_aggregation", pure=True),
    "common/tasks": rule("common common/exact", "numpy", lazily="torch", pure=True),
    "common/algorithms": rule(
        "common common/exact common/messages common/secure_aggregation common/tasks", "numpy", pure=True
    ),
    "common/secure_aggregation": rule("common", "numpy", pure=True),
    "common/settings": rule(
        "common common/exact common/secure_aggregation common/messages common/tasks common/algorithms", pure=True
    ),
    "common/system": rule("common"),
    "common/models": rule(
        "common common/exact common/messages common/tasks common/settings common/system common/models/language",
        "numpy torch",
    ),
    "common/models/language": rule("common common/tasks common/settings", "torch"),
    "data": rule("common common/exact common/tasks common/settings common/system", "numpy"),
    "server/core": rule(NUMBERS, "numpy", pure=True),
    "server/projections": rule(f"{NUMBERS} server/core", pure=True),
    "server/store": rule(f"{NUMBERS} common/system server/core server/projections", "numpy"),
    "server/store/postgres": rule(f"{NUMBERS} common/system server/core server/store", "psycopg"),
    "server/stored": rule(f"{NUMBERS} server/core server/store server/store/postgres"),
    "server/coordinator.py": rule("common common/system server/core server/store"),
    "server/aggregation": rule(BELOW, "numpy"),
    "server/rpc": rule(BELOW, "grpc numpy"),
    "server/cluster": rule(f"{BELOW} server/rpc", "grpc"),
    "server/telemetry": rule(BELOW, "prometheus_client", lazily="uvicorn"),
    "server/telemetry/page": rule(f"{BELOW} server/stored server/telemetry"),
    "server/setup": rule(BELOW, "numpy"),
    "server/tracking": rule(BELOW, lazily="mlflow tensorboard"),
    "server": rule(f"{SERVER} server/store/postgres", "grpc"),
    "client/errors.py": rule("common common/system"),
    "client/policy.py": rule(f"{COMMON} client/errors.py"),
    "client/store": rule(DEVICE, "numpy"),
    "client/net": rule(f"{DEVICE} client/store", "grpc"),
    "client/work": rule(f"{DEVICE} client/store client/net", "numpy"),
    "client/diagnostics": rule(f"{DEVICE} client/store client/net client/work", "numpy"),
    "client": rule(CLIENT),
    "cli/session": rule(f"{DEVICE} client/net", "grpc rich"),
    "lab": rule("common common/system"),
    "lab/simulation": rule(f"{CLIENT} lab", "grpc numpy", lazily="ray"),
    "lab/demo": rule(f"{COMMON} cli/session lab server/telemetry/page", "rich"),
    "lab/experiments": rule(f"{SERVER} lab lab/demo"),
    "lab/runs": rule(f"{SERVER} lab lab/experiments"),
    "lab/projects": rule(f"{SERVER} lab lab/demo"),
    # Copied by `zowarmup new`: a user's own code, which stands on none of ours.
    "lab/projects/images": rule("", "numpy torch"),
    "lab/projects/rows": rule("", "numpy torch"),
    "lab/projects/text": rule("", "model numpy safetensors"),
    "cli": rule(f"{SERVER} server {CLIENT} client cli/session", "numpy rich typer"),
    "cli/lab.py": rule(f"{CLIENT} cli lab lab/demo lab/experiments lab/projects lab/simulation", "rich typer"),
    "cli/runs.py": rule(f"{SERVER} cli lab lab/runs", "typer"),
    "cli/commands.py": rule(f"{SERVER} server {CLIENT} client cli cli/session cli/lab.py cli/runs.py", "rich typer"),
    "cli/main.py": rule("common common/system client cli cli/commands.py"),
    "api": rule(
        f"{SERVER} server {CLIENT} client cli/session lab lab/experiments lab/simulation", "numpy", lazily="torch"
    ),
    PUBLIC: rule(
        "common/algorithms common/exact common/messages common/settings common/tasks data client/policy.py cli/session api",
        pure=True,
    ),
}
TOPS = sorted({room.split("/")[0] for room in ROOMS} - {PUBLIC})
# Files that import a package which their room may not: at the top, or, behind a "?", inside a function.
PACKAGES = {
    "common/exact/compiled.py": "llvmlite numba",
    "common/exact/tensors.py": "torch",
    "common/messages/codec.py": "google",
    "common/models/graph.py": "google",
    "common/secure_aggregation/primitives.py": "cryptography?",
    "common/system/tracing.py": "opentelemetry?",
    "common/models/program.py": "onnxruntime?",
    "common/models/late_weights.py": "onnx",
    "common/models/torchvision_classifiers.py": "torchvision?",
    "data/image_file.py": "PIL?",
    "data/tokens.py": "tokenizers?",
    "server/cluster/forwarding.py": "pydantic",
    "server/store/ledger.py": "pydantic",
    "server/store/event_rows.py": "pydantic",
    "server/store/schemas.py": "pydantic pydantic_core",
    "server/rpc/certificate.py": "cryptography?",
    "server/rpc/limits.py": "google",
    "server/rpc/server.py": "grpc_health grpc_reflection",
    "server/setup/language_directory.py": "torch?",
    "server/setup/run_file.py": "pydantic",
    "server/setup/safetensors_file.py": "safetensors?",
    "server/setup/verbalizers.py": "torch?",
    "server/setup/weights_file.py": "torch?",
    "client/net/stream.py": "google",
    "client/work/probing.py": "torch?",
    "client/work/training.py": "torch",
    "api/figure.py": "matplotlib?",
    "api/simulation.py": "rich?",
    "cli/certificates.py": "cryptography",
    "cli/stored_run.py": "google onnx? safetensors?",
    "cli/session/session.py": "grpc_health?",
    "lab/demo/pictures.py": "numpy PIL?",
    "lab/demo/report.py": "matplotlib",
    "lab/experiments/figure.py": "matplotlib",
    "lab/experiments/running.py": "numpy? safetensors?",
    "lab/experiments/table.py": "pydantic",
    "lab/progress.py": "rich",
    "lab/runs/comparison.py": "matplotlib",
}
# The low tier reads the program with what is in this file, and has no torch.
WITHOUT_TORCH = words(
    "common/models/__init__.py common/models/base.py common/models/graph.py common/models/halves.py common/models/program.py"
)
# The only files and folders that touch generated protobuf code.
WIRE_FILES = words(
    "common/messages/codec.py common/models/graph.py common/models/halves.py server/rpc server/cluster client/net/connection.py "
    "client/net/stream.py cli/session/session.py"
)
# Modules that are tested through others only, and by no test of their own yet. The list may only become shorter.
# The bare install, which is all that a low-tier device has; and what each process may have loaded once it has started,
# before anything is asked of it. A coordinator needs torch in a child, once, and never in itself.
BARE = words("google grpc numpy onnxruntime xxhash")
STARTS = {
    "zowarmup.client.main": BARE,
    "zowarmup.cli.main": BARE,
    "zowarmup.server.command": BARE,
    "zowarmup.server.main": BARE | words("grpc_health grpc_reflection pydantic pydantic_core"),
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
    files = sorted(str(path.relative_to(root)) for top in TOPS for path in (root / top).rglob("*.py"))
    named = {file: "zowarmup." + file.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for file in files}
    return named | ({PUBLIC: "zowarmup"} if (root / PUBLIC).exists() else {})


def covers(key: str, file: str) -> bool:
    return file == key or file.startswith(key + "/")


def room_of(file: str) -> str:
    """The room that a file is in; empty where there is none."""
    return max((key for key in ROOMS if covers(key, file)), key=len, default="")


def room_with(module: str) -> str:
    """The room that has the module `module`, a name without "zowarmup."; empty for the package itself."""
    if not module:
        return PUBLIC
    path = module.replace(".", "/")
    return max(room_of(path), room_of(f"{path}.py"), key=len)


def name_of(room: str) -> str:
    """A room as it is imported."""
    return "zowarmup" if room == PUBLIC else "zowarmup." + room.removesuffix(".py").replace("/", ".")


def rule_of(file: str) -> Rule:
    """Its room's rule, and what the file itself may import."""
    of_room = ROOMS[room_of(file)]
    extra = words(PACKAGES.get(file, ""))
    lazily = of_room.lazily | {name.removesuffix("?") for name in extra if name.endswith("?")}
    anywhere = of_room.anywhere | {name for name in extra if not name.endswith("?")}
    if file in WITHOUT_TORCH:
        return Rule(of_room.rooms, anywhere - {"torch"}, lazily | {"torch"}, of_room.pure)
    return Rule(of_room.rooms, anywhere, lazily, of_room.pure)


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
            if rest.split(".")[0] == "v1":
                if not any(covers(key, file) for key in WIRE_FILES):
                    yield f"{item.line}: generated code (zowarmup.v1) is for {', '.join(sorted(WIRE_FILES))} only"
            elif (room := room_with(rest)) not in allowed.rooms | {room_of(file)}:
                yield f"{item.line}: may not import {name_of(room)}"
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
    assert [name for name in (*EVERY_RULE, *WIRE_FILES) if not (REPOSITORY / name).exists()] == []


def test_every_folder_with_code_is_a_room() -> None:
    folders = {str(path.parent.relative_to(REPOSITORY)) for top in TOPS for path in (REPOSITORY / top).rglob("*.py")}
    assert folders == {room for room in ROOMS if not room.endswith(".py")}


def test_rooms_are_in_no_circle() -> None:
    done: list[str] = []
    while waiting := [room for room in ROOMS if room not in done]:
        free = [room for room in waiting if ROOMS[room].rooms <= {*done, room}]
        assert free, f"a circle among {waiting}"
        done += free


def test_every_folder_at_the_top_with_code_is_in_the_wheel() -> None:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    folders = {path.parent.name for path in REPOSITORY.glob("[a-z]*/*.py")} - {
        "tests",
        "benchmarks",
        "docs",
        "examples",
    }
    wheel = settings["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert folders == set(TOPS) == set(wheel["only-include"])
    assert wheel["sources"] == {top: f"zowarmup/{top}" for top in TOPS}


def test_every_module_has_a_test() -> None:
    """A file under tests/unit mirrors it, or a test names it as it is imported."""
    files, tests = sources(REPOSITORY), [*(REPOSITORY / "tests").rglob("*.py")]
    modules = set(files.values())
    text = "\n".join(test.read_text(encoding="utf-8") for test in tests)
    named = {found.name for test in tests for found in imports(test, modules)} | set(
        re.findall(r"zowarmup[.\w]+", text)
    )
    mirrors = {str(test.relative_to(REPOSITORY / "tests/unit")) for test in (REPOSITORY / "tests/unit").rglob("*.py")}
    missing = {
        file
        for file, module in files.items()
        if module not in named and not file.endswith("__init__.py")
        if "/".join([*file.split("/")[:-1], f"test_{file.split('/')[-1]}"]) not in mirrors
    }
    assert missing == set()


def test_no_class_name_is_used_twice() -> None:
    places: dict[str, list[str]] = {}
    for file in sources(REPOSITORY):
        for node in ast.walk(ast.parse((REPOSITORY / file).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(f"{file}:{node.lineno}")
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_the_type_checker_sees_every_room() -> None:
    """mypy reads the package tree of the editable install; its links must lead to the rooms of this checkout."""
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    tree, *_ = settings["tool"]["mypy"]["files"]
    links = {**{top: top for top in TOPS}, "__init__.py": PUBLIC}
    assert {name: (REPOSITORY / tree / name).resolve() for name in links} == {
        name: (REPOSITORY / target).resolve() for name, target in links.items()
    }


# Does each rule catch what it is there to catch?


def tree(root: Path, **files: str) -> Path:
    """A tree of files under `root`: keys are paths with __ for / (and no .py), values their source."""
    for name, text in files.items():
        path = root / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


EVERY_RULE = [*ROOMS, *PACKAGES, *sorted(WITHOUT_TORCH - PACKAGES.keys())]


def one_file(root: Path, key: str, text: str) -> tuple[Path, str]:
    """A tree whose only file is one that the rule `key` is about, and that file's path in it."""
    file = key if key.endswith(".py") else f"{key}/a_file.py"
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return root, file


@pytest.mark.parametrize("key", EVERY_RULE)
def test_a_rule_permits_what_it_permits(key: str, tmp_path: Path) -> None:
    allowed = rule_of(key if key.endswith(".py") else f"{key}/a_file.py")
    lines = ["import json"]
    lines += [f"from {name_of(room)} import thing" for room in sorted(allowed.rooms)]
    lines += [f"import {package}.part" for package in sorted(allowed.anywhere)]
    lines += ["def use():", "    pass"] + [f"    from {package} import thing" for package in sorted(allowed.lazily)]
    root, _ = one_file(tmp_path, key, "\n".join(lines))
    assert breaches(root) == []


@pytest.mark.parametrize("key", EVERY_RULE)
def test_a_rule_catches_a_breach(key: str, tmp_path: Path) -> None:
    allowed = rule_of(key if key.endswith(".py") else f"{key}/a_file.py")
    own = room_of(key if key.endswith(".py") else f"{key}/a_file.py")
    forbidden = [name_of(room) for room in ROOMS if room not in allowed.rooms | {own}] + ["tensorflow"]
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
    root = tree(tmp_path, server__rpc=place.format("import zowarmup.client.work.loop"))
    assert [breach.split(": ")[1] for breach in breaches(root)] == ["may not import zowarmup.client.work"]


def test_generated_code_is_only_for_its_files(tmp_path: Path) -> None:
    wire = "from zowarmup.v1 import coordinator_pb2"
    for key in WIRE_FILES:
        one_file(tmp_path, key, wire)
    assert breaches(tmp_path) == []
    (breach,) = breaches(tree(tmp_path, server__coordinator=wire))
    assert breach.startswith("server/coordinator.py:1: generated code")


def test_relative_imports_are_refused(tmp_path: Path) -> None:
    (breach,) = breaches(tree(tmp_path, server__core__state="from . import decide"))
    assert breach.startswith("server/core/state.py:1: relative import")


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
        client__main="from zowarmup.client.work.loop import run",
        client__work__loop="from zowarmup.client.work import training",
        client__work__training="import torch",
    )
    assert breaches(root) == ["zowarmup.client.main: may not load torch when it starts"]
    tree(root, client__work__loop="def run():\n    from zowarmup.client.work import training")
    assert breaches(root) == []
