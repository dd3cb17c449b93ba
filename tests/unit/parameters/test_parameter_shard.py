from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import (
    FailedPrecondition,
    InvalidArgument,
    NonFiniteValues,
    ShapeMismatch,
    StaleEpoch,
)
from headrace.names import StoreName
from headrace.parameters.layout import FlatLayout, Floats, TensorSpec
from headrace_optimizers.config import Adagrad, Adam, AdamW, Optimizer, Sgd
from headrace_parameters.core.config import Consistency, StoreConfig
from headrace_parameters.core.exchange import MOST_SAMPLES
from headrace_parameters.core.shard import Push, Shard
from headrace_parameters.core.state import ShardState

PLAIN, MOMENTUM = Sgd(0.1), Sgd(0.1, momentum=0.9, weight_decay=0.01)
ADAMW = AdamW(0.01, beta1=0.8, beta2=0.95, epsilon=1e-7, weight_decay=0.1)
NESTEROV = Sgd(0.1, momentum=0.9, weight_decay=0.01, nesterov=True)
ADAM = Adam(0.01, beta1=0.8, beta2=0.95, epsilon=1e-7, weight_decay=0.1)
ADAGRAD = Adagrad(0.1, initial_accumulator=0.2, epsilon=1e-9, weight_decay=0.01)
OPTIMIZERS = [PLAIN, MOMENTUM, NESTEROV, ADAM, ADAMW, ADAGRAD, Adagrad(0.1)]


def config(optimizer: Optimizer = PLAIN, **changes: Any) -> StoreConfig:
    made = StoreConfig(
        name=StoreName("default", "run"),
        epoch=1,
        shard_index=0,
        shard_count=1,
        worker_count=1,
        consistency=Consistency.BSP,
        optimizer=optimizer,
    )
    return replace(made, **changes)


def shard_of(values: Floats, optimizer: Optimizer = PLAIN, **changes: Any) -> Shard:
    """Make a shard that holds its part of `values`."""
    layout = FlatLayout((TensorSpec("w", values.shape),))
    shard = Shard(config(optimizer, **changes))
    (held,) = shard.held(layout) or (range(0),)
    shard.initialize(layout, values[held.start : held.stop])
    return shard


def values_of(shard: Shard) -> Floats:
    assert shard.published
    return shard.published.values.copy()


def normal(size: int, seed: int) -> Floats:
    return np.random.default_rng(seed).normal(size=size).astype(np.float32)


def train(shards: Sequence[Shard], gradients: Sequence[Floats]) -> Floats:
    """Push each gradient in parts; return the whole vector."""
    for step, gradient in enumerate(gradients):
        parts = np.array_split(gradient, np.cumsum([values_of(shard).size for shard in shards[:-1]]))
        for shard, part in zip(shards, parts, strict=True):
            assert shard.push(Push(0, step, 1, part.copy()))
    return np.concatenate([values_of(shard) for shard in shards])


def _layout(shard: Shard) -> FlatLayout:
    assert shard.layout
    return shard.layout


