"""The command `headrace`.

app       the commands and how they are run        session    the global options
train optimize serve jobs models nodes up demo     one file per group of commands: fetch, then show
views/    resources as tables and lines, pure       screen progress   how they get onto a terminal or into a pipe
"""


def main() -> None:
    """Run the command line of this process and leave with its exit code: 0, 1 for an error, 2 for wrong usage."""
    import sys

    from headrace.cli.app import run

    sys.exit(run(sys.argv[1:]))
