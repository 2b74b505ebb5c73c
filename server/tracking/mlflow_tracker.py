"""MLflow (https://mlflow.org): a run there for each run here, found again by its id.

The experiment is the one that MLFLOW_EXPERIMENT_NAME names, or "zowarmup". A database in a file needs all of MLflow; for a server its
client will do, mlflow-skinny. MLflow's own reports of how it is used are switched off.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zowarmup.server.tracking.points import Standing, TrackedRun, VersionPoint

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

EXPERIMENT = "zowarmup"
PREFIX = "zowarmup."
"""Of our tags, so that they are nobody else's."""
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # A delivery is tried again anyway.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
_PARAMETERS, _LONGEST_PARAMETER, _METRICS = 100, 6000, 1000
"""What a request to MLflow may hold at most: parameters, characters of one, numbers."""
_STATUS = {"stopped": "KILLED", "finished": "FINISHED", "gave up": "FAILED"}


class MlflowTracker:
    """A `Tracker`. `uri`: of the server or the database."""

    setting = "tracking.mlflow"

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._client: MlflowClient | None = None
        self._run = ""

    def open(self, run: TrackedRun) -> Mapping[str, int]:
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        for name in ("urllib3", "alembic"):  # they log each attempt that fails, and each table that is made
            logging.getLogger(name).setLevel(logging.ERROR)
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=self._uri)
        experiment = _experiment(client, os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT)
        known = client.search_runs([experiment], f"tags.`{PREFIX}run_id` = '{run.run_id}'", max_results=1)
        tags = {PREFIX + name: value for name, value in run.tags.items()}
        if known:
            found = known[0]
            client.update_run(found.info.run_id, status="RUNNING")
        else:
            found = client.create_run(experiment, start_time=int(1000 * run.began_at), tags=tags, run_name=run.name)
        self._client, self._run = client, found.info.run_id
        parameters = [Param(name, value[:_LONGEST_PARAMETER]) for name, value in run.parameters.items()]
        for start in range(0, len(parameters), _PARAMETERS):
            client.log_batch(self._run, params=parameters[start : start + _PARAMETERS])
        return {
            name: max(metric.step for metric in client.get_metric_history(self._run, name))
            for name in found.data.metrics
        }

    def write(self, points: Sequence[VersionPoint]) -> None:
        from mlflow.entities import Metric

        assert self._client is not None
        metrics = [
            Metric(name, value, int(1000 * point.at), point.version)
            for point in points
            for name, value in point.values.items()
        ]
        for start in range(0, len(metrics), _METRICS):
            self._client.log_batch(self._run, metrics=metrics[start : start + _METRICS])

    def stand(self, now: Standing) -> None:
        from mlflow.entities import RunTag

        assert self._client is not None
        tags = {**now.tags, **({"reason": now.reason} if now.reason else {})}
        self._client.log_batch(self._run, tags=[RunTag(PREFIX + name, value) for name, value in tags.items()])
        self._client.set_terminated(self._run, _STATUS[now.state])

    def close(self) -> None:
        self._client = None


def _experiment(client: "MlflowClient", name: str) -> str:
    found: Any = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except Exception:
            found = client.get_experiment_by_name(name)  # perhaps another coordinator has just made it
            if found is None:
                raise
    return str(found.experiment_id)
