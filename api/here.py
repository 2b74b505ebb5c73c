"""Objects of this process by name: a model, a task or an algorithm that is no attribute of a module.

A run names its code as package.module:Name. What a notebook, a script or a function defines has no such name that means the
same elsewhere, so it gets one here, as an attribute of this very module, which is good in this process alone. What another
module has keeps its own name, with which other processes can import it.
"""

import importlib
import sys
from typing import Any, NoReturn

MAIN = "__main__"


def name_of(thing: Any, called: str = "") -> str:
    """The name, package.module:Name, by which a class, a function or another object is imported in this process.

    Args:
        thing: The object.
        called: What to call it, where it has no name of its own.
    """
    module, name = getattr(thing, "__module__", MAIN), getattr(thing, "__qualname__", called)
    if isinstance(thing, type) or callable(thing):
        held = sys.modules.get(module)
        if module != MAIN and name.isidentifier() and getattr(held, name, None) is thing:
            return f"{module}:{name}"
    wanted = name.rpartition(".")[2]
    wanted = next(one for one in (wanted, called, "thing") if one.isidentifier())
    here = vars(sys.modules[__name__])
    number, chosen = 1, wanted
    while chosen in _RESERVED or (chosen in here and here[chosen] is not thing):
        number += 1
        chosen = f"{wanted}_{number}"
    here[chosen] = thing
    return f"{__name__}:{chosen}"


def is_here(name: str) -> bool:
    """Whether a name is good in this process alone."""
    return name.startswith(f"{__name__}:")


def forget(name: str) -> None:
    """Let go of an object whose name is not needed any more."""
    if is_here(name):
        vars(sys.modules[__name__]).pop(name.partition(":")[2], None)


def object_of(name: str) -> Any:
    """What a name stands for. Raises AttributeError or ImportError."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def __getattr__(name: str) -> NoReturn:
    raise AttributeError(
        f"{name} was an object of another process: put it into a module that can be imported, and name it "
        "package.module:Name"
    )


_RESERVED = frozenset(globals()) | {"_RESERVED"}
