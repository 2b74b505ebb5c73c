"""zowarmup: federated training of a fleet of unequal devices.

The public interface of the package, `zowarmup` itself: its version, and what an algorithm or a task of
one's own is written with (`algorithm = "package.module:Algorithm"` or `task = "package.module:Task"` in a run file;
CONTRIBUTING.md, "Adding an algorithm" and "Adding a task"). Every module below, such as `zowarmup.common`, is internal:
another version may change it.

The module of a name is imported when the name is first used, so a process that needs none loads none.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zowarmup.common.algorithms.directional_derivatives import Measured, Probe, as_float32, measure
    from zowarmup.common.algorithms.protocol import (
        Aggregate,
        Algorithm,
        ClientScalars,
        Forward,
        LocalTraining,
        LossAndGradient,
        Start,
        Trained,
        Update,
        Vectors,
    )
    from zowarmup.common.algorithms.settings import Rounds, WarmUp, Weighting, ZerothOrder, require
    from zowarmup.common.algorithms.step_builder import CommitCost, Moments, Move
    from zowarmup.common.algorithms.vectors import LazyVector
    from zowarmup.common.exact.grid import Grid, HeadroomExceeded
    from zowarmup.common.exact.layout import Block, Cut, Head, Layout, Tensor
    from zowarmup.common.exact.steps import DeviceVector, Direction, Step, Weights
    from zowarmup.common.exact.submodel import Submodel
    from zowarmup.common.messages.small_floats import Precision
    from zowarmup.common.messages.values import Computation, Contribution, Delta, Phase, Scalars, Tier, Work
    from zowarmup.common.settings.run import VERSION as __version__
    from zowarmup.common.tasks.protocol import Baseline, Batch, Metric, TargetKind, Task

__all__ = [
    "Aggregate",
    "Algorithm",
    "Baseline",
    "Batch",
    "Block",
    "ClientScalars",
    "CommitCost",
    "Computation",
    "Contribution",
    "Cut",
    "Delta",
    "DeviceVector",
    "Direction",
    "Forward",
    "Grid",
    "Head",
    "HeadroomExceeded",
    "Layout",
    "LazyVector",
    "LocalTraining",
    "LossAndGradient",
    "Measured",
    "Metric",
    "Moments",
    "Move",
    "Phase",
    "Precision",
    "Probe",
    "Rounds",
    "Scalars",
    "Start",
    "Step",
    "Submodel",
    "TargetKind",
    "Task",
    "Tensor",
    "Tier",
    "Trained",
    "Update",
    "Vectors",
    "WarmUp",
    "Weighting",
    "Weights",
    "Work",
    "ZerothOrder",
    "__version__",
    "as_float32",
    "measure",
    "require",
]
_MODULES = (
    "common.algorithms.directional_derivatives",
    "common.algorithms.protocol",
    "common.algorithms.settings",
    "common.algorithms.step_builder",
    "common.algorithms.vectors",
    "common.exact.grid",
    "common.exact.layout",
    "common.exact.steps",
    "common.exact.submodel",
    "common.messages.small_floats",
    "common.messages.values",
    "common.tasks.protocol",
)
"""Where the names are, but for the version."""


if not TYPE_CHECKING:  # else a misspelt name would have a type

    def __getattr__(name):
        if name == "__version__":
            return import_module("zowarmup.common.settings.run").VERSION
        for module in _MODULES if name in __all__ else ():
            found = import_module(f"zowarmup.{module}")
            if hasattr(found, name):
                return getattr(found, name)
        raise AttributeError(f"module 'zowarmup' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
