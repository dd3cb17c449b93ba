"""Filters through a real server, by streams: what a store says is done to its gradients and values."""

import numpy as np
import pytest

from headrace.errors import InvalidArgument, NonFiniteValues, ShapeMismatch
from headrace.parameters.client import ShardedStore
from headrace.parameters.layout import FlatLayout, Floats, TensorSpec
from headrace.parameters.v1 import compression_pb2, parameters_pb2
from headrace.parameters.v1.compression_pb2 import Compression
from headrace.parameters.v1.parameters_pb2_grpc import ParametersStub
from tests.services.parameters.parameter_server import NAME, ParameterServer, create_request

LAYOUT = FlatLayout((TensorSpec("w", (2000,)), TensorSpec("b", (71,))))
BF16 = Compression(gradient_encoding=compression_pb2.ENCODING_BFLOAT16)
FP16 = Compression(gradient_encoding=compression_pb2.ENCODING_FLOAT16)
INT8 = Compression(gradient_encoding=compression_pb2.ENCODING_INT8)
TOP_K = Compression(top_k=compression_pb2.TopK(density=0.05))
SIGNIFICANCE = Compression(significance=compression_pb2.Significance(threshold=1.5))
ALL = {"bf16": BF16, "fp16": FP16, "int8": INT8, "top-k": TOP_K, "significance": SIGNIFICANCE}
EVERY_FILTER = pytest.mark.parametrize("compression", ALL.values(), ids=ALL)


def open_store(
    servers: list[ParameterServer],
    compression: Compression,
    shared_memory: bool = False,
    rate: float = 1.0,
) -> ShardedStore:
    for index, server in enumerate(servers):
        request = create_request(shard_index=index, shard_count=len(servers), learning_rate=rate)
        request.compression.CopyFrom(compression)
        assert server.stores.create(request).compression == compression
    channels = [server.channel for server in servers]
    return ShardedStore(channels, NAME, epoch=1, worker=0, timeout_s=10, shared_memory=shared_memory)


def normal(seed: int) -> Floats:
    return np.random.default_rng(seed).normal(size=LAYOUT.size).astype(np.float32)


def zeros() -> Floats:
    return np.zeros(LAYOUT.size, np.float32)


@pytest.mark.parametrize(("compression", "bound"), [(BF16, 2**-8), (FP16, 2**-11), (INT8, 4 / 254)])
def test_gradients_arrive_in_fewer_bits(
    servers: list[ParameterServer], compression: Compression, bound: float
) -> None:
    with open_store(servers, compression) as store:
        store.initialize(LAYOUT, zeros())

        applied = -store.push_pull(0, normal(0), samples=1).values

    assert np.abs(applied - normal(0)).max() <= bound * np.abs(normal(0)).max()
    assert not np.array_equal(applied, normal(0))


@pytest.mark.parametrize("compression", [TOP_K, SIGNIFICANCE], ids=["top-k", "significance"])
def test_what_is_not_sent_now_is_sent_later(servers: list[ParameterServer], compression: Compression) -> None:
    """With plain SGD at rate 1 the values are the sum of what was sent."""
    with open_store(servers, compression) as store:
        store.initialize(LAYOUT, zeros())
        first = -store.push_pull(0, normal(0), samples=1).values
        assert 0 < np.count_nonzero(first) < LAYOUT.size / 4
        assert np.array_equal(first[first != 0], normal(0)[first != 0])
        sent, step = first, 1
        while step <= 1000 and np.count_nonzero(sent) < LAYOUT.size:
            sent, step = -store.push_pull(step, zeros(), samples=1).values, step + 1

    np.testing.assert_array_equal(sent, normal(0))


def test_values_come_in_fewer_bits_but_for_who_wants_them_exactly(servers: list[ParameterServer]) -> None:
    with open_store(servers, Compression(value_encoding=compression_pb2.ENCODING_INT8)) as store:
        store.initialize(LAYOUT, normal(0))
        before = sum(server.counted("sent_bytes_total") for server in servers)

        lossy = store.pull().values
        bytes_sent = sum(server.counted("sent_bytes_total") for server in servers) - before
        named = store.pull(names=["b"]).values

        assert 0 < np.abs(lossy - normal(0)).max() <= np.abs(normal(0)).max() / 254 * 1.0001
        assert np.abs(named - normal(0)[2000:]).max() <= np.abs(normal(0)).max() / 254 * 1.0001
        assert np.array_equal(store.pull(exact=True).values, normal(0))
        assert bytes_sent == LAYOUT.size + 4 * 2 * 5  # five blocks in each shard


def test_a_push_that_is_repeated_counts_once_and_keeps_nothing_twice(
    servers: list[ParameterServer],
) -> None:
    with open_store(servers, TOP_K) as store, open_store(servers, TOP_K) as other:
        store.initialize(LAYOUT, zeros())
        other.push(0, normal(0), samples=1)  # the same worker: the answer never came
        again = -store.push_pull(0, normal(0), samples=1).values
        second = -store.push_pull(1, zeros(), samples=1).values

    assert np.array_equal(second[again != 0], again[again != 0])
    newly = second - again
    assert np.array_equal(newly[newly != 0], normal(0)[newly != 0])


