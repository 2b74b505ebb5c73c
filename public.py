"""zowarmup: federated training of a fleet of unequal devices.

The public interface of the package, `zowarmup` itself: its version, what a program of one's own runs fleets with (docs/python.md),
and what an algorithm or a task of one's own is written with (`algorithm = "package.module:Algorithm"` or
`task = "package.module:Task"` in a run file; CONTRIBUTING.md, "Adding an algorithm" and "Adding a task"). Every module below, such as
`zowarmup.common`, is internal: another version may change it.

The module of a name is imported when the name is first used, so a process that needs none loads none.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zowarmup.api.coordination import LocalCoordinator as Coordinator
    from zowarmup.api.datasets import dataset, divide
    from zowarmup.api.errors import RunError, SettingsError
    from zowarmup.api.history import Costs, HistoryTable, PayloadRow, VersionRow
    from zowarmup.api.participation import LocalClient as Client
    from zowarmup.api.participation import Membership
    from zowarmup.api.settings import warm_up, zeroth_order
    from zowarmup.api.simulation import simulate
    from zowarmup.api.trained import GivenUp, TrainedRun, load_run, plot
    from zowarmup.cli.session.status import (
        ClientStatus,
        EvaluationStatus,
        PrivacyStatus,
        Replicas,
        Status,
        TrafficStatus,
    )
    from zowarmup.client.policy import Policy
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
    from zowarmup.common.settings.privacy import Budget, Privacy
    from zowarmup.common.settings.run import VERSION as __version__
    from zowarmup.common.settings.run import Evaluation, Guard, Model, RunFile, Server
    from zowarmup.common.settings.text import Text
    from zowarmup.common.settings.tracking import Tracking
    from zowarmup.common.tasks.protocol import Baseline, Batch, Metric, TargetKind, Task
    from zowarmup.data.dataset import DataError, Dataset

_PLACES = {
    "api.coordination": "LocalCoordinator=Coordinator",
    "api.datasets": "dataset divide",
    "api.errors": "RunError SettingsError",
    "api.history": "Costs HistoryTable PayloadRow VersionRow",
    "api.participation": "LocalClient=Client Membership",
    "api.settings": "warm_up zeroth_order",
    "api.simulation": "simulate",
    "api.trained": "GivenUp TrainedRun load_run plot",
    "cli.session.status": "ClientStatus EvaluationStatus PrivacyStatus Replicas Status TrafficStatus",
    "client.policy": "Policy",
    "common.algorithms.directional_derivatives": "Measured Probe as_float32 measure",
    "common.algorithms.private_release": "Mechanism",
    "common.algorithms.protocol": (
        "Aggregate Algorithm ClientScalars Forward LocalTraining LossAndGradient Start Trained Update Vectors"
    ),
    "common.algorithms.settings": "Rounds WarmUp Weighting ZerothOrder require",
    "common.algorithms.step_builder": "CommitCost Moments Move",
    "common.algorithms.vectors": "LazyVector",
    "common.exact.grid": "Grid HeadroomExceeded",
    "common.exact.layout": "Block Cut Head Layout Tensor",
    "common.exact.steps": "DeviceVector Direction Step Weights",
    "common.exact.submodel": "Submodel",
    "common.messages.small_floats": "Precision",
    "common.messages.values": "Computation Contribution Delta Phase Scalars Tier Work",
    "common.settings.privacy": "Budget Privacy",
    "common.settings.run": "Evaluation Guard Model RunFile Server VERSION=__version__",
    "common.settings.text": "Text",
    "common.settings.tracking": "Tracking",
    "common.tasks.protocol": "Baseline Batch Metric TargetKind Task",
    "data.dataset": "DataError Dataset",
}
"""The names of each module; INNER=PUBLIC where a name is another there."""
_NAMES = {
    word.rpartition("=")[2]: (module, word.partition("=")[0])
    for module, words in _PLACES.items()
    for word in words.split()
}
__all__ = [
    "Aggregate",
    "Algorithm",
    "Baseline",
    "Batch",
    "Block",
    "Budget",
    "Client",
    "ClientScalars",
    "ClientStatus",
    "CommitCost",
    "Computation",
    "Contribution",
    "Coordinator",
    "Costs",
    "Cut",
    "DataError",
    "Dataset",
    "Delta",
    "DeviceVector",
    "Direction",
    "Evaluation",
    "EvaluationStatus",
    "Forward",
    "GivenUp",
    "Grid",
    "Guard",
    "Head",
    "HeadroomExceeded",
    "HistoryTable",
    "Layout",
    "LazyVector",
    "LocalTraining",
    "LossAndGradient",
    "Measured",
    "Membership",
    "Metric",
    "Model",
    "Moments",
    "Move",
    "PayloadRow",
    "Phase",
    "Policy",
    "Precision",
    "Privacy",
    "PrivacyStatus",
    "Probe",
    "Replicas",
    "Rounds",
    "RunError",
    "RunFile",
    "Scalars",
    "Server",
    "SettingsError",
    "Start",
    "Status",
    "Step",
    "Submodel",
    "TargetKind",
    "Task",
    "Tensor",
    "Text",
    "Tier",
    "Tracking",
    "TrafficStatus",
    "Trained",
    "TrainedRun",
    "Update",
    "Vectors",
    "VersionRow",
    "WarmUp",
    "Weighting",
    "Weights",
    "Work",
    "ZerothOrder",
    "__version__",
    "as_float32",
    "dataset",
    "divide",
    "load_run",
    "measure",
    "plot",
    "require",
    "simulate",
    "warm_up",
    "zeroth_order",
]


if not TYPE_CHECKING:  # else a misspelt name would have a type

    def __getattr__(name):
        if name not in _NAMES:
            raise AttributeError(f"module 'zowarmup' has no attribute {name!r}")
        module, inside = _NAMES[name]
        return getattr(import_module(f"zowarmup.{module}"), inside)


def __dir__() -> list[str]:
    return sorted(__all__)
