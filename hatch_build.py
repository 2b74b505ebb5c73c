"""Compile proto/ and, for editable installs, link the source folders into one package tree.

The folders at the top of the repository are the rooms of one package: `server/core/decide.py` is imported as
`zowarmup.server.core.decide`, and `public.py` is `zowarmup` itself. Generated code lives in `zowarmup.v1`, after the
protobuf package, and is never committed.
pip calls the hook; `python hatch_build.py` (`make proto`) renews the tree that an editable install points to.
"""

import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ProtobufHook(BuildHookInterface[BuilderConfig]):
    """Runs in every build of a wheel; the sdist ships only the .proto files."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        if self.target_name != "wheel":
            return
        if version == "editable":
            develop(root)
        else:
            # Not the editable tree: a wheel can be built while something runs from that.
            compile_protos(root, root / ".build" / "wheel")
            build_data["force_include"][str(root / ".build" / "wheel" / "zowarmup")] = "zowarmup"
            build_data["force_include"][str(root / "public.py")] = "zowarmup/__init__.py"


def develop(root: Path) -> None:
    """Make or renew .build/python, which an editable install puts on the import path: the generated code, and one
    link for each room and for the public module."""
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    tree = root / ".build" / "python"
    compile_protos(root, tree)
    rooms = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    for name, target in {**{room: room for room in rooms}, "__init__.py": "public.py"}.items():
        link = tree / "zowarmup" / name
        if not link.is_symlink():
            link.symlink_to(Path("../../..", target), target_is_directory=target in rooms)


def compile_protos(root: Path, tree: Path) -> None:
    """Compile every file of proto/ into `tree`/zowarmup/v1. Files that would not change are left alone, and the others
    replaced whole, so nothing that reads them at this moment sees half of one. Raises RuntimeError where protoc fails,
    which has then said why."""
    from grpc_tools import protoc

    protos = root / "proto"
    names = sorted(str(path.relative_to(protos)) for path in protos.rglob("*.proto"))
    generated = tree / "zowarmup" / "v1"
    generated.mkdir(parents=True, exist_ok=True)
    (generated.parent / "py.typed").touch()
    with TemporaryDirectory(dir=tree.parent) as fresh:
        outs = [f"--{kind}_out={fresh}" for kind in ("python", "pyi", "grpc_python")]
        if protoc.main(["protoc", f"-I{protos}", *outs, *names]):
            raise RuntimeError(f"protoc could not compile {protos}")
        made = Path(fresh, "zowarmup", "v1")
        (made / "__init__.py").touch()
        current = {file.name for file in made.iterdir()}
        for file in made.iterdir():
            target = generated / file.name
            if not target.exists() or target.read_bytes() != file.read_bytes():
                file.replace(target)
    for file in generated.glob("*_pb2*.py*"):
        if file.name not in current:  # its .proto is gone
            file.unlink()


if __name__ == "__main__":
    develop(Path(__file__).parent)