def _torch_optimizer(optimizer: Optimizer, parameter: torch.nn.Parameter) -> torch.optim.Optimizer:
    if isinstance(optimizer, Sgd):
        return torch.optim.SGD(
            [parameter],
            optimizer.learning_rate,
            optimizer.momentum,
            weight_decay=optimizer.weight_decay,
            nesterov=optimizer.nesterov,
        )
    if isinstance(optimizer, Adagrad):
        return torch.optim.Adagrad(
            [parameter],
            optimizer.learning_rate,
            weight_decay=optimizer.weight_decay,
            initial_accumulator_value=optimizer.initial_accumulator,
            eps=optimizer.epsilon,
        )
    assert isinstance(optimizer, Adam | AdamW)
    kind = torch.optim.AdamW if isinstance(optimizer, AdamW) else torch.optim.Adam
    return kind(
        [parameter],
        optimizer.learning_rate,
        (optimizer.beta1, optimizer.beta2),
        optimizer.epsilon,
        optimizer.weight_decay,
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("shard_count", [1, 3])
def test_shards_do_what_torch_does_on_the_whole_vector(optimizer: Optimizer, shard_count: int) -> None:
    """Torch's plain loop, not its fused kernel, is the reference."""
    start, gradients = normal(1001, seed=0), [normal(1001, seed=step + 1) for step in range(20)]
    parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
    reference = _torch_optimizer(optimizer, parameter)
    for gradient in gradients:
        parameter.grad = torch.from_numpy(gradient.copy())
        reference.step()

    shards = [
        shard_of(start, optimizer, shard_index=index, shard_count=shard_count) for index in range(shard_count)
    ]
    values = train(shards, gradients)

    np.testing.assert_allclose(values, parameter.detach().numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@settings(max_examples=25, deadline=None)
@given(size=st.integers(1, 300), shard_count=st.integers(2, 7))
def test_any_number_of_shards_is_one_shard_to_the_last_bit(
    optimizer: Optimizer, size: int, shard_count: int
) -> None:
    start, gradients = normal(size, seed=size), [normal(size, seed=step) for step in range(4)]

    one = train([shard_of(start, optimizer)], gradients)
    many = [
        shard_of(start, optimizer, shard_index=index, shard_count=shard_count) for index in range(shard_count)
    ]

    assert np.array_equal(train(many, gradients), one)


def test_a_step_is_the_mean_weighted_by_samples_in_whatever_order_it_arrives() -> None:
    gradients, samples = [normal(50, seed=worker) for worker in range(3)], [10.0, 0.0, 30.0]
    orders = ([0, 1, 2], [2, 1, 0], [1, 2, 0])

    results = []
    for order in orders:
        shard = shard_of(np.zeros(50, np.float32), Sgd(1.0), worker_count=3)
        for worker in order:
            assert shard.push(Push(worker, 0, samples[worker], gradients[worker].copy()))
        results.append(values_of(shard))

    mean = np.average(np.array(gradients, np.float64), axis=0, weights=samples)
    np.testing.assert_allclose(results[0], -mean, rtol=1e-6, atol=1e-7)
    assert all(np.array_equal(result, results[0]) for result in results)


def test_gradients_of_as_many_samples_as_are_taken_count_as_they_should() -> None:
    shard = shard_of(np.zeros(3, np.float32), Sgd(1.0), worker_count=2)
    for worker, value in enumerate((1.0, 3.0)):
        shard.push(Push(worker, 0, MOST_SAMPLES, np.full(3, value, np.float32)))
    assert values_of(shard).tolist() == [-2, -2, -2]


@pytest.mark.parametrize("samples", [1e308, 2.0**53 + 2])
def test_more_samples_than_can_be_counted_are_refused(samples: float) -> None:
    """The sum of two such weights is infinite, and would weigh every gradient with 0."""
    with pytest.raises(InvalidArgument, match=r"it must be 0 to 2\*\*53"):
        Push(0, 0, samples, np.ones(3, np.float32))


def test_a_step_without_samples_only_advances_the_version() -> None:
    shard = shard_of(np.ones(3, np.float32), MOMENTUM)

    assert shard.push(Push(0, 0, 0.0, np.ones(3, np.float32)))

    assert shard.published
    assert shard.published.version == 1
    assert values_of(shard).tolist() == [1, 1, 1]


def test_who_reads_an_old_version_sees_it_unchanged() -> None:
    shard = shard_of(np.ones(3, np.float32))
    before = values_of(shard)

    shard.push(Push(0, 0, 1, np.ones(3, np.float32)))

    assert before.tolist() == [1, 1, 1]
    assert values_of(shard).tolist() == pytest.approx([0.9] * 3)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_a_restored_shard_goes_on_as_the_saved_one_would(optimizer: Optimizer) -> None:
    saved = shard_of(normal(77, seed=0), optimizer)
    train([saved], [normal(77, seed=1)])
    tensors, metadata = saved.state().encode()
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    restored = Shard(config(optimizer))

    restored.restore(ShardState.decode(tensors, metadata))
    for shard in (saved, restored):
        assert shard.push(Push(0, 1, 1, normal(77, seed=2)))

    assert np.array_equal(values_of(restored), values_of(saved))
    assert restored.size_bytes == saved.size_bytes
    assert not restored.push(Push(0, 0, 1, normal(77, seed=1)))


@pytest.mark.parametrize(
    ("into", "message"),
    [
        (config(PLAIN, shard_index=1, shard_count=2), "snapshot has shard_index 0, this store 1"),
        (config(PLAIN, shard_count=2), "snapshot has shard_count 1, this store 2"),
        (config(ADAMW), "snapshot has optimizer sgd, this store adamw"),
        (config(MOMENTUM), None),  # there is no state to miss before the first step
    ],
)
def test_a_snapshot_of_another_shard_is_refused(into: StoreConfig, message: str | None) -> None:
    state = shard_of(np.ones(4, np.float32)).state()

    if message is None:
        Shard(into).restore(state)
    else:
        with pytest.raises(InvalidArgument, match=message):
            Shard(into).restore(state)


def test_a_snapshot_with_other_optimizer_state_is_refused_and_changes_nothing() -> None:
    saved = shard_of(np.ones(4, np.float32), MOMENTUM)
    train([saved], [normal(4, seed=0)])
    plain = shard_of(np.zeros(4, np.float32), PLAIN)

    with pytest.raises(InvalidArgument, match="does not fit Sgd"):
        plain.restore(saved.state())

    assert values_of(plain).tolist() == [0, 0, 0, 0]


def test_a_snapshot_of_another_model_is_refused() -> None:
    with pytest.raises(ShapeMismatch, match="use a new store"):
        shard_of(np.ones(4, np.float32)).restore(shard_of(np.ones(5, np.float32)).state())


def test_what_is_no_snapshot_is_refused() -> None:
    tensors, metadata = shard_of(np.ones(4, np.float32)).state().encode()

    with pytest.raises(InvalidArgument, match="not a snapshot of a parameter shard"):
        ShardState.decode(tensors, {})
    with pytest.raises(InvalidArgument, match="damaged"):
        ShardState.decode({}, metadata)
    with pytest.raises(InvalidArgument, match="damaged"):
        ShardState.decode(tensors, {**metadata, "shard": "{}"})
    with pytest.raises(InvalidArgument, match="damaged"):
        ShardState.decode({"values": torch.ones(3)}, metadata)
    with pytest.raises(NonFiniteValues):
        ShardState.decode({"values": torch.full((4,), torch.nan)}, metadata).check_finite()


def test_large_finite_gradients_pass_although_their_sum_overflows() -> None:
    shard = shard_of(np.zeros(4, np.float32), Sgd(1e-38))

    assert shard.push(Push(0, 0, 1, np.full(4, 3e38, np.float32)))


def test_a_place_that_is_not_finite_is_named() -> None:
    with pytest.raises(NonFiniteValues, match="holds nan at offset 2") as refused:
        Push(0, 0, 1, np.array([0, 1, np.nan, np.inf], np.float32))

    assert refused.value.metadata == {"offset": "2"}


def test_an_epoch_fences() -> None:
    held = config(epoch=5)

    held.fence(5)
    with pytest.raises(StaleEpoch, match="belongs to epoch 5 now, the caller to 4") as stale:
        held.fence(4)
    with pytest.raises(FailedPrecondition, match="CreateStore with epoch 6"):
        held.fence(6)

    assert stale.value.metadata == {"epoch": "5"}
