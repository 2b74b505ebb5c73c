"""Settings of algorithms by name, as a run file gives them."""

from dataclasses import asdict, fields
from typing import Any

from zowarmup.common.algorithms import settings_class
from zowarmup.common.algorithms.settings import WarmUp


def warmup_settings(algorithm: str = "fedavg", **settings: Any) -> Any:
    """The settings of a warm-up."""
    return settings_class("warmup", algorithm)(algorithm=algorithm, **settings)


def zeroth_order_settings(algorithm: str = "zowarmup", **settings: Any) -> Any:
    """The settings of zeroth-order rounds."""
    return settings_class("zeroth_order", algorithm)(algorithm=algorithm, **settings)


def changed(settings: Any, algorithm: str = "", **others: Any) -> Any:
    """The same settings with other values; of another algorithm, those that it has."""
    algorithm = algorithm or settings.algorithm
    cls = settings_class("warmup" if isinstance(settings, WarmUp) else "zeroth_order", algorithm)
    known = {field.name for field in fields(cls)}
    kept = {name: value for name, value in asdict(settings).items() if name in known}
    return cls(**{**kept, "algorithm": algorithm, **others})


def warm_up_algorithm(settings: Any, layout: Any) -> Any:
    """The algorithm with these settings."""
    return settings.build(layout)


def zeroth_order_algorithm(settings: Any, layout: Any, pool_seed: int = 0, warmup: Any = None) -> Any:
    """The algorithm with these settings."""
    return settings.build(layout, pool_seed, warmup)
