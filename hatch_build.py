"""Compile proto/ and, for editable installs, link the source folders into one package tree.

The folders at the top of the repository are the rooms of one package: `server/decide.py` is imported as
`zowarmup.server.decide`. Generated code lives in `zowarmup.v1`, after the protobuf package, and is never committed.
"""

import shutil
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOMS = ("common", "data", "server", "client", "cli")


class ProtobufHook(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":  # the sdist ships only .proto files
            return
        from grpc_tools import protoc

        protos = Path(self.root, "proto")
        tree = Path(self.root, ".build", "python")
        generated = tree / "zowarmup" / "v1"
        shutil.rmtree(generated, ignore_errors=True)
        generated.mkdir(parents=True)
        names = sorted(str(p.relative_to(protos)) for p in protos.rglob("*.proto"))
        outs = [f"--{kind}_out={tree}" for kind in ("python", "pyi", "grpc_python")]
        if protoc.main(["protoc", f"-I{protos}", *outs, *names]):
            raise RuntimeError(f"protoc could not compile {protos}")
        (generated / "__init__.py").touch()
        (generated / "py.typed").touch()
        if version == "editable":
            for room in ROOMS:
                link = generated.parent / room
                link.unlink(missing_ok=True)
                link.symlink_to(Path("../../..", room), target_is_directory=True)
        else:
            build_data["force_include"][str(generated)] = "zowarmup/v1"
