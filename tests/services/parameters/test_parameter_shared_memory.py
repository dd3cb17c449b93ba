"""What only shared memory can do, and what becomes of it when something goes wrong."""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headrace.errors import DeadlineExceeded, SharedMemoryUnavailable
from headrace.parameters.client import ShardedStore
from headrace.parameters.segments import MappedSegment, OwnSegment
from headrace.parameters.v1 import parameters_pb2, shared_memory_pb2, stores_pb2
from headrace.parameters.v1.shared_memory_pb2_grpc import SharedMemoryStub
from tests.services.parameters.parameter_server import (
    IMPATIENT_S,
    LAYOUT,
    NAME,
    ParameterServer,
    create_request,
    flat,
    parameter_server,
)


def _push(segment: shared_memory_pb2.Segment, sequence: int = 1) -> shared_memory_pb2.PushPullSharedRequest:
    return shared_memory_pb2.PushPullSharedRequest(
        store=NAME,
        header=parameters_pb2.PushHeader(worker=0, epoch=1, step=0, samples=1),
        gradient=shared_memory_pb2.SharedValues(segment=segment, sequence=sequence, count=LAYOUT.size),
    )


def _store(server: ParameterServer, *, shared_memory: bool = True) -> ShardedStore:
    server.stores.create(create_request())
    channels = [server.channel]
    store = ShardedStore(channels, NAME, epoch=1, worker=0, timeout_s=10, shared_memory=shared_memory)
    store.initialize(LAYOUT, flat())
    return store


@pytest.fixture
def segment() -> OwnSegment:
    """The gradient of ones of a worker."""
    segment = OwnSegment(LAYOUT.size)
    segment.view().fill(1)
    segment.sequence = 1
    return segment


def test_values_travel_through_memory_with_a_shard_of_this_machine(server: ParameterServer) -> None:
    with _store(server) as store:
        assert store.push_pull(0, flat(1), samples=1).values.tolist() == flat(-0.5).tolist()
        assert store.pull(names=["bias"]).values.tolist() == [-0.5]

        assert (store.transport, store.why_stream) == ("shared memory", "")


def test_what_a_store_says_of_its_values_comes_with_those_in_memory(server: ParameterServer) -> None:
    server.stores.create(
        create_request(worker_count=2, consistency=stores_pb2.CONSISTENCY_SSP, staleness_bound=1)
    )
    with ShardedStore([server.channel], NAME, epoch=1, worker=0, timeout_s=IMPATIENT_S) as store:
        store.initialize(LAYOUT, flat())
        pushed = store.push_pull(0, flat(1), samples=1)

        assert (pushed.version, pushed.staleness, pushed.next_step) == (1, 1, 1)
        assert store.pull(step=1).staleness == 1
        with pytest.raises(DeadlineExceeded, match=r"workers \[1\] for step 0 are missing"):
            store.pull(step=2)
        assert store.transport == "shared memory"
    assert (
        server.metrics.get_sample_value("headrace_parameters_staleness_steps_sum", {"consistency": "ssp"})
        == 2
    )


def test_a_gradient_may_be_computed_where_it_is_lent(server: ParameterServer) -> None:
    with _store(server) as store:
        gradient = store.gradient_memory(LAYOUT.size)
        gradient.fill(1)
        store.push_pull(0, gradient, samples=1)
        gradient.fill(3)
        pulled = store.push_pull(1, gradient, samples=1)

        assert pulled.values.tolist() == flat(-2).tolist()
    gradient.fill(7)  # still there


@pytest.mark.parametrize(
    ("server_shares", "client_shares", "why"),
    [(False, True, "HEADRACE_PARAMETERS_SHARED_MEMORY"), (True, False, "turned off")],
)
def test_either_side_can_turn_shared_memory_off(server_shares: bool, client_shares: bool, why: str) -> None:
    with (
        parameter_server(shared_memory=server_shares) as server,
        _store(server, shared_memory=client_shares) as store,
    ):
        assert store.push_pull(0, flat(1), samples=1).version == 1

        assert store.transport == "stream"
        assert why in store.why_stream


def _no_such_process(segment: shared_memory_pb2.Segment) -> None:
    segment.pid = 2**22 + 1  # above every pid Linux gives


def _no_process_at_all(segment: shared_memory_pb2.Segment) -> None:
    segment.pid = 2**32 - 1


def _closed_file(segment: shared_memory_pb2.Segment) -> None:
    segment.fd = 2**31


def _other_file(segment: shared_memory_pb2.Segment) -> None:
    segment.fd = 0


def _other_nonce(segment: shared_memory_pb2.Segment) -> None:
    segment.nonce = bytes(16)


