"""What is compiled ahead is all that a table needs."""

from typing import get_args

import numpy as np
import pytest

import headrace_optimizers.kernels
from headrace_optimizers.row_config import RowAdagrad, RowAdam, RowOptimizer, RowSgd, RowWiseAdagrad
from headrace_optimizers.row_initializer import Normal
from headrace_optimizers.table_config import TableConfig
from headrace_parameters.core.rows import kernels
from headrace_parameters.core.rows.table import RowTable
from headrace_parameters.precompile import precompile


def compilations() -> int:
    """Count for how many types loops are compiled, or read from where they are kept."""
    loops = [*vars(kernels).values(), *vars(headrace_optimizers.kernels).values()]
    return sum(len(loop.signatures) for loop in loops if hasattr(loop, "signatures"))


@pytest.mark.parametrize("optimizer", [RowSgd(0.1), RowWiseAdagrad(0.1), RowAdagrad(0.1), RowAdam(0.1)])
def test_a_table_compiles_nothing_that_was_not_compiled_ahead(optimizer: RowOptimizer) -> None:
    precompile()
    before = compilations()

    table = RowTable(TableConfig("users", 5, Normal(0, 1), optimizer, max_rows=20, max_idle_steps=3))
    keys = np.array([3, 1, 3, 1 << 63], np.uint64)
    for step in range(8):
        table.apply(keys + np.uint64(step), np.ones((4, 5), np.float32), update=step, step=step)
    table.make_room(keys)
    table.pull(keys, np.empty((4, 5), np.float32))

    assert before
    assert compilations() == before
    assert type(optimizer) in get_args(RowOptimizer)
