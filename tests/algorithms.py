"""Settings of algorithms by name, as a run file gives them."""

from dataclasses import asdict, fields
from typing import Any

from zowarmup.common.algorithms import settings_class
from zowarmup.common.algorithms.settings import WarmUp


def warmup_settings(method: str = "fedavg", **settings: Any) -> Any:
    """The settings of a warm-up."""
    return settings_class("warmup", method)(method=method, **settings)


def zeroth_order_settings(method: str = "zowarmup", **settings: Any) -> Any:
    """The settings of zeroth-order rounds."""
    return settings_class("zeroth_order", method)(method=method, **settings)


def changed(settings: Any, method: str = "", **others: Any) -> Any:
    """The same settings with other values; of another method, those that it has."""
    method = method or settings.method
    cls = settings_class("warmup" if isinstance(settings, WarmUp) else "zeroth_order", method)
    known = {field.name for field in fields(cls)}
    kept = {name: value for name, value in asdict(settings).items() if name in known}
    return cls(**{**kept, "method": method, **others})


def warm_up_method(settings: Any, layout: Any) -> Any:
    """The algorithm with these settings."""
    return settings.algorithm(layout)


def zeroth_order_method(settings: Any, layout: Any, pool_seed: int = 0, warmup: Any = None) -> Any:
    """The algorithm with these settings."""
    return settings.algorithm(layout, pool_seed, warmup)