@EVERY_FILTER
def test_shared_memory_needs_no_filter(servers: list[ParameterServer], compression: Compression) -> None:
    with open_store(servers, compression, shared_memory=True) as store:
        store.initialize(LAYOUT, zeros())

        pulled = store.push_pull(0, normal(0), samples=1)

        assert store.transport == "shared memory"
    assert np.array_equal(pulled.values, -normal(0))


@EVERY_FILTER
def test_what_is_not_finite_is_refused_and_nothing_applied(
    servers: list[ParameterServer], compression: Compression
) -> None:
    bad = normal(0)
    bad[5] = np.nan
    with open_store(servers, compression) as store:
        store.initialize(LAYOUT, zeros())

        with pytest.raises(NonFiniteValues):
            store.push(0, bad, samples=1)

        assert store.pull().version == 0
        applied = store.push_pull(0, normal(1), samples=1).values  # and nothing of it was kept back
        assert np.isfinite(applied).all()


@EVERY_FILTER
def test_a_model_is_learned_as_well_as_without(
    servers: list[ParameterServer], compression: Compression
) -> None:
    """Linear regression, 2,071 weights; the loss with every filter comes to 1e-3 of what it was."""
    generator = np.random.default_rng(0)
    truth = generator.normal(size=LAYOUT.size).astype(np.float32)
    with open_store(servers, compression, rate=0.03) as store:
        store.initialize(LAYOUT, zeros())
        values = zeros()
        for step in range(300):
            noise = generator.normal(0, 0.01, LAYOUT.size).astype(np.float32)
            values = store.push_pull(step, values - truth + noise, samples=1).values

    assert np.square(values - truth).mean() <= 1e-3 * np.square(truth).mean()


@pytest.mark.parametrize(
    ("chunk", "error", "says"),
    [
        ({"encoding": 9, "count": 2071, "values": b"1234"}, InvalidArgument, "use ENCODING_FLOAT32"),
        ({"encoding": 4, "values": b"1234"}, InvalidArgument, "chunk.count is 0; it must be 1 to 1048576"),
        ({"encoding": 4, "count": 1 << 21, "values": b"1"}, InvalidArgument, "must be 1 to 1048576"),
        ({"encoding": 4, "count": 2071, "values": b"1234"}, ShapeMismatch, "INT8 have 2107 bytes; 4 were"),
        ({"encoding": 5, "count": 2071, "values": b"\1\0\0\0"}, ShapeMismatch, "1 sparse values of 2071"),
        ({"encoding": 1, "count": 3, "values": b"1234"}, ShapeMismatch, "3 values of float32"),
        ({"encoding": 2, "count": 2072, "values": bytes(4144)}, ShapeMismatch, "does not fit"),
    ],
)
def test_chunks_that_are_not_what_they_say_are_refused(
    server: ParameterServer, chunk: dict[str, object], error: type[Exception], says: str
) -> None:
    with open_store([server], INT8) as store:
        store.initialize(LAYOUT, zeros())
        header = parameters_pb2.PushHeader(epoch=1, samples=1)
        made = parameters_pb2.Chunk(**chunk)  # type: ignore[arg-type]  # one of the cases
        request = parameters_pb2.PushRequest(store=NAME, header=header, chunk=made)

        with pytest.raises(error, match=says):
            ParametersStub(server.channel).Push(iter([request]), timeout=10)

        assert store.pull().version == 0


@pytest.mark.parametrize(
    ("compression", "field"),
    [
        (Compression(top_k=compression_pb2.TopK(density=1.5)), "compression.top_k.density"),
        (
            Compression(significance=compression_pb2.Significance(threshold=-1)),
            "compression.significance.threshold",
        ),
        (Compression(gradient_encoding=compression_pb2.ENCODING_SPARSE), "compression.gradients"),
        (Compression(value_encoding=compression_pb2.ENCODING_SPARSE), "compression.values"),
    ],
)
def test_compression_that_cannot_be_is_refused(
    server: ParameterServer, compression: Compression, field: str
) -> None:
    request = create_request()
    request.compression.CopyFrom(compression)

    with pytest.raises(InvalidArgument) as refused:
        server.stores.create(request)

    assert refused.value.field == field


def test_a_pull_may_ask_for_another_encoding(server: ParameterServer) -> None:
    with open_store([server], Compression()) as store:
        store.initialize(LAYOUT, normal(0))
    stub = ParametersStub(server.channel)

    request = parameters_pb2.PullRequest(store=NAME, encoding=compression_pb2.ENCODING_BFLOAT16)
    (answer,) = stub.Pull(request, timeout=10)
    request.encoding = compression_pb2.ENCODING_SPARSE
    with pytest.raises(InvalidArgument, match="ENCODING_SPARSE, which is for gradients"):
        list(stub.Pull(request, timeout=10))

    assert (answer.chunk.encoding, answer.chunk.count) == (compression_pb2.ENCODING_BFLOAT16, LAYOUT.size)
    assert len(answer.chunk.values) == 2 * LAYOUT.size
