"""Clipping by the global norm, by real clients of two shards."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from headrace.errors import DeadlineExceeded, FailedPrecondition
from headrace.parameters.client import ShardedStore
from headrace.parameters.v1 import stores_pb2
from headrace_optimizers.config import Lamb
from headrace_optimizers.lamb import LambOptimizer
from tests.services.parameters.conftest import Connect
from tests.services.parameters.parameter_server import (
    IMPATIENT_S,
    LAYOUT,
    NAME,
    ParameterServer,
    create_request,
    flat,
)


def clipped_store(servers: list[ParameterServer], connect: Connect, workers: int) -> list[ShardedStore]:
    for index, server in enumerate(servers):
        request = create_request(
            shard_index=index, shard_count=len(servers), worker_count=workers, learning_rate=1
        )
        request.optimizer.maximum_gradient_norm = 1.0
        assert server.stores.create(request).optimizer.maximum_gradient_norm == 1.0
    stores = [connect(*servers, worker=worker) for worker in range(workers)]
    for store in stores:
        store.initialize(LAYOUT, flat(0))
    return stores


@pytest.mark.parametrize("shards", [1, 2])
def test_two_workers_clip_as_one_process_does(
    servers: list[ParameterServer], connect: Connect, shards: int
) -> None:
    stores = clipped_store(servers[:shards], connect, workers=2)
    parameter = torch.nn.Parameter(torch.zeros(LAYOUT.size))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    generator = np.random.default_rng(0)

    values = flat()
    for step in range(6):
        scale = 0.1 if step % 2 else 3.0  # not to be clipped; to be clipped
        gradients = generator.normal(0, scale, size=(2, LAYOUT.size)).astype(np.float32)
        with ThreadPoolExecutor(2) as threads:
            futures = [
                threads.submit(store.push_pull, step, part, 1)
                for store, part in zip(stores, gradients, strict=True)
            ]
        answers = [future.result() for future in futures]
        assert [answer.next_step for answer in answers] == [step + 1, step + 1]
        assert np.array_equal(answers[0].values, answers[1].values)
        values = answers[0].values
        parameter.grad = torch.from_numpy(gradients.mean(0))
        torch.nn.utils.clip_grad_norm_([parameter], 1.0)
        optimizer.step()

    np.testing.assert_allclose(values, parameter.detach().numpy(), rtol=1e-6, atol=1e-6)


def test_a_worker_that_dies_half_way_stops_nobody(servers: list[ParameterServer], connect: Connect) -> None:
    first, second = clipped_store(servers, connect, workers=2)
    first.push(0, flat(1), samples=1)  # and never comes back

    pulled = second.push_pull(0, flat(1), samples=1)

    np.testing.assert_allclose(pulled.values, flat(-1 / np.sqrt(LAYOUT.size)), rtol=1e-5)


def test_who_pulls_before_the_norms_are_told_hears_so(
    servers: list[ParameterServer], connect: Connect
) -> None:
    (store,) = clipped_store(servers, connect, workers=1)
    store.push(0, flat(1), samples=1)

    with pytest.raises(DeadlineExceeded, match="step 0 waits for its norm: FinishStep"):
        connect(*servers, timeout_s=IMPATIENT_S).pull(step=1)

    store.finish_step(0)
    assert store.pull(step=1).version == 1


def test_a_norm_that_does_not_come_names_the_worker_that_is_missing(
    servers: list[ParameterServer], connect: Connect
) -> None:
    clipped_store(servers, connect, workers=2)
    impatient = connect(*servers, timeout_s=IMPATIENT_S)

    with pytest.raises(DeadlineExceeded, match=r"the pushes of workers \[1\] for step 0 are missing"):
        impatient.push_pull(0, flat(1), samples=1)


def test_a_store_without_clipping_has_no_norms(servers: list[ParameterServer], connect: Connect) -> None:
    servers[0].stores.create(create_request(name=NAME))
    store = connect(servers[0])
    store.initialize(LAYOUT, flat(0))

    with pytest.raises(FailedPrecondition, match="applies complete steps without norms"):
        store.finish_step(0)


@pytest.mark.parametrize("maximum", [0.0, 1.0])
def test_lamb_over_two_shards_is_lamb_on_the_whole_model(
    servers: list[ParameterServer], connect: Connect, maximum: float
) -> None:
    for index, server in enumerate(servers):
        request = create_request(shard_index=index, shard_count=2)
        request.optimizer.CopyFrom(
            stores_pb2.Optimizer(lamb=stores_pb2.Lamb(learning_rate=0.1), maximum_gradient_norm=maximum)
        )
        assert server.stores.create(request).optimizer.lamb.epsilon == pytest.approx(1e-6)
    store, alone = connect(*servers), LambOptimizer(Lamb(0.1), LAYOUT, [range(LAYOUT.size)])
    values = np.linspace(-1, 1, LAYOUT.size, dtype=np.float32)
    store.initialize(LAYOUT, values)

    for step in range(5):
        gradient = np.random.default_rng(step).normal(size=LAYOUT.size).astype(np.float32)
        weight = min(1.0, maximum / (float(np.linalg.norm(gradient)) + 1e-6)) if maximum else 1.0
        values = alone.apply(torch.from_numpy(values), [(torch.from_numpy(gradient), weight)]).numpy()
        pulled = store.push_pull(step, gradient, samples=1)
        assert (pulled.version, pulled.next_step) == (step + 1, step + 1)
        np.testing.assert_allclose(pulled.values, values, rtol=1e-6, atol=1e-6)
