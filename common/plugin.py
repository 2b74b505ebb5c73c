"""Code from outside this package that a run names as package.module:Name: an algorithm, or a task.

Importing it runs it, so whoever reads a run that others made says what may be imported.
"""

import importlib
from collections.abc import Collection
from typing import Any

from zowarmup.common.text import in_words

ANY = None
"""All code may be imported, as where an operator names it."""


class NotAllowed(ValueError):
    """The code of `kind` ("algorithm" or "task") `name` is not to be imported here."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"the code of {kind} {name} is not allowed here")
        self.kind, self.name = kind, name


def is_plugin(name: object) -> bool:
    """Whether a name has the form package.module:Name."""
    return isinstance(name, str) and name.count(":") == 1


def imported(kind: str, field: str, name: str, member: str = "", allowed: Collection[str] | None = ANY) -> Any:
    """The class that a name of that form stands for, or a member of it.

    Args:
        kind: "algorithm" or "task".
        field: The run file's field that has the name, for a sentence.
        name: package.module:Name.
        member: Which of the class's attributes is wanted; empty: the class.
        allowed: The names whose code may be imported here; ANY: all of them.

    Raises:
        NotAllowed: The code may not be imported here; nothing of it has been.
        ValueError: There is no such module, or nothing of that name in it.
    """
    if allowed is not None and name not in allowed:
        raise NotAllowed(kind, ascii(name)[1:-1][:200])
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
        return getattr(found, member) if member else found
    except Exception as error:  # whatever its own code raises
        raise ValueError(f"{field} = {name!r}: cannot be imported: {in_words(error)}") from error
