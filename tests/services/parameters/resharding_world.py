"""Stores whose shards join and leave, in tests."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from headrace.errors import Aborted
from headrace.parameters.client import ShardedStore, StoresClient
from headrace.parameters.layout import FlatLayout, Floats, TensorSpec
from headrace.parameters.v1 import stores_pb2
from headrace.parameters.v1.resharding_pb2 import ReshardResponse
from tests.services.parameters.parameter_server import NAME, ParameterServer, create_request

SIZE = 9001  # more than there are blocks, and no multiple of their number
LAYOUT = FlatLayout((TensorSpec("w", (SIZE,)),))


def create(
    servers: Sequence[ParameterServer], optimizer: stores_pb2.Optimizer | None = None, **settings: Any
) -> None:
    for index, server in enumerate(servers):
        request = create_request(shard_index=index, shard_count=len(servers), **settings)
        if optimizer:
            request.optimizer.CopyFrom(optimizer)
        server.stores.create(request)


def adamw(clip: float = 0) -> stores_pb2.Optimizer:
    settings = stores_pb2.AdamW(learning_rate=0.01, weight_decay=0.1)
    return stores_pb2.Optimizer(adamw=settings, maximum_gradient_norm=clip)


def address_of(server: ParameterServer | str) -> str:
    return server if isinstance(server, str) else server.channel.address


def reshard(
    server: ParameterServer | str,
    *,
    shards: Sequence[ParameterServer | str],
    add: Sequence[ParameterServer | str] = (),
    remove: Sequence[ParameterServer | str] = (),
    map_epoch: int = 1,
    timeout_s: float = 20,
) -> ReshardResponse:
    with StoresClient(address_of(server), timeout_s=timeout_s) as stores:
        return stores.reshard(
            NAME,
            epoch=1,
            map_epoch=map_epoch,
            shards=list(map(address_of, shards)),
            add=list(map(address_of, add)),
            remove=list(map(address_of, remove)),
        )


def reshard_when_free(server: ParameterServer | str, **change: Any) -> ReshardResponse:
    """Reshard once the shards have heard that the one before came to nothing."""
    pause = threading.Event()
    for _ in range(1200):
        try:
            return reshard(server, **change)
        except Aborted:
            pause.wait(0.05)
    raise AssertionError("the store was not let go within a minute")


@contextmanager
def worker_of(
    servers: Sequence[ParameterServer | str], worker: int = 0, *, shared_memory: bool = True
) -> Iterator[ShardedStore]:
    channels = [server if isinstance(server, str) else server.channel for server in servers]
    with ShardedStore(
        channels, NAME, epoch=1, worker=worker, timeout_s=30, shared_memory=shared_memory
    ) as store:
        yield store


def start() -> Floats:
    return np.linspace(-1, 1, SIZE, dtype=np.float32)


def gradient(worker: int, step: int) -> Floats:
    return np.random.default_rng([worker, step]).normal(size=SIZE).astype(np.float32)
