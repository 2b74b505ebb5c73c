"""Code from outside this package that a run names as package.module:Name: an algorithm, or a task.

Importing it runs it, so whoever reads a run that others made says what may be imported.
"""

import importlib
import sys
from collections.abc import Collection, Iterable
from typing import Any

from zowarmup.common.text import LONGEST_FILE, in_words

ANY = None
"""All code may be imported, as where an operator names it."""


class NotAllowed(ValueError):
    """Code is not to be imported here: `refused` are the kind ("algorithm" or "task") and the name of each."""

    def __init__(self, refused: Iterable[tuple[str, str]]) -> None:
        shown = [(kind, ascii(name)[1:-1][:200]) for kind, name in refused]
        self.named = " and ".join(f"{kind} {name}" for kind, name in shown)
        self.names = tuple(name for _, name in shown)
        super().__init__(f"the code of {self.named} is not allowed here")


def is_plugin(name: object) -> bool:
    """Whether a name has the form package.module:Name."""
    return isinstance(name, str) and name.count(":") == 1


def require_allowed(named: Iterable[tuple[str, object]], allowed: Collection[str] | None) -> None:
    """Raises NotAllowed with all plugins of these kinds and names that are none of `allowed` (ANY: all are)."""
    refused = {
        (kind, str(name)): None
        for kind, name in named
        if allowed is not None and is_plugin(name) and name not in allowed
    }
    if refused:
        raise NotAllowed(refused)


def imported(kind: str, name: str, allowed: Collection[str] | None = ANY) -> Any:
    """The class that a name of that form stands for.

    Args:
        kind: "algorithm" or "task", as the run file's field is called.
        name: package.module:Name.
        allowed: The names whose code may be imported here; ANY: all of them.

    Raises:
        NotAllowed: The code may not be imported here; nothing of it has been.
        ValueError: There is no such module, or nothing of that name in it.
    """
    require_allowed([(kind, name)], allowed)
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever its own code raises
        absent = isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
        hint = " (is its folder on PYTHONPATH?)" if absent else ""
        raise ValueError(f"{kind} = {name!r}: cannot be imported: {in_words(error)}{hint}") from error


def require_whole(kind: str, name: str, found: object, base: type, required: Collection[str]) -> None:
    """Refuse a class that is not all that it must be.

    Args:
        kind: What the plugin is, "algorithm" or "task".
        name: package.module:Name.
        found: A class of it, or what it has in the place of one.
        base: Whose attributes it must have.
        required: Those of them that it must have of its own.

    Raises:
        ValueError: The sentence names what is missing.
    """
    wanted = [attribute for attribute in dir(base) if not attribute.startswith("_")]
    missing = [
        f"`{one}`"
        for one in wanted
        if not hasattr(found, one) or (one in required and getattr(found, one) is getattr(base, one))
    ]
    if missing:
        own = getattr(found, "__name__", found)
        raise ValueError(
            f"{kind} = {name!r}: {own} has no {', '.join(missing)} (zowarmup.{base.__name__} says what each is)"
        )


def belongs_to(name: str, place: str) -> bool:
    """Whether a place in foreign code (`text.where`) is in the module of package.module:Name."""
    file = getattr(sys.modules.get(name.partition(":")[0]), "__file__", None) if is_plugin(name) else None
    return file is not None and place.startswith(f"{file[-LONGEST_FILE:]}, ")
