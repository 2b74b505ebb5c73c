"""Classification, as tests have it."""

import math

from zowarmup.common.settings.data_card import DataCard
from zowarmup.common.tasks.classification import Classification
from zowarmup.common.tasks.protocol import Baseline, Metric

METRIC = Classification.metrics[0]


def scored(classes: int) -> tuple[tuple[Metric, ...], Baseline]:
    """The last two fields of a `ProgramRecord`."""
    return Classification.metrics, Baseline(math.log(classes), 1 / classes)


def accuracy_of(share: float) -> dict[str, float]:
    """The metrics of an evaluation."""
    return {"accuracy": share}


def classification(classes: int = 10) -> Classification:
    return Classification(DataCard(shape=(1,), classes=classes))
