"""The file beside a log that says what a process was to a replicated store: after a restart it must not be deceived by an old primary."""

import json
from dataclasses import asdict

from headrace_parameters.core.record import checksum
from headrace_parameters.core.tenure import Role, Tenure
from headrace_parameters.journal.files import storage_error, written_whole
from headrace_parameters.journal.journal import Journal

_NAME = "tenure.json"
# Who cannot read what it was has seen no term that it knows of, and may be missing anything.
_UNKNOWN = Tenure(0, Role.STANDBY)


def write_tenure(journal: Journal, tenure: Tenure) -> None:
    """Write what the process is from now on; StorageFull or DataLoss if that cannot be."""
    line = json.dumps({**asdict(tenure), "role": tenure.role.value}, sort_keys=True)
    path = journal.folder / _NAME
    try:
        with written_whole(path) as temporary:
            temporary.write_text(f"{line}\n{checksum(line.encode()):08x}\n")
    except OSError as error:
        raise storage_error(error, f"{path}") from error


def read_tenure(journal: Journal) -> Tenure:
    """Return what the last process was when it ended."""
    try:
        line, crc = (journal.folder / _NAME).read_text().splitlines()
        if int(crc, 16) != checksum(line.encode()):
            return _UNKNOWN
        facts = json.loads(line)
        return Tenure(**{**facts, "role": Role(facts["role"])})
    except (OSError, ValueError, TypeError):
        return _UNKNOWN
