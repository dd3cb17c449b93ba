"""Fixtures: parameter processes served in this one, and clients of theirs."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from headrace.parameters.client import ShardedStore
from headrace.parameters.tables import ShardedTables
from tests.services.parameters.parameter_server import (
    LAYOUT,
    NAME,
    FolderOfArtifacts,
    ParameterServer,
    create_request,
    flat,
    parameter_server,
)
from tests.services.parameters.parameter_tables import Tables
from tests.services.parameters.replica_pair import Processes


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ParameterServer]:
    with parameter_server(FolderOfArtifacts(tmp_path)) as served:
        yield served


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[ParameterServer]]:
    """Two processes."""
    with ExitStack() as stack:
        yield [stack.enter_context(parameter_server(FolderOfArtifacts(tmp_path))) for _ in range(2)]


Connect = Callable[..., ShardedStore]


@pytest.fixture(params=["shared memory", "stream"])
def transport(request: pytest.FixtureRequest) -> str:
    """How values travel; whatever uses it, by `connect` too, holds for both ways."""
    return str(request.param)


@pytest.fixture
def connect(transport: str) -> Connect:
    """Open clients of a store on some servers, closed before the last of these."""

    def open_store(
        *servers: ParameterServer, epoch: int = 1, worker: int = 0, timeout_s: float = 10.0
    ) -> ShardedStore:
        return servers[-1].clients.enter_context(
            ShardedStore(
                [server.channel.address for server in servers],
                NAME,
                epoch=epoch,
                worker=worker,
                timeout_s=timeout_s,
                shared_memory=transport == "shared memory",
            )
        )

    return open_store


def ready_store(server: ParameterServer, connect: Connect, **request: object) -> ShardedStore:
    """Make a store of one shard with zeros in it."""
    server.stores.create(create_request(**request))  # type: ignore[arg-type]  # named by each test
    store = connect(server)
    store.initialize(LAYOUT, flat(0))
    return store


@pytest.fixture
def open_tables(transport: str) -> Iterator[Tables]:
    with ExitStack() as stack:

        def open_all(
            *servers: ParameterServer, epoch: int = 1, worker: int = 0, timeout_s: float = 10
        ) -> ShardedTables:
            tables = ShardedTables(
                [server.channel for server in servers],
                NAME,
                epoch=epoch,
                worker=worker,
                timeout_s=timeout_s,
                shared_memory=transport == "shared memory",
            )
            return stack.enter_context(tables)

        yield open_all


@pytest.fixture(params=[True, False], ids=["shared memory", "stream"])
def share(request: pytest.FixtureRequest) -> bool:
    """Whether records reach the replica through memory."""
    return bool(request.param)


@pytest.fixture
def processes(share: bool) -> Iterator[Processes]:
    with ExitStack() as stack:
        yield Processes(stack, share=share)
