"""What every node that runs tasks can be told: which programs, and where."""

import json
from pathlib import Path

from pydantic import Field, field_validator

from headrace.node.settings import NodeSettings


class TaskNodeSettings(NodeSettings):
    """Settings of a service whose work are tasks. `data_dir` has no default here: each service names its own."""

    data_dir: Path = Field(description="Folder of the running tasks' files and of their logs.")
    allowed_programs: list[str] = Field(
        ["headrace_examples"],
        description="Modules and packages whose programs may run, separated by commas; a package stands for all below it.",
    )
    allow_archives: bool = Field(
        False,
        description="Whether programs uploaded as source archives may run: anyone's code, as this user.",
    )
    object_storage_file: str = Field(
        "",
        description="JSON file with options of the object stores that data are read from, as obstore names them: "
        '{"aws_access_key_id": ..., "aws_endpoint": ...}; "" means none. The programs of tasks can read them too.',
    )

    @field_validator("object_storage_file")
    @classmethod
    def _holds_options(cls, path: str) -> str:
        if path:
            _options(path)
        return path

    @property
    def object_storage(self) -> dict[str, str]:
        """The options, read anew."""
        return _options(self.object_storage_file) if self.object_storage_file else {}


def _options(path: str) -> dict[str, str]:
    """Read options from a file; ValueError says why they cannot be, and repeats none of them."""
    try:
        options = json.loads(Path(path).read_text())
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}; give a file that this user may read") from None
    except ValueError:
        raise ValueError("is no JSON; write one object of names and texts") from None
    if not isinstance(options, dict) or not all(isinstance(value, str) for value in options.values()):
        raise ValueError("is no object of names and texts; write numbers and truth values as texts too")
    return options
