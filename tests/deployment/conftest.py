"""What deploy/ holds, and the tools that judge it."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.conftest import fleet

__all__ = ["DEPLOY", "REPOSITORY", "built", "documents", "fleet", "tool"]

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
TOOLS = ("systemd", "ansible/bin")
"""In .build, fetched by make."""


def built(name: str) -> str:
    """A program in .build, in an environment of its own."""
    path = REPOSITORY / ".build" / name
    if not path.exists():
        ready = f".build/{name.partition('/')[0]}/ready"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{path} is not here: make {ready}")
    return str(path)


def documents(path: Path) -> list[Any]:
    """The documents of a YAML file."""
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document is not None]


@pytest.fixture
def tool() -> Callable[[str], str]:
    """Finds a program: of the environment that runs the tests, or of the system."""

    def find(name: str) -> str:
        folders = (
            str(Path(sys.executable).parent),
            *(str(REPOSITORY / ".build" / name) for name in TOOLS),
            os.environ["PATH"],
        )
        found = shutil.which(name, path=":".join(folders))
        if found is None:
            (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{name} is not installed here")
        return found

    return find
