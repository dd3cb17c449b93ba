"""Bounded staleness, backup workers, optimizers and schedules through a real server."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from headrace.errors import DeadlineExceeded, InvalidArgument, OutOfRange
from headrace.parameters.v1 import parameters_pb2, schedule_pb2, stores_pb2
from headrace.parameters.v1.parameters_pb2_grpc import ParametersStub
from tests.services.parameters.conftest import Connect, ready_store
from tests.services.parameters.parameter_server import (
    IMPATIENT_S,
    LAYOUT,
    NAME,
    ParameterServer,
    create_request,
    flat,
)

ASYNC, SSP = stores_pb2.CONSISTENCY_ASYNC, stores_pb2.CONSISTENCY_SSP


def test_under_bounded_staleness_the_fast_worker_waits_for_the_slow_one(
    server: ParameterServer, connect: Connect
) -> None:
    fast = ready_store(server, connect, worker_count=2, consistency=SSP, staleness_bound=1, learning_rate=1)
    slow = connect(server, worker=1)

    first = fast.push_pull(0, flat(1), samples=1)
    with ThreadPoolExecutor(1) as threads:
        second = threads.submit(fast.push_pull, 1, flat(1), 1)  # step 2 would be 2 ahead
        late = slow.push_pull(0, flat(10), samples=1)

    assert (first.version, first.staleness, first.next_step) == (1, 1, 1)
    assert first.values.tolist() == flat(-1).tolist()
    assert (second.result().staleness, second.result().next_step) == (1, 2)
    assert second.result().values.tolist() == flat(-12).tolist()
    assert late.staleness == 0


def test_a_push_beyond_the_bound_is_refused_and_told_what_to_do(
    server: ParameterServer, connect: Connect
) -> None:
    store = ready_store(server, connect, worker_count=2, consistency=SSP, staleness_bound=1)

    assert store.push(1, flat(1), samples=1) == 1
    with pytest.raises(
        OutOfRange, match="more than 1 ahead of the slowest worker's, 0; pull with step 2"
    ) as far:
        store.push(2, flat(1), samples=1)

    assert far.value.metadata == {"slowest_step": "0", "staleness_bound": "1"}
    assert store.pull().version == 1


def test_a_pull_for_a_step_waits_until_the_bound_allows_it(server: ParameterServer, connect: Connect) -> None:
    store = ready_store(server, connect, worker_count=3, consistency=SSP, staleness_bound=1)
    store.push(0, flat(1), samples=1)
    impatient = connect(server, timeout_s=IMPATIENT_S)
    impatient.pull(step=1)

    with pytest.raises(DeadlineExceeded, match=r"workers \[1, 2\] for step 0 are missing") as late:
        impatient.pull(step=2)

    assert late.value.metadata == {"version": "1", "missing_workers": "1,2"}


def test_a_late_gradient_of_a_backup_worker_is_answered_as_a_duplicate_and_counts_nowhere(
    server: ParameterServer, connect: Connect
) -> None:
    quick = ready_store(server, connect, worker_count=2, backup_workers=1, learning_rate=1)
    for step in range(3):
        quick.push_pull(step, flat(1), samples=1)

    push = parameters_pb2.PushPullRequest(
        store=NAME,
        header=parameters_pb2.PushHeader(worker=1, epoch=1, step=0, samples=1),
        chunk=parameters_pb2.Chunk(values=flat(100).tobytes()),
    )
    answer = next(ParametersStub(server.channel).PushPull(iter([push]), timeout=10))

    assert answer.duplicate
    assert (answer.version, answer.next_step, answer.staleness) == (3, 3, 1)
    assert np.frombuffer(answer.chunk.values, "<f4").tolist() == flat(-3).tolist()
    assert quick.pull(step=3).staleness == 3, "nothing of worker 1 is in the values"
    assert server.counted("duplicates_total") == 1


def test_asynchronous_pulls_say_how_far_behind_the_slowest_worker_is(
    server: ParameterServer, connect: Connect
) -> None:
    store = ready_store(server, connect, worker_count=2, consistency=ASYNC)

    pulled = [store.push_pull(step, flat(1), samples=1).staleness for step in range(3)]

    assert pulled == [1, 2, 3]
    assert store.pull().staleness == 3
    assert store.pull(step=7).staleness == 7
    label = {"consistency": "async"}
    total = server.metrics.get_sample_value("headrace_parameters_staleness_steps_sum", label)
    assert total == 1 + 2 + 3 + 3 + 7


def test_a_bulk_synchronous_pull_is_never_stale(server: ParameterServer, connect: Connect) -> None:
    store = ready_store(server, connect)

    assert [store.push_pull(step, flat(1), samples=1).staleness for step in range(3)] == [0, 0, 0]
    assert store.pull().staleness == 0


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"staleness_bound": 1}, "staleness_bound"),
        ({"backup_workers": 1}, "backup_workers"),
        ({"consistency": ASYNC, "backup_workers": 1, "worker_count": 2}, "backup_workers"),
        ({"optimizer": {"sgd": {"learning_rate": 1, "nesterov": True}}}, "optimizer.sgd.nesterov"),
        ({"optimizer": {"schedule": {"decay": 7}}}, "optimizer.schedule.decay"),
        ({"optimizer": {"schedule": {"decay": 2}}}, "optimizer.schedule.decay_steps"),
    ],
)
def test_rules_that_do_not_go_together_are_refused(
    server: ParameterServer, change: dict[str, object], field: str
) -> None:
    request = create_request()
    request.MergeFrom(stores_pb2.CreateStoreRequest(**change))  # type: ignore[arg-type]  # fields by name

    with pytest.raises(InvalidArgument) as refused:
        server.stores.create(request)

    assert refused.value.field == field


OPTIMIZERS = {
    "sgd": stores_pb2.Optimizer(sgd=stores_pb2.Sgd(learning_rate=0.1, momentum=0.9, nesterov=True)),
    "adam": stores_pb2.Optimizer(adam=stores_pb2.Adam(learning_rate=0.1)),
    "adagrad": stores_pb2.Optimizer(adagrad=stores_pb2.Adagrad(learning_rate=0.1)),
}
TORCH: dict[str, Callable[[torch.nn.Parameter], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD([p], 0.1, 0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam([p], 0.1),
    "adagrad": lambda p: torch.optim.Adagrad([p], 0.1),
}


@pytest.mark.parametrize("kind", list(OPTIMIZERS))
def test_a_scheduled_optimizer_over_two_shards_is_what_torch_does(
    servers: list[ParameterServer], connect: Connect, kind: str
) -> None:
    schedule = schedule_pb2.Schedule(decay=schedule_pb2.DECAY_LINEAR, decay_steps=5, floor=0.2)
    for index, server in enumerate(servers):
        request = create_request(shard_index=index, shard_count=2)
        request.optimizer.CopyFrom(OPTIMIZERS[kind])
        request.optimizer.schedule.CopyFrom(schedule)
        made = server.stores.create(request)
        assert made.optimizer.schedule == schedule
    store = connect(*servers)
    store.initialize(LAYOUT, flat(1))
    parameter = torch.nn.Parameter(torch.ones(LAYOUT.size))
    optimizer = TORCH[kind](parameter)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, end_factor=0.2, total_iters=5)

    values = flat()
    for step in range(8):
        gradient = np.random.default_rng(step).normal(size=LAYOUT.size).astype(np.float32)
        store.push_pull(step, gradient, samples=1, out=values)
        parameter.grad = torch.from_numpy(gradient)
        optimizer.step()
        scheduler.step()

    np.testing.assert_allclose(values, parameter.detach().numpy(), rtol=1e-6, atol=1e-6)
