"""LAMB over shards: a tensor that lies in several of them is scaled by the norm of all of it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from headrace.errors import FailedPrecondition, InvalidArgument
from headrace.names import StoreName
from headrace.parameters.layout import FlatLayout, Floats, TensorSpec
from headrace_optimizers.clipping import clip_factor, squared_norm
from headrace_optimizers.config import Lamb
from headrace_optimizers.lamb import LambOptimizer
from headrace_parameters.core.config import Consistency, Norms, StoreConfig
from headrace_parameters.core.joint import StepNorms
from headrace_parameters.core.shard import Push, Shard

LAYOUT = FlatLayout((TensorSpec("a", (3, 100)), TensorSpec("b", (703,))))
LAMB = Lamb(0.01, beta1=0.8, beta2=0.95, weight_decay=0.1)
WORKERS, STEPS, MAXIMUM = 2, 8, 20.0


def shards_of(count: int, maximum: float = 0.0, workers: int = WORKERS) -> list[Shard]:
    shards = [
        Shard(
            StoreConfig(
                name=StoreName("default", "run"),
                epoch=1,
                shard_index=index,
                shard_count=count,
                worker_count=workers,
                consistency=Consistency.BSP,
                optimizer=LAMB,
                maximum_gradient_norm=maximum,
            )
        )
        for index in range(count)
    ]
    for shard in shards:
        shard.initialize(LAYOUT, part(shard, start()))
    return shards


def start() -> Floats:
    return np.random.default_rng(0).normal(size=LAYOUT.size).astype(np.float32)


def gradient(worker: int, step: int) -> Floats:
    """Norms of about 6 and 32: some steps are clipped, some are not."""
    scale = 0.2 + 0.8 * (step % 2)
    return np.random.default_rng([worker, step]).normal(0, scale, LAYOUT.size).astype(np.float32)


def part(shard: Shard, flat: Floats) -> Floats:
    (held,) = shard.held(LAYOUT)
    return flat[held.start : held.stop].copy()


def push_step(shards: Sequence[Shard], step: int, samples: float = 1.0) -> None:
    for worker in range(WORKERS):
        for shard in shards:
            assert shard.push(Push(worker, step, samples, part(shard, gradient(worker, step))))


def tell(shards: Sequence[Shard], step: int, norms: Norms, to: Sequence[Shard] = ()) -> None:
    parts = [shard.measured[norms] for shard in shards]
    assert {part.step for part in parts} == {step}
    total = [sum(each) for each in zip(*(part.squared_norms for part in parts), strict=True)]
    for shard in to or shards:
        shard.finish_step(StepNorms(step, norms, tuple(total)))


def train(shards: Sequence[Shard]) -> Floats:
    for step in range(STEPS):
        push_step(shards, step)
        for norms in shards[0].config.joint_norms:
            tell(shards, step, norms)
    return values_of(shards)


def values_of(shards: Sequence[Shard]) -> Floats:
    return np.concatenate([shard.published.values for shard in shards if shard.published])


def whole(maximum: float) -> Floats:
    """One process: the mean, clipped, applied to the whole vector."""
    optimizer, values = LambOptimizer(LAMB, LAYOUT, [range(LAYOUT.size)]), torch.from_numpy(start())
    for step in range(STEPS):
        mean = torch.from_numpy((gradient(0, step) + gradient(1, step)) / 2)
        weight = clip_factor(squared_norm(mean), maximum) if maximum else 1.0
        values = optimizer.apply(values, [(mean, weight)])
    return values.numpy()


@pytest.mark.parametrize("maximum", [0.0, MAXIMUM], ids=["", "clipped"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_shards_do_what_one_process_does_with_the_whole_model(count: int, maximum: float) -> None:
    np.testing.assert_allclose(train(shards_of(count, maximum)), whole(maximum), rtol=1e-6, atol=1e-6)


def test_a_worker_that_dies_between_two_shards_leaves_nothing_open() -> None:
    shards, twins = shards_of(2), shards_of(2)
    for each in (shards, twins):
        push_step(each, 0)
    tell(twins, 0, Norms.TENSORS)

    tell(shards, 0, Norms.TENSORS, to=shards[:1])  # and dies
    tell(shards, 0, Norms.TENSORS)
    tell(shards, 0, Norms.TENSORS)

    assert np.array_equal(values_of(shards), values_of(twins))
    assert [shard.published.version for shard in shards if shard.published] == [1, 1]


def test_a_step_is_clipped_before_it_is_scaled() -> None:
    shards = shards_of(2, MAXIMUM)
    push_step(shards, 0)

    with pytest.raises(FailedPrecondition, match="tell its gradient's norm first"):
        shards[0].finish_step(StepNorms(0, Norms.TENSORS, (1.0,) * 4))
    tell(shards, 0, Norms.GRADIENT, to=shards[:1])
    tell(shards, 0, Norms.GRADIENT)  # a second time to the first shard
    tell(shards, 0, Norms.TENSORS)

    np.testing.assert_array_equal(values_of(shards), _first_step(MAXIMUM))


def _first_step(maximum: float) -> Floats:
    shards = shards_of(2, maximum)
    push_step(shards, 0)
    for norms in shards[0].config.joint_norms:
        tell(shards, 0, norms)
    return values_of(shards)


def test_a_step_without_samples_only_advances_the_version() -> None:
    shards = shards_of(2)
    push_step(shards, 0, samples=0.0)

    tell(shards, 0, Norms.TENSORS)

    assert np.array_equal(values_of(shards), start())
    assert not shards[0].state().optimizer_state


def test_a_saved_shard_of_a_step_that_waits_is_as_it_was_before_the_step() -> None:
    shards = shards_of(2)
    push_step(shards, 0)
    tell(shards, 0, Norms.TENSORS)
    before = shards[0].state()
    push_step(shards, 1)

    after = shards[0].state()

    assert after.version == before.version == 1
    assert all(torch.equal(after.optimizer_state[name], it) for name, it in before.optimizer_state.items())


@pytest.mark.parametrize("norms", [[1.0], [1.0, 1.0, -1.0, 1.0], [float("nan")] * 4])
def test_what_can_be_no_norms_is_refused(norms: list[float]) -> None:
    shards = shards_of(2)
    push_step(shards, 0)

    with pytest.raises(InvalidArgument) as refused:
        shards[0].finish_step(StepNorms(0, Norms.TENSORS, tuple(norms)))

    assert refused.value.field == "tensor_norms"
    assert np.array_equal(values_of(shards), start())


@pytest.mark.parametrize(
    "changes",
    [
        {"consistency": Consistency.ASYNC},
        {"consistency": Consistency.SSP},
        {"backup_workers": 1},
    ],
    ids=str,
)
def test_scaling_over_shards_needs_whole_steps(changes: dict[str, Any]) -> None:
    one = replace(shards_of(1)[0].config, **changes)

    with pytest.raises(InvalidArgument, match="1 with LAMB, unless consistency is BSP") as refused:
        replace(one, shard_count=2)

    assert refused.value.field == "shard_count"
