"""`--verbose`, an option of every command. `zowarmup.common.system.ending` looks for it where a command fails."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from zowarmup.common.system.logs import VERBOSE

_Option = Annotated[bool, typer.Option(VERBOSE, help="Where it fails, show the traceback.")]


def register(app: typer.Typer) -> None:
    """Add it to all commands registered so far that have none of their own."""
    for info in app.registered_commands:
        if info.callback is not None and "verbose" not in inspect.signature(info.callback).parameters:
            info.callback = _with_option(info.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            register(group.typer_instance)


def _with_option(command: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(command)
    def without(verbose: bool = False, **arguments: Any) -> Any:
        return command(**arguments)

    signature = inspect.signature(command, eval_str=True)
    own = inspect.Parameter("verbose", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_Option)
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in signature.parameters.values()]
    without.__signature__ = signature.replace(parameters=[*parameters, own])  # type: ignore[attr-defined]
    without.__annotations__ = {parameter.name: parameter.annotation for parameter in (*parameters, own)}
    return without
