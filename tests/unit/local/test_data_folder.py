"""One headrace has a data folder for itself."""

from pathlib import Path

import pytest

from headrace.cli.app import run
from headrace.errors import FailedPrecondition
from headrace.folder import claimed


def test_a_folder_in_use_is_refused_and_is_free_again_afterwards(tmp_path: Path) -> None:
    with (
        claimed(tmp_path / "data"),
        pytest.raises(FailedPrecondition, match="in use by another headrace"),
        claimed(tmp_path / "data"),
    ):
        pass
    with claimed(tmp_path / "data"):
        pass


@pytest.mark.parametrize("command", ["up", "demo"])
def test_a_second_headrace_in_the_same_folder_is_refused_in_one_line(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with claimed(tmp_path):
        assert run([command, "--data-dir", str(tmp_path), *(["--port", "0"] if command == "up" else [])]) == 1

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path} is in use by another headrace; ")


@pytest.mark.parametrize("blocked", ["", "lock", "logs"])
def test_a_folder_that_cannot_be_written_to_is_refused_in_one_line(
    blocked: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if blocked == "lock":
        (tmp_path / "data" / "lock").mkdir(parents=True)
    else:
        (tmp_path / "data").mkdir() if blocked else None
        (tmp_path / "data" / blocked).write_text("a file where a folder should be")

    assert run(["up", "--port", "0", "--data-dir", str(tmp_path / "data")]) == 1

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: cannot write to ")
    assert "--data-dir" in line


def test_a_port_below_zero_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["up", "--port", "-5"]) == 2

    assert "--port" in capsys.readouterr().err
