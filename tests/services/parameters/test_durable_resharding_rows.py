"""Shards that join and leave a durable store with tables: what is on the disks afterwards is what an untouched run has."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from headrace.parameters.v1 import stores_pb2
from tests.services.parameters.parameter_server import NAME, ParameterServer, parameter_server
from tests.services.parameters.resharding_tables import PLACES, WORDS, workers_of
from tests.services.parameters.resharding_world import adamw, create, reshard, start
from tests.services.parameters.test_parameter_resharding_rows import run_through, untouched


@contextmanager
def durable_servers(folder: Path) -> Iterator[list[ParameterServer]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(parameter_server(max_bytes=1 << 24, folder=folder / str(index), log_pushes=7))
            for index in range(3)
        ]


@pytest.mark.parametrize("clip", [0.0, 5.0])
def test_a_durable_run_with_tables_through_joins_and_leaves_is_there_after_a_restart(
    tmp_path: Path, clip: float
) -> None:
    """With snapshots of what has changed, before, between and after the moves; rows that are idle are evicted."""
    with durable_servers(tmp_path) as three:
        create(three[:1], adamw(clip), worker_count=2, durability=stores_pb2.DURABILITY_PROCESS)
        with workers_of(three[:1], 2, [WORDS, PLACES], start()) as workers:
            values, rows = run_through(
                workers,
                {
                    4: lambda: reshard(three[0], shards=three[:1], add=three[1:]),
                    10: lambda: reshard(three[1], shards=three, remove=[three[0]], map_epoch=2),
                    15: lambda: reshard(
                        three[2], shards=three[1:], add=[three[0]], remove=[three[1]], map_epoch=3
                    ),
                },
            )
    expected, untouched_rows = untouched(adamw(clip))
    tolerance = 1e-6 if clip else 0
    np.testing.assert_allclose(values, expected, rtol=0, atol=tolerance)

    with durable_servers(tmp_path) as three:
        stores = [three[0].table.all()[0], three[2].table.all()[0]]
        for name, seen, (known, wanted) in zip(("words", "places"), rows, untouched_rows, strict=True):
            parts = [store.tables[name].scan(0, 1 << 16)[:2] for store in stores]
            keys, found = (np.concatenate(each) for each in zip(*parts, strict=True))
            order = np.argsort(keys)
            assert np.array_equal(keys[order], known)
            assert np.array_equal(found[order], seen[1])
            np.testing.assert_allclose(found[order], wanted, rtol=0, atol=tolerance)
        assert [table.rows for table in three[1].stores.get(NAME).tables] in ([], [0, 0])