def _no_nonce(segment: shared_memory_pb2.Segment) -> None:
    segment.nonce = b""


def _other_size(segment: shared_memory_pb2.Segment) -> None:
    segment.capacity += 1


def _huge(segment: shared_memory_pb2.Segment) -> None:
    segment.capacity = 2**64 - 1


CORRUPTIONS = [
    _no_such_process,
    _no_process_at_all,
    _closed_file,
    _other_file,
    _other_nonce,
    _no_nonce,
    _other_size,
    _huge,
]


@pytest.mark.parametrize("corrupt", CORRUPTIONS)
def test_a_segment_that_cannot_be_proven_is_refused_and_nothing_applied(
    server: ParameterServer, segment: OwnSegment, corrupt: Callable[[shared_memory_pb2.Segment], None]
) -> None:
    with _store(server):
        described = segment.describe()
        corrupt(described)

        with pytest.raises(SharedMemoryUnavailable):
            SharedMemoryStub(server.channel).PushPullShared(_push(described), timeout=10)

        assert server.stores.get(NAME).version == 0
        assert server.gradients is not None
        assert server.gradients.count == 0


def test_memory_that_its_owner_could_shrink_is_refused() -> None:
    """Its readers would be killed by SIGBUS."""
    fd = os.memfd_create("headrace", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 8192)

    with pytest.raises(SharedMemoryUnavailable, match="not sealed"):
        MappedSegment(shared_memory_pb2.Segment(pid=os.getpid(), fd=fd, nonce=bytes(16), capacity=1024))
    os.close(fd)


def test_nobody_but_its_owner_can_write_or_shrink_a_segment(segment: OwnSegment) -> None:
    path = Path(f"/proc/{os.getpid()}/fd/{segment.describe().fd}")
    mapped = MappedSegment(segment.describe())

    with path.open("r+b", buffering=0) as file:
        with pytest.raises(PermissionError):
            file.write(b"x")
        with pytest.raises(PermissionError):
            file.truncate(0)
    with pytest.raises(ValueError, match="read-only"):
        mapped.values[0] = 2
    segment.view()[0] = 5
    assert mapped.values[0] == 5


def test_a_gradient_withdrawn_while_it_is_read_is_not_applied(
    server: ParameterServer, segment: OwnSegment
) -> None:
    with _store(server), pytest.raises(Exception, match="took the gradient back"):
        SharedMemoryStub(server.channel).PushPullShared(_push(segment.describe(), sequence=2), timeout=10)

    assert server.stores.get(NAME).version == 0


def test_a_range_outside_of_the_segment_is_refused(server: ParameterServer, segment: OwnSegment) -> None:
    request = _push(segment.describe())
    request.gradient.offset = 1

    with _store(server), pytest.raises(Exception, match="do not lie in a segment"):
        SharedMemoryStub(server.channel).PushPullShared(request, timeout=10)


def test_values_overwritten_while_they_are_copied_are_noticed(server: ParameterServer) -> None:
    """The segment of version 0 is written again for version 1."""
    request = shared_memory_pb2.PullSharedRequest(store=NAME, epoch=1)
    with _store(server) as store:
        first = SharedMemoryStub(server.channel).PullShared(request, timeout=10).values
        mapped = MappedSegment(first.segment)
        assert mapped.is_current(first)
        assert mapped.part(first).tolist() == flat().tolist()

        store.push_pull(0, flat(1), samples=1)

        assert not mapped.is_current(first)


def test_a_closed_client_leaves_nothing_mapped(server: ParameterServer) -> None:
    assert server.gradients is not None
    with _store(server) as store:
        store.push(0, flat(1), samples=1)
        assert server.gradients.count == 1

    assert server.gradients.count == 0


def test_the_gradients_of_a_deleted_store_are_let_go(server: ParameterServer) -> None:
    assert server.gradients is not None
    with _store(server) as store:
        store.push(0, flat(1), samples=1)
        server.gradients.sweep()
        assert server.gradients.count == 1

        server.stores.delete(NAME)
        server.gradients.sweep()

        assert server.gradients.count == 0


def test_workers_are_noticed_to_be_gone_however_many_files_the_process_has_open(
    server: ParameterServer,
) -> None:
    assert server.gradients is not None
    with many_open_files(), _store(server) as store:
        store.push(0, flat(1), samples=1)
        server.gradients.sweep()
        assert server.gradients.count == 1


@contextmanager
def many_open_files() -> Iterator[None]:
    """Let every further descriptor be above 1023, beyond which select(2) looks at nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    taken: list[int] = []
    try:
        while not taken or taken[-1] < 1024:
            taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for each in taken:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
