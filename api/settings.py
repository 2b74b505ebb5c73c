"""The settings of a run, from whatever a caller has: a run file, a typed object, tables as in a run file, keywords.

What is not said of who takes part is, where a phase is given as a table, that everyone does and that a round waits for all:
then who answers first makes no difference, and the same run gives the same weights again, here or in processes.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zowarmup.api.errors import SettingsError, sentences
from zowarmup.api.here import is_here, name_of
from zowarmup.common.algorithms import settings_class
from zowarmup.common.algorithms.protocol import Algorithm
from zowarmup.common.algorithms.settings import Rounds, WarmUp, ZerothOrder
from zowarmup.common.messages.values import Tier
from zowarmup.common.plugin import is_plugin
from zowarmup.common.settings.run import PRETRAINED, RunFile
from zowarmup.common.tasks.protocol import Task

if TYPE_CHECKING:
    from torch import nn


GIVEN = "held_out"
"""What `evaluation.data` is where the held-out set is an object."""
LONGEST_S = 86400.0
KEPT = 100
"""So many snapshots are kept, where nothing else is said: every version of a warm-up is one."""


@dataclass(frozen=True)
class Wanted:
    """What a caller says of a run, in the order in which `simulate` and `Coordinator` take it.

    Args:
        run: The whole of it: an object, a run file, or its tables; the others come in the place of what it says.
        model: A name, or a module or its factory.
        task: A name, or a class.
        held_out: The held-out set: its spec, or an object.
        warmup: The settings of the warm-up, an object or a table, whose "algorithm" may be a class.
        zeroth_order: The same of the rounds after the pivot.
        evaluate_every: Versions between evaluations.
        seed: Of all that is drawn.
        name: What people call the run.
    """

    run: "RunFile | Mapping[str, Any] | str | Path | None" = None
    model: "str | nn.Module | Callable[..., nn.Module] | None" = None
    task: "str | type[Task] | None" = None
    held_out: object = None
    warmup: WarmUp | Mapping[str, Any] | None = None
    zeroth_order: ZerothOrder | Mapping[str, Any] | None = None
    evaluate_every: int | None = None
    seed: int | None = None
    name: str | None = None


def run_of(wanted: Wanted, clients: Mapping[Tier, int] | None = None) -> RunFile:
    """The settings of a run.

    Args:
        wanted: What is said.
        clients: How many clients of each tier there will be; None: nobody knows, and who takes part is as it is said.

    Raises:
        SettingsError: It cannot be; a line for each reason.
    """
    raw, whole = _tables(wanted.run)
    raw.setdefault("name", "run")
    raw.setdefault("draws", "seed")
    for field in ("name", "seed"):
        if (value := getattr(wanted, field)) is not None:
            raw[field] = value
    model = raw.setdefault("model", {})
    if wanted.model is not None:
        model["name"] = model_name(wanted.model)
    if wanted.task is not None:
        model["task"] = wanted.task
    if isinstance(model, dict) and isinstance(model.get("task"), type):
        model["task"] = name_of(model["task"])
    free: list[str] = []
    for section in ("warmup", "zeroth_order"):
        given = getattr(wanted, section)
        if is_dataclass(given) and not isinstance(given, type):
            raw[section] = asdict(given)
        elif given is not None:
            raw[section] = {**given}
        if isinstance(given, Mapping) or (given is None and not whole):
            free.append(section)
        if isinstance(table := raw.setdefault(section, {"rounds": 0}), dict) and isinstance(
            table.get("algorithm"), type
        ):
            table["algorithm"] = name_of(table["algorithm"])
    evaluation = raw.setdefault("evaluation", {})
    if wanted.held_out is not None:
        evaluation["data"] = wanted.held_out if isinstance(wanted.held_out, str) else GIVEN
    if wanted.evaluate_every is not None:
        evaluation["every"] = wanted.evaluate_every
    from zowarmup.server.setup.run_file import run_file_of

    with sentences():
        run = run_file_of(raw, str(wanted.run) if isinstance(wanted.run, str | Path) else "settings")
    if not run.warmup.rounds and not run.zeroth_order.rounds:
        raise SettingsError('there are no rounds: give warmup={"rounds": 10} or zeroth_order={"rounds": 100}, or both')
    if clients is None:
        return run
    for section in free:
        phase = replace(getattr(run, section), **_everyone(getattr(run, section), clients, raw[section]))
        run = replace(run, **{section: phase})
    if free:
        said = raw.get("server", {})
        defaults: dict[str, Any] = {"abandoned_limit": 1, "keep_snapshots": KEPT}
        server = replace(run.server, **{name: value for name, value in defaults.items() if name not in said})
        run = replace(run, server=server)
    for section in ("warmup", "zeroth_order"):
        _require_enough(section, getattr(run, section), clients)
    return run


def _tables(run: "RunFile | Mapping[str, Any] | str | Path | None") -> tuple[dict[str, Any], bool]:
    """The tables of a run file, and whether they say all: an object does, and a file."""
    if run is None:
        return {}, False
    if isinstance(run, RunFile):
        return asdict(run), True
    if isinstance(run, str | Path):
        from zowarmup.common.system.files import read_toml
        from zowarmup.server.setup.continuation import carried_on

        with sentences():
            return carried_on(read_toml(Path(run))), True
    if isinstance(run, Mapping):
        return copy.deepcopy({**run}), False
    raise SettingsError(
        f"run is a {type(run).__name__}: must be a path, tables as in a run file, or a zowarmup.RunFile"
    )


def _everyone(phase: Rounds, clients: Mapping[Tier, int], said: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a phase wait for all, where nothing else is said."""
    there = max(1, sum(clients.get(tier, 0) for tier in phase.tiers))
    most = {"clients_per_round": there, "minimum_clients": there, "quorum": 1.0, "learn_deadline": False}
    return {name: value for name, value in (most | {"deadline_s": LONGEST_S}).items() if name not in said}


