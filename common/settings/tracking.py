"""The settings of what follows a run from outside: experiment trackers."""

import re
from dataclasses import dataclass

from zowarmup.common.algorithms.settings import require

_SERVER = re.compile(r"https?://(?P<credentials>[^/@\s]*@)?[^/@\s:]+(:\d{1,5})?(/\S*)?", re.ASCII)
SQLITE = "sqlite:///"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tracking:
    """Where the run's parameters, curves and result are written as it goes. Empty: nowhere.

    Args:
        mlflow: An MLflow server, http://HOST:PORT or https://, or a database of MLflow's in a file, sqlite:///PATH.
        tensorboard: A folder for TensorBoard, in which the run gets one of its own.

    Raises:
        ValueError: A field is not of that form; the sentence names it.
    """

    mlflow: str = ""
    tensorboard: str = ""

    def __post_init__(self) -> None:
        found = _SERVER.fullmatch(self.mlflow)
        allowed = '"http://HOST:PORT", "https://HOST" or "sqlite:///mlflow.db", a file (MLflow no longer writes into folders), or ""'
        database = self.mlflow.startswith(SQLITE) and len(self.mlflow) > len(SQLITE) and self.mlflow.isprintable()
        require(not self.mlflow or database or bool(found), "mlflow", self.mlflow, allowed)
        secret = "without a user or a password, which are for MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        require(not (found and found["credentials"]), "mlflow", _hidden(self.mlflow), secret)
        folder = 'a folder, such as "tensorboard", or ""'
        sound = "://" not in self.tensorboard and self.tensorboard.isprintable()
        require(sound, "tensorboard", self.tensorboard, folder)


def _hidden(address: str) -> str:
    """An address without what stands before its @."""
    scheme, _, rest = address.partition("://")
    return f"{scheme}://...@{rest.partition('@')[2]}"
