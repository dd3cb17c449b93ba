"""The file beside a log that says what a process was to a replicated store: after a restart it must not be deceived by an old primary."""

from dataclasses import asdict

from headrace_parameters.core.tenure import Role, Tenure
from headrace_parameters.journal.checked_json import read_json, write_json
from headrace_parameters.journal.files import storage_error
from headrace_parameters.journal.journal import Journal

_NAME = "tenure.json"
# Who cannot read what it was has seen no term that it knows of, and may be missing anything.
_UNKNOWN = Tenure(0, Role.STANDBY)


def write_tenure(journal: Journal, tenure: Tenure) -> None:
    """Write what the process is from now on; StorageFull or DataLoss if that cannot be."""
    path = journal.folder / _NAME
    try:
        write_json(path, {**asdict(tenure), "role": tenure.role.value})
    except OSError as error:
        raise storage_error(error, f"{path}") from error


def read_tenure(journal: Journal) -> Tenure:
    """Return what the last process was when it ended."""
    try:
        facts = read_json(journal.folder / _NAME)
        return Tenure(**{**facts, "role": Role(facts["role"])})
    except (OSError, ValueError, TypeError):
        return _UNKNOWN
