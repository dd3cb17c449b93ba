"""Small files that are there whole, and as they were written: a line of JSON, and its checksum in a second one."""

import json
from pathlib import Path
from typing import Any

from headrace_parameters.core.record import checksum
from headrace_parameters.journal.files import written_whole


def write_json(path: Path, facts: dict[str, Any]) -> None:
    """Make `facts` what is in a file, safely; OSError if it cannot be."""
    line = json.dumps(facts, sort_keys=True)
    with written_whole(path) as temporary:
        temporary.write_text(f"{line}\n{checksum(line.encode()):08x}\n")


def read_json(path: Path) -> dict[str, Any]:
    """Return what was written; OSError, or ValueError if that is not what is there."""
    line, crc = path.read_text().splitlines()
    if int(crc, 16) != checksum(line.encode()):
        raise ValueError("its checksum does not match")
    facts = json.loads(line)
    if not isinstance(facts, dict):
        raise ValueError("it holds no object")
    return facts
