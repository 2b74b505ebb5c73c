"""How each phase moves the model: what a client computes for a round, what is checked of it, how it becomes a step.

An algorithm is a small frozen object that reads like its paper, and so are its settings. The run file names one for each
phase, and this is the only place that knows the names: `settings_class` finds the settings of a name, whose `algorithm`
makes the algorithm. Everybody else talks to `protocol` and to what `phases` says that all settings answer.
"""

from collections.abc import Mapping
from typing import Protocol

from zowarmup.common.layout import Layout
from zowarmup.common.methods.decomfl import DeComFLSettings
from zowarmup.common.methods.fedavg import FedAvgSettings
from zowarmup.common.methods.fedkseed import FedKSeedSettings
from zowarmup.common.methods.fedopt import FedOptSettings
from zowarmup.common.methods.heterofl import HeteroFLSettings
from zowarmup.common.methods.mixed import MixedSettings
from zowarmup.common.methods.protocol import Algorithm
from zowarmup.common.methods.zeroth_order import ZOWarmUpSettings
from zowarmup.common.phases import WarmUp, ZerothOrder
from zowarmup.common.work import Phase

WARM_UPS: Mapping[str, type[WarmUp]] = {
    "fedavg": FedAvgSettings,
    "fedadam": FedOptSettings,
    "fedyogi": FedOptSettings,
    "heterofl": HeteroFLSettings,
}
ZEROTH_ORDERS: Mapping[str, type[ZerothOrder]] = {
    "zowarmup": ZOWarmUpSettings,
    "decomfl": DeComFLSettings,
    "fedkseed": FedKSeedSettings,
    "mixed": MixedSettings,
}
SECTIONS: Mapping[str, Mapping[str, type[WarmUp] | type[ZerothOrder]]] = {
    "warmup": WARM_UPS,
    "zeroth_order": ZEROTH_ORDERS,
}
"""The algorithms of each section of the run file, by name; the first is the default."""


def settings_class(section: str, name: str | None) -> type[WarmUp] | type[ZerothOrder]:
    """The settings of an algorithm.

    Args:
        section: "warmup" or "zeroth_order".
        name: As `method` in the run file says it; None: the section's default.

    Raises:
        ValueError: There is no algorithm of that name.
    """
    known = SECTIONS[section]
    if name is None:
        name = next(iter(known))
    if not isinstance(name, str) or name not in known:
        *others, last = (f"'{one}'" for one in known)
        raise ValueError(f"method = {ascii(name)[:60]}: must be {', '.join(others)} or {last}")
    return known[name]


class Phases(Protocol):
    """A run, as far as its algorithms are made of it."""

    @property
    def warmup(self) -> WarmUp: ...

    @property
    def zeroth_order(self) -> ZerothOrder: ...


def algorithm_of(run: Phases, phase: Phase, layout: Layout, pool_seed: int = 0, rate_factor: float = 1.0) -> Algorithm:
    """The algorithm whose rounds a phase has, at `rate_factor` times its learning rate. `pool_seed`: the stream of the
    directions that the whole run shares."""
    warmup = run.warmup.slowed(rate_factor)
    spec = warmup if phase is Phase.WARM_UP else run.zeroth_order.slowed(rate_factor)
    return spec.algorithm(layout, pool_seed, warmup)
