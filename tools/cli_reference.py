"""Write docs/cli.md from the commands' own help, or check that it says the same.

python tools/cli_reference.py            write it
python tools/cli_reference.py --check    fail if it would change
"""

import contextlib
import io
import sys
from pathlib import Path

from headrace.cli.app import build
from headrace.cli.examples import EXAMPLES

TARGET = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
WIDTH = 100

HEAD = """# The command line

`headrace` does from a shell what the Python client does. This page is made from the commands' own `--help`
by `python tools/cli_reference.py`; a test compares them.

- **Which headrace**: `--address` and `--project` (or `HEADRACE_ADDRESS` and `HEADRACE_PROJECT`) stand before or after the
  command. The address is the scheduler's; it knows where everything else is.
- **Names**: `digits` is the newest version of a model, `digits@stable` the one an alias points to, `digits/3` its third. Full
  resource names work everywhere too.
- **JSON**: every command that shows something takes `--json`: proto JSON with the field names of the protos (64-bit integers are
  strings there); lists are arrays. Standard output then has nothing else; progress goes to standard error.
- **Pipes**: away from a terminal there are no colours and no cut columns, and progress is one line at most every two seconds.
- **Exit codes**: 0; 1 for an error, told in one line on standard error that says what to do; 2 for wrong usage; 130 after Ctrl-C.
- **Ctrl-C** while a job is watched leaves the job running and says how to watch it again.
"""


def reference() -> str:
    """Return the page."""
    parts = [HEAD, *(f"## headrace {command}\n\n```text\n{help_of(command)}\n```\n" for command in EXAMPLES)]
    return "\n".join(parts)


def help_of(command: str) -> str:
    """Return what `headrace COMMAND --help` prints, at a fixed width."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        build()(
            [*command.split(), "--help"], prog_name="headrace", standalone_mode=False, terminal_width=WIDTH
        )
    return out.getvalue().rstrip()


def main() -> int:
    """Write or check the page."""
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(reference())
        return 0
    if TARGET.read_text() == reference():
        return 0
    print("docs/cli.md is not what --help says; run: python tools/cli_reference.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
