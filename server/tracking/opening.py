"""The trackers that a run file names, where their packages are there."""

from importlib.util import find_spec
from pathlib import Path

from zowarmup.common.settings.tracking import SQLITE, Tracking
from zowarmup.server.core.errors import TrackingError
from zowarmup.server.tracking.delivery import Tracker
from zowarmup.server.tracking.mlflow_tracker import MlflowTracker
from zowarmup.server.tracking.tensorboard_tracker import TensorBoardTracker


def trackers_of(settings: Tracking) -> list[Tracker]:
    """The trackers of a run; nothing of them is imported yet, and no server is asked.

    Args:
        settings: The run file's.

    Raises:
        TrackingError: A package is missing, or a folder cannot be made.
    """
    found: list[Tracker] = []
    if settings.mlflow:
        given = f"tracking.mlflow = {settings.mlflow!r}"
        _require("mlflow", given, "zowarmup[tracking]")
        if settings.mlflow.startswith(SQLITE):
            _require("sqlalchemy", f"{given}: a database in a file takes all of MLflow", "mlflow")
            _make(Path(settings.mlflow.removeprefix(SQLITE)).parent, given)
        found.append(MlflowTracker(settings.mlflow))
    if settings.tensorboard:
        given = f"tracking.tensorboard = {settings.tensorboard!r}"
        _require("tensorboard", given, "zowarmup[tracking]")
        folder = Path(settings.tensorboard).expanduser()
        _make(folder, given)
        found.append(TensorBoardTracker(folder))
    return found


def _require(package: str, given: str, install: str) -> None:
    if find_spec(package) is None:
        raise TrackingError(f"{given}: {package} is not installed here: pip install '{install}'")


def _make(folder: Path, given: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrackingError(
            f"{given}: {folder} cannot be made ({error.strerror or error}): name another place"
        ) from error
