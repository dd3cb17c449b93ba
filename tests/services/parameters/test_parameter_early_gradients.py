"""Gradients that travel while they are computed count as those that go whole, once, or not at all."""

from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
import pytest

from headrace.errors import Cancelled, NonFiniteValues
from headrace.parameters.client import ShardedStore
from headrace.parameters.early import Early
from headrace.parameters.layout import FlatLayout, Floats, TensorSpec
from headrace.parameters.v1 import compression_pb2
from headrace.parameters.v1.compression_pb2 import Compression
from headrace.parameters.wire import CHUNK_VALUES
from headrace.testing.patience import until
from tests.services.parameters.breaking_proxy import breaking_proxy
from tests.services.parameters.parameter_server import (
    NAME,
    ParameterServer,
    create_request,
    parameter_server,
)

SIZE = 5 * CHUNK_VALUES + 7  # chunks of both shards are cut anew in the midst of tensors
LAYOUT = FlatLayout((TensorSpec("w", (SIZE - 100,)), TensorSpec("b", (100,))))
PARTS = [range(at, min(SIZE, at + 150_000)) for at in range(0, SIZE, 150_000)]


def _servers(stack: ExitStack, count: int = 2) -> list[ParameterServer]:
    return [stack.enter_context(parameter_server(max_bytes=1 << 26)) for _ in range(count)]


def _open(
    stack: ExitStack,
    servers: Sequence[ParameterServer],
    name: str = NAME,
    compression: Compression | None = None,
    addresses: Sequence[str] = (),
    shared_memory: bool = False,
    **more: float,
) -> ShardedStore:
    for index, server in enumerate(servers):
        request = create_request(
            name=name, shard_index=index, shard_count=len(servers), learning_rate=1, momentum=0.5
        )
        if compression:
            request.compression.CopyFrom(compression)
        request.optimizer.maximum_gradient_norm = more.get("maximum_norm", 0)
        server.stores.create(request)
    where = addresses or [server.channel.address for server in servers]
    store = stack.enter_context(
        ShardedStore(where, name, epoch=1, worker=0, timeout_s=20, shared_memory=shared_memory)
    )
    store.initialize(LAYOUT, np.zeros(SIZE, np.float32))
    store.pull()
    return store


def _normal(seed: int) -> Floats:
    return np.random.default_rng(seed).normal(size=SIZE).astype(np.float32)


def _compute(early: Early | None, gradient: Floats, values: Floats, parts: Sequence[range]) -> None:
    """Compute a gradient as backward does, from the last values to the first."""
    assert early
    for part in reversed(parts):
        gradient[part.start : part.stop] = values[part.start : part.stop]
        early.ready(part)


@pytest.mark.parametrize("maximum_norm", [0, 3], ids=["unclipped", "clipped over both shards"])
@pytest.mark.parametrize("encoding", [0, *map(int, compression_pb2.Encoding.values()[2:5])])
def test_the_values_are_those_of_a_whole_gradient_to_the_bit(encoding: int, maximum_norm: float) -> None:
    compression = Compression(gradient_encoding=encoding) if encoding else None  # type: ignore[arg-type]  # an enum's number
    with ExitStack() as stack:
        servers = _servers(stack)
        whole, parts = (
            _open(stack, servers, f"{NAME}{name}", compression, maximum_norm=maximum_norm)
            for name in ("-a", "-b")
        )
        gradient = np.zeros(SIZE, np.float32)
        for step in range(3):
            early = parts.begin_push_pull(step, gradient, samples=1)
            _compute(early, gradient, _normal(step), PARTS)
            got = parts.push_pull(step, gradient, samples=1)
            expected = whole.push_pull(step, _normal(step), samples=1)

            np.testing.assert_array_equal(got.values, expected.values)
            assert got.version == step + 1
        assert sum(server.counted("duplicates_total") for server in servers) == 0


