"""Tables on a real server: rows are pushed and pulled, through shared memory and in messages alike."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from headrace.errors import (
    DeadlineExceeded,
    OutOfRange,
)
from headrace.parameters.tables import ShardedTables
from headrace.parameters.v1 import parameters_pb2, rows_pb2, rows_pb2_grpc, stores_pb2
from tests.services.parameters.parameter_server import IMPATIENT_S, NAME, ParameterServer
from tests.services.parameters.parameter_tables import Tables, ones, store_with_tables, users_of


def test_a_pull_returns_first_values_in_the_order_of_the_keys_and_makes_no_rows(
    server: ParameterServer, open_tables: Tables, transport: str
) -> None:
    server.stores.create(store_with_tables())
    tables = open_tables(server)

    pulled = tables.pull_rows("users", [7, 1 << 63, 7, 3])

    assert np.array_equal(pulled.values, users_of(7, 1 << 63, 7, 3))
    assert (pulled.version, server.stores.get(NAME).tables[0].rows) == (0, 0)
    assert tables.transport == ("shared memory" if transport == "shared memory" else "message")


def test_a_push_changes_the_rows_it_names_once_for_each_time_they_are_named(
    server: ParameterServer, open_tables: Tables
) -> None:
    server.stores.create(store_with_tables())
    tables = open_tables(server)

    pushed = tables.push_rows("items", 0, [5, 9, 5], ones(3, 2), samples=4)

    assert (pushed.version, pushed.next_step) == (1, 1)
    assert tables.pull_rows("items", [5, 6, 9], step=1).values.tolist() == [[-2, -2], [0, 0], [-1, -1]]
    facts = server.stores.get(NAME).tables[1]
    assert (facts.rows, facts.created_rows, facts.evicted_rows, facts.version) == (2, 2, 0, 1)


def test_a_push_and_a_pull_in_one_round_trip_are_a_push_then_a_pull(
    server: ParameterServer, open_tables: Tables
) -> None:
    server.stores.create(store_with_tables())
    tables = open_tables(server)

    answer = tables.push_pull_rows("items", 0, [5], ones(1, 2), 1, pull_keys=[4, 5])

    assert answer.values.tolist() == [[0, 0], [-1, -1]]
    assert (answer.version, answer.next_step, answer.staleness) == (1, 1, 0)


def test_two_shards_do_together_what_one_does(
    server: ParameterServer, servers: list[ParameterServer], open_tables: Tables
) -> None:
    server.stores.create(store_with_tables())
    for index, each in enumerate(servers):
        each.stores.create(store_with_tables(shard_index=index, shard_count=2))
    alone, spread = open_tables(server), open_tables(*servers)
    keys, generator = np.arange(200), np.random.default_rng(0)

    for step in range(4):
        chosen = generator.integers(0, 200, 150)
        gradient = generator.normal(size=(150, 3)).astype(np.float32)
        for tables in (alone, spread):
            tables.push_rows("users", step, chosen, gradient, samples=3)

    assert np.array_equal(alone.pull_rows("users", keys).values, spread.pull_rows("users", keys).values)
    held = [each.stores.get(NAME).tables[0].rows for each in servers]
    assert sum(held) == server.stores.get(NAME).tables[0].rows
    assert min(held) > 70


def test_under_bsp_a_pull_for_the_next_step_waits_for_all_workers(
    server: ParameterServer, open_tables: Tables
) -> None:
    server.stores.create(store_with_tables(worker_count=2))
    first, second = open_tables(server, worker=0), open_tables(server, worker=1)
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(first.push_pull_rows, "items", 0, [1], ones(1, 2), 3.0, [1, 2])
        second.push_rows("items", 0, [2], 4 * ones(1, 2), samples=1)

        assert waiting.result().values.tolist() == [[-0.75, -0.75], [-1, -1]]


def test_a_pull_that_waits_in_vain_tells_whose_pushes_are_missing(
    server: ParameterServer, open_tables: Tables
) -> None:
    server.stores.create(store_with_tables(worker_count=3))
    tables = open_tables(server, worker=1, timeout_s=IMPATIENT_S)
    tables.push_rows("users", 0, [1], ones(1), samples=1)

    with pytest.raises(DeadlineExceeded) as error:
        tables.pull_rows("users", [1], step=1)
    assert error.value.metadata["missing_workers"] == "0,2"


def test_ssp_bounds_how_far_workers_part_and_reports_staleness(
    server: ParameterServer, open_tables: Tables
) -> None:
    server.stores.create(
        store_with_tables(worker_count=2, consistency=stores_pb2.CONSISTENCY_SSP, staleness_bound=1)
    )
    tables = open_tables(server)
    tables.push_rows("items", 0, [1], ones(1, 2), samples=1)

    assert tables.pull_rows("items", [1], step=1).staleness == 1  # its own push, and none of the other's
    tables.push_rows("items", 1, [1], ones(1, 2), samples=1)
    with pytest.raises(OutOfRange):
        tables.push_rows("items", 2, [1], ones(1, 2), samples=1)


def test_a_worker_reads_its_own_writes(server: ParameterServer, open_tables: Tables) -> None:
    server.stores.create(store_with_tables(worker_count=2, consistency=stores_pb2.CONSISTENCY_ASYNC))
    tables = open_tables(server)

    for step in range(5):
        tables.push_rows("items", step, [1], ones(1, 2), samples=1)
        assert tables.pull_rows("items", [1], step=step + 1).values.tolist() == [[-step - 1, -step - 1]]


def test_a_push_sent_twice_is_applied_once_whichever_way_it_comes(server: ParameterServer) -> None:
    server.stores.create(store_with_tables())
    for shared in (True, False):
        with ShardedTables([server.channel], NAME, epoch=1, worker=0, shared_memory=shared) as tables:
            tables.push_rows("items", 0, [1], ones(1, 2), samples=1)

    with ShardedTables([server.channel], NAME, epoch=0) as reader:
        assert reader.pull_rows("items", [1]).values.tolist() == [[-1, -1]]
        assert reader.transport == "message"


def test_more_rows_than_a_segment_has_room_for_are_exchanged(
    server: ParameterServer, open_tables: Tables
) -> None:
    server.stores.create(store_with_tables())
    tables = open_tables(server)
    for step, count in enumerate((10, 5_000, 100)):
        keys = np.arange(count) + 1000 * step
        rows = tables.push_pull_rows("items", step, keys, ones(count, 2), 1, keys).values
        assert rows.shape == (count, 2)
        assert (rows < 0).all()


def test_a_step_without_rows_is_pushed_and_pulled(server: ParameterServer, open_tables: Tables) -> None:
    server.stores.create(store_with_tables())

    answer = open_tables(server).push_pull_rows("users", 0, [], ones(0), 1, [])

    assert (answer.version, answer.values.shape) == (1, (0, 3))


def test_rows_are_called_with_plain_messages_as_well(server: ParameterServer) -> None:
    """As grpcurl does it: lists of numbers, encoded by the generated code."""
    server.stores.create(store_with_tables())
    stub = rows_pb2_grpc.RowsStub(server.channel)

    stub.PushRows(
        rows_pb2.PushRowsRequest(
            store=NAME,
            table="items",
            header=parameters_pb2.PushHeader(epoch=1, samples=1),
            keys=[3, 4],
            gradients=[1, 2, 3, 4],
        )
    )

    pulled = stub.PullRows(rows_pb2.PullRowsRequest(store=NAME, table="items", keys=[4, 3]))
    assert list(pulled.values) == [-3, -4, -1, -2]
