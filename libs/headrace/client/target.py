"""Where the files of a version are written."""

from __future__ import annotations

import re
from pathlib import Path

from headrace.errors import DataLoss
from headrace.registry.v1.models_pb2 import Version

_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


def file_targets(version: Version, folder: Path) -> list[tuple[str, Path]]:
    """Return (artifact, path below `folder`) of each file; the folder is made when missing.

    Raises:
        DataLoss: A name would lead elsewhere: a sound registry has none such, and we trust none to.
    """
    for file in version.files:
        if not _PLAIN.fullmatch(file.path):
            raise DataLoss(
                f"{version.name} has a file named {file.path!r}, which is no plain name; nothing was written"
            )
    folder.mkdir(parents=True, exist_ok=True)
    return [(file.artifact, folder / file.path) for file in version.files]
