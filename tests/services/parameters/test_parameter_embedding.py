"""A small factorisation model whose rows live in tables, trained by two workers, against torch in one process."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import numpy as np
import torch

from headrace.parameters.tables import ShardedTables
from headrace.parameters.v1 import stores_pb2, tables_pb2
from headrace_optimizers.embedding import EmbeddingTable
from headrace_optimizers.row_config import RowAdagrad, RowSgd
from headrace_optimizers.row_initializer import Normal, first_rows
from headrace_optimizers.table_wire import table_to_proto
from tests.services.parameters.parameter_server import NAME, ParameterServer
from tests.services.parameters.parameter_tables import Tables, store_with_tables

PEOPLE, THINGS, DIM, RATE, STEPS = 30, 20, 4, 0.5, 60
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def layer(name: str) -> EmbeddingTable:
    optimizer = RowAdagrad(learning_rate=RATE, epsilon=1e-6)
    return EmbeddingTable(name, DIM, optimizer=optimizer, initializer=Normal(0, 0.5, seed=1))


def table(name: str) -> tables_pb2.Table:
    return table_to_proto(layer(name).config)


def batches() -> list[Batch]:
    """Ratings of a matrix of rank 2, 32 of them in each step."""
    generator = np.random.default_rng(0)
    ratings = generator.normal(size=(PEOPLE, 2)) @ generator.normal(size=(2, THINGS))
    drawn = []
    for _ in range(STEPS):
        people, things = generator.integers(0, PEOPLE, 32), generator.integers(0, THINGS, 32)
        values = torch.tensor(ratings[people, things], dtype=torch.float32)
        drawn.append((torch.from_numpy(people), torch.from_numpy(things), values))
    return drawn


def loss_of(people: torch.Tensor, things: torch.Tensor, ratings: torch.Tensor) -> torch.Tensor:
    return ((people * things).sum(dim=1) - ratings).square().mean()


def work(tables: ShardedTables, part: slice) -> list[float]:
    """Train with a part of each batch; return the losses."""
    people, things = (layer(name).use(tables) for name in ("people", "things"))
    losses = []
    for chosen, others, ratings in batches():
        loss = loss_of(people(chosen[part]), things(others[part]), ratings[part])
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
        people.push(samples=len(ratings[part]))
        things.push(samples=len(ratings[part]))
        losses.append(loss.item())
    return losses


def trained_by_torch() -> tuple[torch.Tensor, torch.Tensor]:
    first = Normal(0, 0.5, seed=1)
    rows = [
        torch.nn.Parameter(torch.from_numpy(first_rows(first, name, np.arange(count, dtype=np.uint64), DIM)))
        for name, count in (("people", PEOPLE), ("things", THINGS))
    ]
    optimizer = torch.optim.Adagrad(rows, lr=RATE, eps=1e-6)
    for chosen, others, ratings in batches():
        optimizer.zero_grad()
        loss = loss_of(rows[0][chosen], rows[1][others], ratings)
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
        optimizer.step()
    return rows[0].detach(), rows[1].detach()


def test_two_workers_with_tables_on_two_shards_learn_what_one_process_learns(
    servers: list[ParameterServer], open_tables: Tables
) -> None:
    for index, server in enumerate(servers):
        request = store_with_tables(
            table("people"), table("things"), worker_count=2, shard_index=index, shard_count=2
        )
        server.stores.create(request)
    first, second = open_tables(*servers, worker=0), open_tables(*servers, worker=1)

    with ThreadPoolExecutor() as threads:
        losses, _ = threads.map(work, (first, second), (slice(0, 20), slice(20, 32)))

    for name, rows in zip(("people", "things"), trained_by_torch(), strict=True):
        ours = first.pull_rows(name, range(len(rows))).values
        assert np.allclose(ours, rows.numpy(), rtol=1e-4, atol=1e-4)
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) / 10


def test_micro_batches_make_one_step_and_a_key_in_several_of_them_gets_the_sum(
    server: ParameterServer, open_tables: Tables
) -> None:
    server.stores.create(store_with_tables(consistency=stores_pb2.CONSISTENCY_BSP))
    layer = EmbeddingTable("items", 2, optimizer=RowSgd(1)).use(open_tables(server))

    rows = layer(torch.tensor([[3, 4], [3, 3]]))
    assert rows.shape == (2, 2, 2)
    (rows.sum() + layer(torch.tensor([4])).sum()).backward()
    assert layer.push(samples=1) == 1

    assert layer(torch.tensor([3, 4])).tolist() == [[-3, -3], [-2, -2]]


def test_rows_that_are_only_looked_at_are_not_pushed(server: ParameterServer, open_tables: Tables) -> None:
    server.stores.create(store_with_tables())
    layer = EmbeddingTable("items", 2, optimizer=RowSgd(1)).use(open_tables(server))

    with torch.no_grad():
        assert layer(torch.tensor([3])).tolist() == [[0, 0]]
    layer.push(samples=1)

    assert server.stores.get(NAME).tables[1].rows == 0


def test_a_compiled_model_leaves_the_calls_for_rows_out(server: ParameterServer, open_tables: Tables) -> None:
    server.stores.create(store_with_tables(consistency=stores_pb2.CONSISTENCY_BSP))
    layer = EmbeddingTable("items", 2, optimizer=RowSgd(1)).use(open_tables(server))
    graphs: list[int] = []

    def look_only(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable[..., object]:
        graphs.append(len(graph.graph.nodes))
        return cast("Callable[..., object]", graph.forward)

    def loss_of(keys: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = layer(keys * 2)
        return (rows * 3).sum()

    compiled = torch.compile(loss_of, backend=look_only)
    for step in range(2):
        compiled(torch.tensor([1, 2])).backward()  # type: ignore[no-untyped-call]  # torch does not type it
        assert layer.push(samples=1) == step + 1

    assert layer(torch.tensor([2, 4])).tolist() == [[-6, -6], [-6, -6]]
    assert len(graphs) >= 2, "what is before the rows, and what is after them"
    torch.compiler.reset()
