"""Tasks: what is trained for. Losses, metrics, the head's gradient, local training.

The run file names one, `task` under [model], and this is the only place that knows the names: `task_class` finds the class
of a name. Everybody else talks to `protocol`.
"""

import importlib
from collections.abc import Collection
from typing import Any

from zowarmup.common.plugin import ANY, imported, is_plugin, require_whole
from zowarmup.common.tasks.protocol import Metric, Task

TASKS = {
    "classification": ("classification", "Classification"),
    "completion": ("completion", "Completion"),
    "multiple_choice": ("multiple_choice", "MultipleChoice"),
}
"""The built-in tasks by name, each with its module here and its class; the first is the default."""
DEFAULT = next(iter(TASKS))
_REQUIRED = ("outputs", "check", "losses", "measure", "baseline", "torch_loss")


def task_class(name: str, allowed: Collection[str] | None = ANY) -> type[Task]:
    """The class of a task.

    Args:
        name: As `task` in the run file says it: a built-in task, or package.module:Task.
        allowed: The tasks of that second kind whose code may be imported here; ANY: all of them.

    Raises:
        NotAllowed: Its code may not be imported here; nothing of it has been.
        ValueError: There is no task of that name.
    """
    if name in TASKS:
        module, attribute = TASKS[name]
        found: Any = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    elif is_plugin(name):
        found = imported("task", name, allowed)
    else:
        known = ", ".join(f"'{one}'" for one in TASKS)
        raise ValueError(f"task = {ascii(name)[:60]}: must be {known} or package.module:Task")
    exact = ("loss_and_output_gradient",) if getattr(found, "exact_head", False) else ()
    require_whole("task", name, found, Task, _REQUIRED + exact)
    metrics = getattr(found, "metrics", ())
    if not (metrics and all(isinstance(metric, Metric) for metric in metrics)):
        raise ValueError(f"task = {name!r}: it must have at least one Metric in `metrics`")
    return found  # type: ignore[no-any-return]
