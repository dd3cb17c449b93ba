"""What a request may say, as far as the request alone tells."""

import math
import re
from collections import Counter

from headrace.errors import InvalidArgument, NonFiniteValues
from headrace.names import check_id
from headrace_registry.core.resources import Draft, File

MAX_DESCRIPTION = 4096  # characters
MAX_FILES = 64  # an optimization run of every precision and its reports makes about ten
MAX_LABELS = 64
MAX_TEXT = 256  # characters of a label or of a metric's name
LATEST = "latest"  # the alias that is always there and needs no row

_PATH = re.compile(r"(?!\.+\Z)[A-Za-z0-9._-]{1,100}")  # not "..": a path becomes a file's name somewhere


def check_description(text: str) -> str:
    """Return a model's description if it may stand."""
    if len(text) > MAX_DESCRIPTION:
        raise InvalidArgument(
            f"description has {len(text)} characters; at most {MAX_DESCRIPTION} are kept",
            field="model.description",
        )
    return check_text(text, "model.description")


def check_text(text: str, field: str) -> str:
    """Return `text` unless it holds the character NUL, which not every database can keep."""
    if "\0" in text:
        raise InvalidArgument(f"{field} holds a NUL character; leave it out", field=field)
    return text


def check_alias(alias: str) -> str:
    """Return an alias that may be set."""
    if alias == LATEST:
        raise InvalidArgument(
            f"alias {LATEST!r} always means the highest number; choose another word", field="alias"
        )
    if alias.isdecimal():
        raise InvalidArgument(
            f"alias {alias!r} reads like the number of a version; choose a word, such as 'stable'",
            field="alias",
        )
    return check_id(alias, "alias")


def check_draft(draft: Draft, project: str) -> None:
    """Check what one can see of a new version of a model in `project` without knowing what else there is.

    Raises:
        InvalidArgument: Something may not be as it is; `field` says what.
        NonFiniteValues: A metric is a NaN or an infinity.
    """
    _check_files(draft, project)
    _check_lineage(draft, project)
    _check_metrics(draft)
    _check_labels(draft)


def _check_files(draft: Draft, project: str) -> None:
    if not 1 <= len(draft.files) <= MAX_FILES:
        raise InvalidArgument(
            f"the version has {len(draft.files)} files; give 1 to {MAX_FILES}", field="version.files"
        )
    for index, file in enumerate(draft.files):
        _check_file(file, f"version.files[{index}]", project)
    path, count = Counter(file.path for file in draft.files).most_common(1)[0]
    if count > 1:
        raise InvalidArgument(
            f"{count} files have the path {path!r}; give each its own", field="version.files"
        )
    if draft.serving_file and draft.serving_file not in _servable_paths(draft):
        raise InvalidArgument(
            f"serving_file {draft.serving_file!r} is none of the version's files that can be served "
            f"({', '.join(_servable_paths(draft)) or 'there are none'}); name one of them or leave it empty",
            field="version.serving_file",
        )


def _check_file(file: File, field: str, project: str) -> None:
    if not _PATH.fullmatch(file.path):
        raise InvalidArgument(
            f"path {file.path[:200]!r} is not a file name; use 1 to 100 of A-Z a-z 0-9 . _ -, not dots alone",
            field=f"{field}.path",
        )
    _check_project(file.artifact.project, project, f"{field}.artifact", str(file.artifact))


def _servable_paths(draft: Draft) -> list[str]:
    return [file.path for file in draft.files if file.role.can_be_served]


def _check_lineage(draft: Draft, project: str) -> None:
    if draft.source_version:
        _check_project(
            draft.source_version.project, project, "version.source_version", str(draft.source_version)
        )
    if draft.job:
        _check_project(draft.job.project, project, "version.job", str(draft.job))
    if draft.program and draft.program.archive:
        archive = draft.program.archive
        _check_project(archive.project, project, "version.program.archive.artifact", str(archive))


def _check_project(found: str, project: str, field: str, name: str) -> None:
    if found != project:
        raise InvalidArgument(
            f"{field} {name} belongs to another project than projects/{project}", field=field
        )


def _check_metrics(draft: Draft) -> None:
    for name, value in draft.metrics.items():
        if not 1 <= len(name) <= MAX_TEXT:
            raise InvalidArgument(
                f"metric {name[:100]!r} has a name of {len(name)} characters; use 1 to {MAX_TEXT}",
                field="version.metrics",
            )
        if not math.isfinite(value):
            raise NonFiniteValues(
                f"metric {name!r} is {value}; only finite numbers can be compared, leave it out",
                field="version.metrics",
            )


def _check_labels(draft: Draft) -> None:
    if len(draft.labels) > MAX_LABELS:
        raise InvalidArgument(
            f"the version has {len(draft.labels)} labels; at most {MAX_LABELS} are kept",
            field="version.labels",
        )
    for key, value in draft.labels.items():
        if not 1 <= len(key) <= MAX_TEXT or len(value) > MAX_TEXT:
            raise InvalidArgument(
                f"label {key[:100]!r} has {len(key)} characters and its value {len(value)}; "
                f"use 1 to {MAX_TEXT} and at most {MAX_TEXT}",
                field="version.labels",
            )
