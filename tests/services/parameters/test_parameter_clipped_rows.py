"""Clipping by one norm of dense gradients and those of rows, over all tables and shards, by real workers."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest
import torch

from headrace.errors import DeadlineExceeded, FailedPrecondition, QuotaExceeded
from headrace.parameters.client import ShardedStore
from headrace.parameters.layout import FlatLayout, Floats, TensorSpec
from headrace.parameters.tables import ShardedTables
from headrace.parameters.v1 import stores_pb2
from headrace_optimizers.embedding import EmbeddingTable
from headrace_optimizers.row_config import RowAdagrad, RowSgd
from headrace_optimizers.row_initializer import Normal, first_rows
from headrace_optimizers.table_config import TableConfig
from headrace_optimizers.table_wire import table_to_proto
from tests.services.parameters.conftest import Connect
from tests.services.parameters.parameter_server import (
    IMPATIENT_S,
    LAYOUT,
    NAME,
    ParameterServer,
    create_request,
    flat,
    parameter_server,
)
from tests.services.parameters.parameter_tables import ITEMS, USERS, Tables, ones

KEYS, DIM, STEPS, RATE = 12, 3, 6, 0.1
WORDS = TableConfig("words", DIM, Normal(0, 1, seed=1), RowSgd(RATE))
PLACES = TableConfig("places", DIM, Normal(0, 1, seed=2), RowAdagrad(RATE, epsilon=1e-6))
WHOLE = FlatLayout((TensorSpec("w", (2 * DIM,)),))
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def clipping(maximum: float, **settings: object) -> stores_pb2.CreateStoreRequest:
    request = create_request(learning_rate=RATE, **settings)  # type: ignore[arg-type]  # named by each test
    request.optimizer.maximum_gradient_norm = maximum
    return request


def batch(step: int) -> Batch:
    """Keys of both tables and targets; some steps are far off, to be clipped, others are not."""
    generator = torch.Generator().manual_seed(step)
    words, places = (torch.randint(0, KEYS, (10,), generator=generator) for _ in range(2))
    return words, places, torch.randn(10, generator=generator) * (0.1 if step % 2 else 10)


def loss_of(
    words: torch.Tensor, places: torch.Tensor, w: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    return ((torch.cat([words, places], dim=1) @ w) - targets).square().mean()


@pytest.fixture
def three() -> Iterator[list[ParameterServer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(parameter_server()) for _ in range(3)]


def work(servers: list[ParameterServer], worker: int, part: slice) -> tuple[Floats, Floats, Floats]:
    """Train with a part of each batch; return the dense values and the rows of both tables."""
    channels = [server.channel for server in servers]
    with (
        ShardedStore(channels, NAME, epoch=1, worker=worker, timeout_s=30) as store,
        ShardedTables(channels, NAME, epoch=1, worker=worker, timeout_s=30) as tables,
    ):
        store.initialize(
            WHOLE, np.ones(2 * DIM, np.float32), [table_to_proto(each) for each in (WORDS, PLACES)]
        )
        words, places = (
            EmbeddingTable(each.name, DIM, optimizer=each.optimizer).use(tables) for each in (WORDS, PLACES)
        )
        values = store.pull().values
        for step in range(STEPS):
            first, second, targets = (each[part] for each in batch(step))
            w = torch.from_numpy(values.copy()).requires_grad_()
            loss_of(words(first), places(second), w, targets).backward()  # type: ignore[no-untyped-call]  # torch does not type it
            for layer in (words, places):
                layer.push(samples=len(targets))
            assert w.grad is not None
            pulled = store.push_pull(step, w.grad.numpy(), len(targets))
            assert pulled.next_step == step + 1
            values = pulled.values
        rows = [tables.pull_rows(each.name, range(KEYS), step=STEPS).values for each in (WORDS, PLACES)]
        return values, rows[0], rows[1]


def by_torch(maximum: float) -> tuple[list[torch.Tensor], list[bool]]:
    """Return what one process with whole batches and ordinary embeddings ends with, and which steps were clipped."""
    embeddings = [
        torch.nn.Embedding.from_pretrained(  # type: ignore[no-untyped-call]  # torch does not type it
            torch.from_numpy(first_rows(each.initializer, each.name, np.arange(KEYS, dtype=np.uint64), DIM)),
            freeze=False,
            sparse=False,
        )
        for each in (WORDS, PLACES)
    ]
    w = torch.nn.Parameter(torch.ones(2 * DIM))
    parameters = [w, *(embedding.weight for embedding in embeddings)]
    optimizers = [
        torch.optim.SGD(parameters[:2], lr=RATE),
        torch.optim.Adagrad(parameters[2:], lr=RATE, eps=1e-6),
    ]
    clipped = []
    for step in range(STEPS):
        words, places, targets = batch(step)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss_of(embeddings[0](words), embeddings[1](places), w, targets).backward()  # type: ignore[no-untyped-call]  # torch does not type it
        clipped.append(torch.nn.utils.clip_grad_norm_(parameters, maximum).item() > maximum)
        for optimizer in optimizers:
            optimizer.step()
    return [parameter.detach() for parameter in parameters], clipped


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_two_workers_clip_dense_values_and_embeddings_as_torch_does_in_one_process(
    three: list[ParameterServer], shards: int
) -> None:
    maximum = 8.0
    expected, clipped = by_torch(maximum)
    assert {True, False} == set(clipped), "the test is to have steps of both kinds"
    servers = three[:shards]
    for index, server in enumerate(servers):
        server.stores.create(clipping(maximum, shard_index=index, shard_count=shards, worker_count=2))

    with ThreadPoolExecutor() as threads:
        found, same = threads.map(work, [servers, servers], (0, 1), (slice(0, 6), slice(6, 10)))

    for ours, theirs, torchs in zip(found, same, expected, strict=True):
        assert np.array_equal(ours, theirs)
        np.testing.assert_allclose(ours, torchs.numpy(), rtol=1e-6, atol=1e-6)


def ready(
    servers: list[ParameterServer], connect: Connect, workers: int = 1, *, maximum: float = 1.0
) -> list[ShardedStore]:
    for index, server in enumerate(servers):
        request = clipping(maximum, shard_index=index, shard_count=len(servers), worker_count=workers)
        request.tables.extend([USERS, ITEMS])
        server.stores.create(request)
    stores = [connect(*servers, worker=worker) for worker in range(workers)]
    stores[0].initialize(LAYOUT, flat(0))
    return stores


def push_rows(tables: ShardedTables, step: int) -> None:
    tables.push_rows("users", step, range(20), ones(20), samples=1)
    tables.push_rows("items", step, range(20), ones(20, 2), samples=1)


def test_rows_that_come_after_the_dense_gradient_complete_the_step(
    server: ParameterServer, connect: Connect, open_tables: Tables
) -> None:
    (store,) = ready([server], connect)
    tables = open_tables(server)

    store.push(0, flat(1), samples=1)
    assert store.pull().version == 0
    push_rows(tables, 0)

    assert store.pull(step=1).version == 1
    norm = np.sqrt(LAYOUT.size + 20 * 3 + 20 * 2)
    np.testing.assert_allclose(store.pull().values, flat(-RATE / norm), rtol=1e-5)
    np.testing.assert_allclose(tables.pull_rows("items", [3], step=1).values, -1 / norm, rtol=1e-5)


def test_a_worker_that_dies_between_rows_and_norms_stops_nobody(
    servers: list[ParameterServer], connect: Connect, open_tables: Tables
) -> None:
    first, second = ready(servers, connect, workers=2)
    for worker in range(2):
        push_rows(open_tables(*servers, worker=worker), 0)
    first.push(0, flat(1), samples=1)  # and never comes back

    pulled = second.push_pull(0, flat(1), samples=1)

    norm = np.sqrt(LAYOUT.size + 20 * 3 + 20 * 2)
    np.testing.assert_allclose(pulled.values, flat(-RATE / norm), rtol=1e-5)
    assert {table.version for server in servers for table in server.stores.get(NAME).tables} == {1}


def test_a_push_of_rows_that_is_repeated_while_its_step_waits_counts_once(
    server: ParameterServer, connect: Connect, open_tables: Tables
) -> None:
    (store,) = ready([server], connect, maximum=1000)
    tables = open_tables(server)
    for _ in range(3):
        push_rows(tables, 0)

    store.push_pull(0, flat(1), samples=1)

    assert (tables.pull_rows("items", [3], step=1).values == -1).all()


def test_who_waits_for_a_step_of_which_something_is_missing_hears_what(
    server: ParameterServer, connect: Connect, open_tables: Tables
) -> None:
    (store,) = ready([server], connect)
    store.push(0, flat(1), samples=1)
    with pytest.raises(DeadlineExceeded, match="each worker pushes to each table"):
        connect(server, timeout_s=IMPATIENT_S).pull(step=1)

    tables = open_tables(server, timeout_s=IMPATIENT_S)
    tables.push_rows("users", 0, [1], ones(1), samples=1)
    with pytest.raises(DeadlineExceeded, match="waits to be clipped"):
        tables.pull_rows("users", [1], step=1)


def test_a_push_for_whose_rows_there_is_no_room_is_refused_and_the_step_goes_on_without_it(
    server: ParameterServer, connect: Connect, open_tables: Tables
) -> None:
    """Room is made when the step is complete, so that it can be applied when the norm is known."""
    (store,) = ready([server], connect)
    tables = open_tables(server)
    with pytest.raises(QuotaExceeded):
        tables.push_rows("users", 0, range(40_000), ones(40_000), samples=1)

    push_rows(tables, 0)

    assert store.push_pull(0, flat(1), samples=1).version == 1
    assert server.stores.get(NAME).tables[0].rows == 20


def test_a_push_of_a_part_is_refused_where_rows_are_clipped_with_it(
    server: ParameterServer, connect: Connect, open_tables: Tables
) -> None:
    (store,) = ready([server], connect)
    with pytest.raises(FailedPrecondition, match="covers all values"):
        store.push(0, flat(1)[:1], samples=1, names=["bias"])
