"""The data of programs that hold them in memory."""

from headrace.program import Examples, Program, Split


def examples_of(program: Program, split: Split) -> Examples:
    """Return a split as arrays; the program must be one that returns them."""
    data = program.data(split)
    assert isinstance(data, Examples), f"data({split!r}) is a {type(data).__name__}"
    return data
