"""A version's files are written below the folder, whatever a registry says."""

from pathlib import Path

import pytest

from headrace.client.target import file_targets
from headrace.errors import DataLoss
from headrace.registry.v1.models_pb2 import File, Version


def test_each_file_gets_its_name_in_the_folder(tmp_path: Path) -> None:
    version = Version(files=[File(path="int8.onnx", artifact="a"), File(path="report.json", artifact="a")])

    targets = file_targets(version, tmp_path / "new")

    assert targets == [("a", tmp_path / "new" / "int8.onnx"), ("a", tmp_path / "new" / "report.json")]
    assert (tmp_path / "new").is_dir()


@pytest.mark.parametrize("path", ["..", ".", "../x", "/etc/passwd", "a/b", "", ".hidden", "a\0b", "x" * 101])
def test_a_name_that_leads_elsewhere_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(DataLoss, match="nothing was written"):
        file_targets(Version(files=[File(path=path)]), tmp_path / "new")

    assert not (tmp_path / "new").exists()
