"""The file beside a log that says that the run of the store is over: a restart must not begin it again.

A file, and no record: a run may be over before its store has the first values, with which a log begins.
"""

from headrace_parameters.journal.files import storage_error, written_whole
from headrace_parameters.journal.journal import Journal

_NAME = "finished"


def write_finished(journal: Journal) -> None:
    """Let every later process of the folder know; StorageFull or DataLoss if that cannot be."""
    path = journal.folder / _NAME
    try:
        with written_whole(path) as temporary:
            temporary.touch(0o600)
    except OSError as error:
        raise storage_error(error, f"{path}") from error


def is_finished(journal: Journal) -> bool:
    """Tell whether a former process was told so."""
    return (journal.folder / _NAME).exists()
