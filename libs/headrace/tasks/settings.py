"""What every node that runs tasks can be told: which programs, and where."""

from pathlib import Path

from pydantic import Field

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
