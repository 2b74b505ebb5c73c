"""Which trackers a run file names, and what is refused before the run is opened."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from zowarmup.common.settings.tracking import Tracking
from zowarmup.server.core.errors import TrackingError
from zowarmup.server.tracking.opening import trackers_of


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("mlflow", "runs", "mlflow = 'runs': must be \"http://HOST:PORT\""),
        ("mlflow", "file:///tmp/runs", "MLflow no longer writes into folders"),
        ("mlflow", "http://", "must be"),
        ("mlflow", "http://h:port", "must be"),
        ("mlflow", "sqlite:///", "must be"),
        ("mlflow", "https://me:secret@host/x", "mlflow = 'https://...@host/x': must be without a user or a password"),
        ("tensorboard", "http://127.0.0.1:6006", "tensorboard = 'http://127.0.0.1:6006': must be a folder"),
    ],
)
def test_what_is_no_place_is_refused_by_its_field(field: str, value: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        Tracking(**{field: value})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("place", ["http://127.0.0.1:5000", "https://mlflow.example.org/team/", "sqlite:///a/b.db", ""])
def test_servers_and_databases_are_places(place: str) -> None:
    assert Tracking(mlflow=place).mlflow == place


def test_a_run_without_trackers_has_none() -> None:
    assert trackers_of(Tracking()) == []


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is not None, reason="this Python has MLflow")
def test_a_package_that_is_missing_is_named_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def installed(name: str) -> None:
        found = ModuleType(name)
        found.__spec__ = importlib.util.spec_from_loader(name, loader=None)
        monkeypatch.setitem(sys.modules, name, found)

    settings = Tracking(mlflow=f"sqlite:///{tmp_path}/deep/a.db", tensorboard=str(tmp_path / "file"))
    with pytest.raises(
        TrackingError, match=r"tracking.mlflow = .*: mlflow is not installed here: pip install 'zowarmup"
    ):
        trackers_of(settings)
    installed("mlflow")
    with pytest.raises(TrackingError, match=r"takes all of MLflow: sqlalchemy is not .*: pip install 'mlflow'"):
        trackers_of(settings)
    installed("sqlalchemy")
    with pytest.raises(TrackingError, match=r"tracking.tensorboard = .*: tensorboard is not installed here"):
        trackers_of(settings)
    installed("tensorboard")
    (tmp_path / "file").touch()
    with pytest.raises(TrackingError, match=r"tracking.tensorboard = .*/file cannot be made \(File exists\)"):
        trackers_of(settings)
    (tmp_path / "file").unlink()
    assert [tracker.setting for tracker in trackers_of(settings)] == ["tracking.mlflow", "tracking.tensorboard"]
    assert (tmp_path / "deep").is_dir() and (tmp_path / "file").is_dir()
