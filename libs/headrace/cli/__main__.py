"""`python -m headrace.cli`: the command `headrace`, where it is not on the path."""

from headrace.cli import main

main()