def test_a_part_that_nobody_called_ready_is_sent_in_the_end() -> None:
    with ExitStack() as stack:
        store = _open(stack, _servers(stack))
        gradient = np.zeros(SIZE, np.float32)
        early = store.begin_push_pull(0, gradient, samples=1)
        _compute(early, gradient, _normal(0), PARTS[3:])
        gradient[:] = _normal(0)

        values = store.push_pull(0, gradient, samples=1).values

    np.testing.assert_array_equal(values, -_normal(0))


def test_chunks_are_on_their_way_before_the_gradient_is_whole() -> None:
    with ExitStack() as stack:
        store = _open(stack, _servers(stack))
        gradient = np.zeros(SIZE, np.float32)
        early = store.begin_push_pull(0, gradient, samples=1)
        _compute(early, gradient, _normal(0), PARTS[1:])

        assert early
        until(lambda: early.share_sent > 0.5)
        assert early.share_sent < 1


def test_a_gradient_that_is_given_up_leaves_nothing_behind_and_its_step_can_be_pushed() -> None:
    with ExitStack() as stack:
        servers = _servers(stack)
        store = _open(stack, servers)
        gradient = np.zeros(SIZE, np.float32)
        early = store.begin_push_pull(0, gradient, samples=1)
        _compute(early, gradient, _normal(9), PARTS)
        assert early

        early.cancel()

        assert store.pull().version == 0
        values = store.push_pull(0, _normal(0), samples=1).values
        np.testing.assert_array_equal(values, -_normal(0))
        assert sum(server.counted("duplicates_total") for server in servers) == 0


def test_a_connection_lost_on_the_way_makes_the_whole_gradient_count_once() -> None:
    with ExitStack() as stack:
        servers = _servers(stack)
        proxy = stack.enter_context(
            breaking_proxy(servers[0].channel.address, requests=2 * SIZE + 5 * CHUNK_VALUES)
        )
        store = _open(stack, servers, addresses=[proxy.address, servers[1].channel.address])
        gradient = np.zeros(SIZE, np.float32)
        early = store.begin_push_pull(0, gradient, samples=1)
        _compute(early, gradient, _normal(0), PARTS)

        values = store.push_pull(0, gradient, samples=1).values

        assert proxy.broken.is_set()
    np.testing.assert_array_equal(values, -_normal(0))


@pytest.mark.parametrize("bad", [np.nan, 1e30])
def test_a_gradient_that_cannot_be_sent_is_refused_by_name_and_nothing_applied(bad: float) -> None:
    fp16 = Compression(gradient_encoding=compression_pb2.ENCODING_FLOAT16)
    with ExitStack() as stack:
        store = _open(stack, _servers(stack), compression=fp16)
        gradient, wrong = np.zeros(SIZE, np.float32), _normal(0)
        wrong[300_000] = bad
        early = store.begin_push_pull(0, gradient, samples=1)
        _compute(early, gradient, wrong, PARTS)

        with pytest.raises(NonFiniteValues):
            store.push_pull(0, gradient, samples=1)

        assert store.pull().version == 0


def test_closing_the_client_ends_what_is_on_its_way() -> None:
    with ExitStack() as stack:
        store = _open(stack, _servers(stack))
        gradient = np.zeros(SIZE, np.float32)
        store.begin_push_pull(0, gradient, samples=1)

        store.close()

        with pytest.raises(Cancelled):
            store.push_pull(0, gradient, samples=1)
        with pytest.raises(Cancelled):
            store.begin_push_pull(0, gradient, samples=1)


@pytest.mark.parametrize(
    "how",
    [
        {"shared_memory": True},
        {"compression": Compression(top_k=compression_pb2.TopK(density=0.1))},
    ],
    ids=["shared memory", "top-k"],
)
def test_what_needs_the_whole_gradient_goes_whole(how: dict[str, object]) -> None:
    with ExitStack() as stack:
        store = _open(stack, _servers(stack), **how)  # type: ignore[arg-type]  # one keyword of several

        assert store.begin_push_pull(0, np.zeros(SIZE, np.float32), samples=1) is None