def _require_enough(section: str, phase: Rounds, clients: Mapping[Tier, int]) -> None:
    if not phase.rounds:
        return
    there, needed = sum(clients.get(tier, 0) for tier in phase.tiers), phase.minimum_clients or phase.clients_per_round
    if there < needed:
        which = "high-tier clients" if Tier.LOW not in phase.tiers else "clients"
        setting = "minimum_clients" if phase.minimum_clients else "clients_per_round"
        raise SettingsError(
            f"{section}.{setting} = {needed}: its rounds would never open, as there are {there} {which}: lower it, or give more"
        )


def warm_up(algorithm: str | type[Algorithm] = "fedavg", **settings: Any) -> WarmUp:
    """The settings of a warm-up, as an object.

    Args:
        algorithm: Its name, package.module:Algorithm, or its class.
        settings: What is set of it, as in a run file's [warmup]; the rest has defaults.

    Returns:
        Frozen settings, which `dataclasses.replace` changes.

    Raises:
        SettingsError: There is no such algorithm or setting, or it is out of its range.

    Example:
        >>> import zowarmup as zw
        >>> zw.warm_up(rounds=10, clients_per_round=1).rate
        0.1
    """
    made = _phase("warmup", algorithm, settings)
    assert isinstance(made, WarmUp)
    return made


def zeroth_order(algorithm: str | type[Algorithm] = "zowarmup", **settings: Any) -> ZerothOrder:
    """The settings of the rounds after the pivot, as an object.

    Args:
        algorithm: Its name, package.module:Algorithm, or its class.
        settings: What is set of it, as in a run file's [zeroth_order]; the rest has defaults.

    Returns:
        Frozen settings, which `dataclasses.replace` changes.

    Raises:
        SettingsError: There is no such algorithm or setting, or it is out of its range.

    Example:
        >>> import zowarmup as zw
        >>> zw.zeroth_order("decomfl", rounds=100, clients_per_round=10).shared_directions
        True
    """
    made = _phase("zeroth_order", algorithm, settings)
    assert isinstance(made, ZerothOrder)
    return made


def _phase(section: str, algorithm: str | type[Algorithm], settings: Mapping[str, Any]) -> Rounds:
    name = name_of(algorithm) if isinstance(algorithm, type) else algorithm
    try:
        kind = settings_class(section, name)
        known = {field.name for field in fields(kind)}
        if unknown := settings.keys() - known:
            raise ValueError(f"{min(unknown)} is not a setting; allowed are {', '.join(sorted(known - {'algorithm'}))}")
        return kind(**{"algorithm": name, **settings})
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{section}: {error}") from error


def model_name(model: "str | nn.Module | Callable[..., nn.Module]") -> str:
    """The name of a model: its own, or the one that an object of it gets here (`forget` it after the run).

    Raises:
        SettingsError: It is neither a name nor a module nor callable.
    """
    if isinstance(model, str):
        return model
    if hasattr(model, "state_dict") and hasattr(model, "forward") and not isinstance(model, type):
        made: Any = model
        return name_of(_Copies(made), type(made).__name__)
    if callable(model):
        return name_of(model, getattr(model, "__name__", "model"))
    raise SettingsError(
        f"model is a {type(model).__name__}: must be a name, a torch module, or a function of the input shape and the number of "
        "outputs that returns one"
    )


class _Copies:
    """A factory of copies of a module: the run begins with its weights."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __call__(self, input_shape: tuple[int, ...], outputs: int) -> Any:
        return copy.deepcopy(self._module)


def code_of(run: RunFile) -> tuple[str, ...]:
    """The names of the code outside this package that a run has imported."""
    named = (run.model.name, run.model.task, run.warmup.algorithm, run.zeroth_order.algorithm)
    return tuple(name for name in named if is_plugin(name) and not name.startswith(PRETRAINED))


def require_importable(run: RunFile) -> None:
    """Refuse a run that other processes take part in, with code that only this one has. Raises SettingsError."""
    if alone := [name for name in code_of(run) if is_here(name)]:
        raise SettingsError(
            f"{alone[0].partition(':')[2]} is defined where no other process can import it: put it into a module, and import it "
            "from there"
        )
