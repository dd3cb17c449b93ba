"""Compiles the loops of tables ahead, so that no process has to when it makes its first store with one: 5 seconds of processor time.

    python -m headrace_parameters.precompile

`make install` does it. They stay compiled until their source, numba or the machine is another; then the next process compiles them again.
"""

from typing import get_args

from headrace_optimizers.row_config import RowOptimizer
from headrace_optimizers.row_initializer import Constant
from headrace_optimizers.table_config import TableConfig
from headrace_parameters.core.rows.table import compile_loops


def precompile() -> None:
    """Let the loops of every kind of table be compiled, unless they are."""
    for optimizer in get_args(RowOptimizer):
        compile_loops(TableConfig("any", 1, Constant(0.0), optimizer(learning_rate=0.1)))


if __name__ == "__main__":
    precompile()
