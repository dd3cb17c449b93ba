"""What `headrace up` tells training nodes about TensorBoard and MLflow."""

from pathlib import Path

import pytest

from headrace.cli import up
from headrace.errors import FailedPrecondition


def test_nothing_is_told_unless_somebody_wants_it(tmp_path: Path) -> None:
    assert up.tracking(None, "") == {}
    assert up.tracking(tmp_path, "http://a:1") == {
        "TENSORBOARD_DIR": str(tmp_path),
        "MLFLOW_TRACKING_URI": "http://a:1",
    }


def test_a_package_that_is_missing_is_named_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up, "find_spec", lambda name: None)
    with pytest.raises(FailedPrecondition, match=r"pip install 'headrace\[tensorboard\]'"):
        up.tracking(Path("runs"), "")
