"""What a training node is told about packages that may be missing."""

from pathlib import Path

import pytest

from headrace.config import ConfigError, load
from headrace_training import mlflow_tracker, tensorboard
from headrace_training.settings import Settings

TENSORBOARD = {"HEADRACE_TRAINING_TENSORBOARD_DIR": "runs"}
MLFLOW = {"HEADRACE_TRAINING_MLFLOW_TRACKING_URI": "http://mlflow:5000"}


def test_tasks_are_told_a_whole_path_because_their_working_folder_is_another() -> None:
    assert load(Settings, TENSORBOARD).tensorboard_dir == str(Path("runs").resolve())
    assert load(Settings, {}).tensorboard_dir == ""


def test_a_node_that_shall_write_what_it_cannot_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard, "is_installed", lambda: False)
    monkeypatch.setattr(mlflow_tracker, "is_installed", lambda: False)
    assert load(Settings, {}).mlflow_tracking_uri == ""
    for environ, package in ((TENSORBOARD, "tensorboard"), (MLFLOW, "mlflow")):
        with pytest.raises(ConfigError, match=rf"pip install 'headrace\[{package}\]'"):
            load(Settings, environ)
