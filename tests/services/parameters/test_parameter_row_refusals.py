"""What the tables of a real server refuse."""

from collections.abc import Callable

import numpy as np
import pytest

from headrace.errors import (
    AlreadyExists,
    HeadraceError,
    InvalidArgument,
    NonFiniteValues,
    NotFound,
    QuotaExceeded,
    ShapeMismatch,
    StaleEpoch,
)
from headrace.parameters.v1 import parameters_pb2, rows_pb2, rows_pb2_grpc, tables_pb2
from tests.services.parameters.conftest import Connect
from tests.services.parameters.parameter_server import LAYOUT, NAME, ParameterServer, flat
from tests.services.parameters.parameter_tables import ITEMS, USERS, Tables, ones, store_with_tables


class TestWhatIsRefused:
    """With the right error, nothing applied, and the worker told what to do."""

    def refused(
        self,
        error: type[HeadraceError],
        says: str,
        work: Callable[[], object],
        server: ParameterServer,
    ) -> None:
        before = [(table.rows, table.version) for table in server.stores.get(NAME).tables]
        with pytest.raises(error, match=says):
            work()
        assert [(table.rows, table.version) for table in server.stores.get(NAME).tables] == before

    def test_a_table_that_is_not_declared(self, server: ParameterServer, open_tables: Tables) -> None:
        server.stores.create(store_with_tables())
        tables = open_tables(server)
        self.refused(NotFound, "it has users, items", lambda: tables.pull_rows("shops", [1]), server)
        stub = rows_pb2_grpc.RowsStub(server.channel)
        asked = rows_pb2.PullRowsRequest(store=NAME, table="shops")
        self.refused(NotFound, "declare it in CreateStore", lambda: stub.PullRows(asked), server)

    def test_a_table_that_is_asked_densely_and_a_tensor_by_rows(
        self, server: ParameterServer, connect: Connect
    ) -> None:
        server.stores.create(store_with_tables())
        store = connect(server)
        store.initialize(LAYOUT, flat(0))
        with pytest.raises(InvalidArgument, match="no tensor 'users'"):
            store.pull(names=["users"])
        parameters = parameters_pb2.PullRequest(store=NAME, tensors=["users"])
        call = server.channel.unary_stream(
            "/headrace.parameters.v1.Parameters/Pull",
            parameters_pb2.PullRequest.SerializeToString,
            parameters_pb2.PullResponse.FromString,
        )
        with pytest.raises(InvalidArgument, match=r"Rows\.PullRows"):
            list(call(parameters))
        stub = rows_pb2_grpc.RowsStub(server.channel)
        with pytest.raises(NotFound, match=r"dense tensor.*Parameters\.Pull"):
            stub.PullRows(rows_pb2.PullRowsRequest(store=NAME, table="weight"))

    def test_gradients_of_another_length(self, server: ParameterServer, open_tables: Tables) -> None:
        server.stores.create(store_with_tables())
        tables = open_tables(server)
        tables.dims["users"] = 2  # a client that is wrong about it
        push = lambda: tables.push_rows("users", 0, [1, 2], ones(2, 2), samples=1)  # noqa: E731
        self.refused(ShapeMismatch, "3 values a row: send 6", push, server)

    def test_a_gradient_that_is_not_finite(self, server: ParameterServer, open_tables: Tables) -> None:
        server.stores.create(store_with_tables())
        tables = open_tables(server)
        bad = np.array([[1, 2, 3], [4, np.inf, 6]], np.float32)
        push = lambda: tables.push_rows("users", 0, [8, 9], bad, samples=1)  # noqa: E731
        self.refused(NonFiniteValues, "key 9", push, server)

    def test_a_stale_epoch(self, server: ParameterServer, open_tables: Tables) -> None:
        server.stores.create(store_with_tables(epoch=2))
        tables = open_tables(server, epoch=1)
        push = lambda: tables.push_rows("users", 0, [8], ones(1), samples=1)  # noqa: E731
        self.refused(StaleEpoch, "a newer attempt runs", push, server)
        self.refused(StaleEpoch, "a newer attempt runs", lambda: tables.pull_rows("users", [8]), server)

    def test_a_push_without_an_epoch(self, server: ParameterServer, open_tables: Tables) -> None:
        server.stores.create(store_with_tables())
        tables = open_tables(server, epoch=0)
        push = lambda: tables.push_rows("users", 0, [8], ones(1), samples=1)  # noqa: E731
        self.refused(StaleEpoch, "belongs to epoch 1", push, server)

    def test_rows_for_which_the_process_has_no_memory(
        self, server: ParameterServer, open_tables: Tables
    ) -> None:
        """The process of this test has 1 MiB, and each row needs about 50 bytes beside a first block."""
        server.stores.create(store_with_tables())
        tables = open_tables(server)
        push = lambda: tables.push_rows("users", 0, range(40_000), ones(40_000), samples=1)  # noqa: E731
        self.refused(QuotaExceeded, "HEADRACE_PARAMETERS_MAX_BYTES", push, server)
        tables.push_rows("users", 0, range(4_000), ones(4_000), samples=1)

    def test_a_table_that_is_declared_twice_or_otherwise(self, server: ParameterServer) -> None:
        with pytest.raises(InvalidArgument, match="declared twice"):
            server.stores.create(store_with_tables(USERS, USERS))
        server.stores.create(store_with_tables(USERS))
        with pytest.raises(AlreadyExists):
            server.stores.create(store_with_tables(ITEMS))

    def test_a_table_without_an_optimizer(self, server: ParameterServer) -> None:
        with pytest.raises(InvalidArgument, match="row_wise_adagrad") as error:
            server.stores.create(store_with_tables(tables_pb2.Table(name="users", dim=3)))
        assert error.value.field == "tables.optimizer"
