"""The algorithms of each phase: what a client computes for a round, how it is checked, how it becomes a step.

An algorithm is a small frozen object that reads like its paper, and so are its settings. The run file names one for
each phase, and this is the only place that knows the names: `settings_class` finds the settings of a name, whose
`algorithm` makes the algorithm. Everybody else talks to `protocol` and to what `settings` says that all settings
answer.
"""

import importlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Protocol

from zowarmup.common.algorithms.protocol import Algorithm
from zowarmup.common.algorithms.settings import WarmUp, ZerothOrder
from zowarmup.common.exact.layout import Layout
from zowarmup.common.messages.values import Phase
from zowarmup.common.plugin import ANY, imported, is_plugin, require_whole


class _Settings(Mapping[str, type[WarmUp] | type[ZerothOrder]]):
    """By an algorithm's name; its code is loaded where it is looked up: a device needs that of its run's two alone."""

    def __init__(self, base: type[WarmUp] | type[ZerothOrder], places: dict[str, tuple[str, str]]) -> None:
        self.base, self._places = base, places

    def __getitem__(self, name: str) -> type[WarmUp] | type[ZerothOrder]:
        module, attribute = self._places[name]
        found: type[WarmUp | ZerothOrder] = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


SECTIONS: Mapping[str, _Settings] = {
    "warmup": _Settings(
        WarmUp,
        {
            "fedavg": ("fedavg", "FedAvgSettings"),
            "fedadam": ("fedopt", "FedOptSettings"),
            "fedyogi": ("fedopt", "FedOptSettings"),
            "heterofl": ("heterofl", "HeteroFLSettings"),
        },
    ),
    "zeroth_order": _Settings(
        ZerothOrder,
        {
            "zowarmup": ("zowarmup", "ZOWarmUpSettings"),
            "decomfl": ("decomfl", "DeComFLSettings"),
            "fedkseed": ("fedkseed", "FedKSeedSettings"),
            "mixed": ("mixed", "MixedSettings"),
            "fedspzo": ("fedspzo", "FedSPZOSettings"),
        },
    ),
}
"""The settings of the built-in algorithms of each section of the run file, by name; the first is the default."""


def settings_class(
    section: str, name: str | None, allowed: Collection[str] | None = ANY
) -> type[WarmUp] | type[ZerothOrder]:
    """The settings of an algorithm.

    Args:
        section: "warmup" or "zeroth_order".
        name: As `algorithm` in the run file says it: a built-in algorithm, or package.module:Algorithm, a class whose
            `Settings` are those of such rounds; None: the section's default.
        allowed: The algorithms of that second kind whose code may be imported here; ANY: all of them.

    Raises:
        NotAllowed: Its code may not be imported here; nothing of it has been.
        ValueError: There is no algorithm of that name.
    """
    known = SECTIONS[section]
    if name is None:
        name = next(iter(known))
    if isinstance(name, str) and name in known:
        return known[name]
    if is_plugin(name):
        return _plugin(section, name, allowed)
    others = ", ".join(f"'{one}'" for one in known)
    raise ValueError(f"algorithm = {ascii(name)[:60]}: must be {others} or package.module:Algorithm")


def _plugin(section: str, name: str, allowed: Collection[str] | None) -> type[WarmUp] | type[ZerothOrder]:
    algorithm: Any = imported("algorithm", name, allowed)
    settings, base = getattr(algorithm, "Settings", None), SECTIONS[section].base
    if settings is None:
        raise ValueError(f"algorithm = {name!r}: has no `Settings`, the class of its settings")
    if not (isinstance(settings, type) and issubclass(settings, base)):
        raise ValueError(  # noqa: TRY004  (said in a run file)
            f"algorithm = {name!r}: its Settings must be a {base.__name__}, for rounds of [{section}]"
        )
    require_whole("algorithm", name, settings, base, ("computation", "slowed", "build"))
    require_whole("algorithm", name, algorithm, Algorithm, ("check", "aggregate", "forwards"))
    return settings


class Phases(Protocol):
    """A run, as far as its algorithms are made of it."""

    @property
    def warmup(self) -> WarmUp:
        """The settings of the warm-up."""
        ...

    @property
    def zeroth_order(self) -> ZerothOrder:
        """The settings of the rounds after the pivot."""
        ...


def algorithm_of(run: Phases, phase: Phase, layout: Layout, pool_seed: int = 0, rate_factor: float = 1.0) -> Algorithm:
    """The algorithm whose rounds a phase has.

    Args:
        run: The settings of both phases.
        phase: Anything but the warm-up stands for the zeroth-order rounds.
        layout: Of the model.
        pool_seed: The stream of the directions that the whole run shares.
        rate_factor: What the learning rates of both phases are multiplied by, above 0.
    """
    warmup = run.warmup.slowed(rate_factor)
    spec = warmup if phase is Phase.WARM_UP else run.zeroth_order.slowed(rate_factor)
    return spec.build(layout, pool_seed, warmup)
