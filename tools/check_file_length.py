"""Refuse source files of more than 300 lines that do not say why; `make check` runs this over the whole tree.

A file that is better in one piece says so among its first lines, as a comment: `# length: one table, read as a whole`.
Generated stubs are not counted.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("libs", "services", "examples", "tools", "tests", "benchmarks", "protos")
LIMIT = 300
# A reason stands where a reader sees it first: above the code.
TOP_LINES = 10
REASON = re.compile(r"^\s*(#|//) length: \S+ \S+")


def is_too_long(source: str) -> bool:
    """Say whether `source` has more than 300 lines and no reason for it in its first ten."""
    lines = source.splitlines()
    return len(lines) > LIMIT and not any(REASON.match(line) for line in lines[:TOP_LINES])


def _sources() -> list[Path]:
    files = [
        path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".proto"}
    ]
    return sorted(path for path in files if not path.stem.endswith(("_pb2", "_pb2_grpc")))


def main() -> int:
    """Print every file that is too long; return 1 if there is any."""
    long = [path for path in _sources() if is_too_long(path.read_text())]
    for path in long:
        count = len(path.read_text().splitlines())
        print(
            f"{path.relative_to(ROOT)}: {count} lines exceed {LIMIT}; split it by concept, or say on top",
            end=" ",
        )
        print("why one piece is better: # length: <reason>")
    return 1 if long else 0


if __name__ == "__main__":
    sys.exit(main())
