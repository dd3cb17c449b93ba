"""Clipping by the global norm, against torch on the whole vector."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from headrace.errors import FailedPrecondition, InvalidArgument
from headrace.names import StoreName
from headrace.parameters.layout import FlatLayout, Floats, TensorSpec
from headrace.parameters.ranges import length
from headrace_optimizers.config import AdamW, Optimizer, Sgd
from headrace_parameters.core.config import Consistency, Norms, StoreConfig
from headrace_parameters.core.joint import StepNorms
from headrace_parameters.core.shard import Push, Shard

SIZE, WORKERS, STEPS, MAXIMUM = 1003, 3, 12, 4.0
LAYOUT = FlatLayout((TensorSpec("a", (3, 100)), TensorSpec("b", (703,))))
SAMPLES = [8.0, 0.0, 24.0]
PLAIN = Sgd(0.1)


def config(
    optimizer: Optimizer = PLAIN, *, index: int = 0, count: int = 1, norm: float = MAXIMUM
) -> StoreConfig:
    return StoreConfig(
        name=StoreName("default", "run"),
        epoch=1,
        shard_index=index,
        shard_count=count,
        worker_count=WORKERS,
        consistency=Consistency.BSP,
        optimizer=optimizer,
        maximum_gradient_norm=norm,
    )


def shards_of(values: Floats, optimizer: Optimizer = PLAIN, count: int = 2) -> list[Shard]:
    made = [Shard(config(optimizer, index=index, count=count)) for index in range(count)]
    for shard in made:
        (held,) = shard.held(LAYOUT)
        shard.initialize(LAYOUT, values[held.start : held.stop])
    return made


def gradient(worker: int, step: int) -> Floats:
    """Norms between about 1 and 12: some steps are clipped, some are not."""
    scale = 0.05 + 0.05 * (step % 8)
    return np.random.default_rng([worker, step]).normal(0, scale, size=SIZE).astype(np.float32)


def push_step(shards: Sequence[Shard], step: int, workers: Sequence[int] = range(WORKERS)) -> None:
    for worker in workers:
        whole = gradient(worker, step)
        for shard in shards:
            (held,) = shard.held(LAYOUT)
            assert shard.push(Push(worker, step, SAMPLES[worker], whole[held.start : held.stop].copy()))


def finish(shards: Sequence[Shard], step: int) -> None:
    for norms in shards[0].config.joint_norms:
        parts = [shard.measured[norms].squared_norms for shard in shards]
        total = [sum(each) for each in zip(*parts, strict=True)]
        for shard in shards:
            shard.finish_step(StepNorms(step, norms, tuple(total)))


def values_of(shards: Sequence[Shard]) -> Floats:
    return np.concatenate([shard.published.values for shard in shards if shard.published])


def torch_alone(
    start: Floats, make: type[torch.optim.Optimizer], **settings: Any
) -> tuple[Floats, list[float]]:
    """Return the values after all steps, and the norms before clipping."""
    parameters = [torch.nn.Parameter(torch.from_numpy(part.copy())) for part in np.split(start, [300])]
    optimizer = make(parameters, **settings)
    norms = []
    for step in range(STEPS):
        mean = np.average([gradient(worker, step) for worker in range(WORKERS)], axis=0, weights=SAMPLES)
        for parameter, part in zip(parameters, np.split(mean.astype(np.float32), [300]), strict=True):
            parameter.grad = torch.from_numpy(part.copy())
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, MAXIMUM).item())
        optimizer.step()
    return np.concatenate([parameter.detach().numpy() for parameter in parameters]), norms


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize(
    ("ours", "make", "settings"),
    [
        (Sgd(0.1, momentum=0.9), torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
        (AdamW(0.01, weight_decay=0.1), torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
    ],
    ids=["sgd", "adamw"],
)
def test_shards_clip_as_torch_does_on_the_whole_model(
    count: int, ours: Optimizer, make: type[torch.optim.Optimizer], settings: dict[str, Any]
) -> None:
    start = np.random.default_rng(0).normal(size=SIZE).astype(np.float32)
    expected, norms = torch_alone(start, make, **settings)
    assert min(norms) < MAXIMUM < max(norms), "both kinds of steps are tried"

    shards = shards_of(start, ours, count)
    for step in range(STEPS):
        push_step(shards, step)
        if count > 1:
            finish(shards, step)

    np.testing.assert_allclose(values_of(shards), expected, rtol=1e-6, atol=1e-6)


def test_a_complete_step_waits_for_its_norm_and_is_applied_once() -> None:
    shards = shards_of(np.zeros(SIZE, np.float32))
    push_step(shards, 0, workers=[0, 1])
    with pytest.raises(FailedPrecondition, match=r"step 0 of .* is not complete"):
        shards[0].finish_step(StepNorms(0, Norms.GRADIENT, (1.0,)))
    assert not shards[0].measured
    push_step(shards, 0, workers=[2])

    assert not values_of(shards).any()
    assert all(shard.is_duplicate(worker, 0) for shard in shards for worker in range(WORKERS))
    finish(shards, 0)
    once = values_of(shards)
    finish(shards, 0)  # another worker does it too

    assert once.any()
    assert np.array_equal(values_of(shards), once)
    assert [shard.published.version for shard in shards if shard.published] == [1, 1]


def test_whoever_goes_on_after_a_lost_worker_finds_the_same_norms() -> None:
    """Shard 0 is finished, then the worker that told it dies; the others still can tell shard 1."""
    shards, twins = shards_of(np.zeros(SIZE, np.float32)), shards_of(np.zeros(SIZE, np.float32))
    for each in (shards, twins):
        push_step(each, 0)
    finish(twins, 0)
    total = sum(shard.measured[Norms.GRADIENT].squared_norms[0] for shard in shards)
    shards[0].finish_step(StepNorms(0, Norms.GRADIENT, (total,)))

    finish(shards, 0)

    assert np.array_equal(values_of(shards), values_of(twins))


def test_a_restored_shard_forgets_a_step_that_was_not_applied() -> None:
    shard, _ = shards_of(np.zeros(SIZE, np.float32))
    before = shard.state()
    for worker in range(WORKERS):
        shard.push(Push(worker, 0, 1, np.ones(501, np.float32)))

    shard.restore(before)

    assert not shard.measured
    assert not shard.is_duplicate(0, 0)


@pytest.mark.parametrize("norm", [-1.0, float("nan"), float("inf")])
def test_what_can_be_no_norm_is_refused(norm: float) -> None:
    shards = shards_of(np.zeros(SIZE, np.float32))
    push_step(shards, 0)

    with pytest.raises(InvalidArgument, match="add up those of all shards"):
        shards[0].finish_step(StepNorms(0, Norms.GRADIENT, (norm,)))


def test_a_step_without_samples_only_advances_the_version() -> None:
    shards = shards_of(np.ones(SIZE, np.float32))
    for shard in shards:
        for worker in range(WORKERS):
            shard.push(Push(worker, 0, 0.0, np.ones(length(shard.held(LAYOUT)), np.float32)))

    finish(shards, 0)

    assert np.array_equal(values_of(shards), np.ones(SIZE, np.float32))


@pytest.mark.parametrize(
    "changes",
    [
        {"consistency": Consistency.ASYNC},
        {"consistency": Consistency.SSP},
        {"backup_workers": 1},
        {"norm": -1},
    ],
)
def test_clipping_needs_whole_steps(changes: dict[str, object]) -> None:
    settings = {"consistency": Consistency.BSP, "backup_workers": 0, "norm": 1.0, **changes}

    with pytest.raises(InvalidArgument) as refused:
        StoreConfig(
            name=StoreName("default", "run"),
            epoch=1,
            shard_index=0,
            shard_count=2,
            worker_count=2,
            optimizer=Sgd(0.1),
            consistency=settings["consistency"],  # type: ignore[arg-type]  # one of the cases
            backup_workers=settings["backup_workers"],  # type: ignore[arg-type]  # one of the cases
            maximum_gradient_norm=settings["norm"],  # type: ignore[arg-type]  # one of the cases
        )

    assert refused.value.field == "optimizer.maximum_gradient_norm"
