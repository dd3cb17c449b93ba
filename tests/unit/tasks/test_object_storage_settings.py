"""The options of object stores that an operator gives a node, in a file."""

from pathlib import Path

import pytest

from headrace.config import ConfigError, load
from headrace_training.settings import Settings

VARIABLE = "HEADRACE_TRAINING_OBJECT_STORAGE_FILE"


def test_options_are_read_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "storage.json"
    path.write_text('{"aws_access_key_id": "key"}')
    assert load(Settings, {VARIABLE: str(path)}).object_storage == {"aws_access_key_id": "key"}


def test_without_a_file_there_are_none() -> None:
    assert load(Settings, {}).object_storage == {}


@pytest.mark.parametrize("content", ["secret", '["secret"]', '{"allow_http": true, "key": "secret"}'])
def test_a_file_that_holds_no_options_is_refused_without_its_content(content: str, tmp_path: Path) -> None:
    path = tmp_path / "storage.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=VARIABLE) as refused:
        load(Settings, {VARIABLE: str(path)})
    assert "secret" not in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.json.* cannot be read: No such file"):
        load(Settings, {VARIABLE: str(tmp_path / "nowhere.json")})
