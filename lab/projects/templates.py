"""`zowarmup new`: the files of a template, copied into a folder of a user's own.

A template is a folder beside this file: a run file, a model, a script that makes data, and a README. They are files like any
other of the package, so they are checked with it; of what is copied only the run's name is changed, to the folder's.
"""

import json
import os
from enum import StrEnum
from pathlib import Path

from zowarmup.common.system.command import CommandError, Usage
from zowarmup.common.text import blanked

RUN_FILE = "run.toml"
LONGEST_NAME = 64
_OURS = ("__init__.py", "__pycache__")


class TemplateKind(StrEnum):
    """What a project is about."""

    IMAGES = "images"
    ROWS = "rows"
    TEXT = "text"


def new_project(folder: Path, kind: TemplateKind) -> list[Path]:
    """Write a template into a folder, which is made if need be.

    Args:
        folder: Where: it does not exist, or is empty.
        kind: Which template.

    Returns:
        The files.

    Raises:
        Usage: There is something in the folder.
        CommandError: It cannot be written.
    """
    template = Path(__file__).parent / kind
    try:
        if folder.is_dir() and any(folder.iterdir()):
            raise Usage(f"{folder} is not empty: name a folder that does not exist yet")
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for file in sorted(template.iterdir()):
            if file.name not in _OURS:
                text = file.read_text(encoding="utf-8")
                if file.name == RUN_FILE:
                    text = text.replace(f'name = "{kind}"', f"name = {_name(folder)}", 1)
                (folder / file.name).write_text(text, encoding="utf-8")
                written.append(folder / file.name)
    except OSError as error:
        raise CommandError(
            f"{error.filename or folder} cannot be written: {error.strerror or error}; name a folder that can"
        ) from error
    return written


def _name(folder: Path) -> str:
    """The folder's name as TOML; "project" where that cannot be a run's."""
    name = os.path.basename(folder.absolute()).strip()
    return json.dumps(blanked(name)[:LONGEST_NAME] or "project", ensure_ascii=False)
