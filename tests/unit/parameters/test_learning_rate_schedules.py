"""The learning rate of every step, against closed formulas and against torch's own schedulers."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from headrace.errors import InvalidArgument
from headrace.names import StoreName
from headrace.parameters.layout import FlatLayout, Floats, TensorSpec
from headrace_optimizers.config import AdamW, Sgd
from headrace_optimizers.schedule import Decay, Schedule
from headrace_parameters.core.config import Consistency, StoreConfig
from headrace_parameters.core.shard import Push, Shard

WARM, LONG, FLOOR = 5, 20, 0.1
LAYOUT = FlatLayout((TensorSpec("w", (8,)),))
COSINE = Schedule(Decay.COSINE, warmup_steps=WARM, decay_steps=LONG, floor=FLOOR)


def torch_factors(
    make: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler], steps: int
) -> list[float]:
    """Return the learning rates of a torch optimizer with rate 1, after a warm-up of `WARM` steps."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    warm = lr_scheduler.LinearLR(optimizer, start_factor=1 / (WARM + 1), total_iters=WARM)
    scheduler = lr_scheduler.SequentialLR(optimizer, [warm, make(optimizer)], milestones=[WARM])
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("schedule", "make", "steps"),
    [
        (COSINE, lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=LONG, eta_min=FLOOR), WARM + LONG + 1),
        (
            Schedule(Decay.LINEAR, warmup_steps=WARM, decay_steps=LONG, floor=FLOOR),
            lambda o: lr_scheduler.LinearLR(o, 1.0, end_factor=FLOOR, total_iters=LONG),
            40,
        ),
        (
            Schedule(Decay.STEP, warmup_steps=WARM, decay_steps=7, decay_factor=0.5),
            lambda o: lr_scheduler.StepLR(o, step_size=7, gamma=0.5),
            40,
        ),
        (Schedule(warmup_steps=WARM), lambda o: lr_scheduler.ConstantLR(o, factor=1.0), 12),
    ],
    ids=lambda value: value.decay.value if isinstance(value, Schedule) else "",
)
def test_a_schedule_is_what_torch_makes_of_it(
    schedule: Schedule, make: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler], steps: int
) -> None:
    assert [schedule.factor(step) for step in range(steps)] == pytest.approx(
        torch_factors(make, steps), rel=1e-9
    )


def test_schedules_follow_their_formulas() -> None:
    assert [Schedule(warmup_steps=3).factor(step) for step in range(5)] == [0.25, 0.5, 0.75, 1, 1]
    linear = Schedule(Decay.LINEAR, decay_steps=4, floor=0.2)
    assert [linear.factor(step) for step in (0, 2, 4, 99)] == pytest.approx([1, 0.6, 0.2, 0.2])
    for past in range(LONG):
        expected = FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * past / LONG)) / 2
        assert COSINE.factor(WARM + past) == pytest.approx(expected)
    assert COSINE.factor(10**9) == FLOOR
    halved = Schedule(Decay.STEP, decay_steps=2, decay_factor=0.5, floor=0.3)
    assert [halved.factor(step) for step in range(6)] == [1, 1, 0.5, 0.5, 0.3, 0.3]


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"decay_steps": 3}, "decay_steps"),
        ({"floor": 0.1}, "floor"),
        ({"decay": Decay.COSINE}, "decay_steps"),
        ({"decay": Decay.LINEAR, "decay_steps": 1, "floor": 1.5}, "floor"),
        ({"decay": Decay.STEP, "decay_steps": 1}, "decay_factor"),
        ({"decay": Decay.COSINE, "decay_steps": 1, "decay_factor": 0.5}, "decay_factor"),
    ],
)
def test_a_schedule_that_makes_no_sense_names_its_field(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        Schedule(**settings)

    assert refused.value.field == f"optimizer.schedule.{field}"


def shard(consistency: Consistency = Consistency.BSP, workers: int = 1, **changes: Any) -> Shard:
    made = Shard(
        StoreConfig(
            name=StoreName("default", "run"),
            epoch=1,
            shard_index=0,
            shard_count=1,
            worker_count=workers,
            consistency=consistency,
            optimizer=changes.pop("optimizer", Sgd(1.0)),
            schedule=changes.pop("schedule", COSINE),
        )
    )
    made.initialize(LAYOUT, np.zeros(LAYOUT.size, np.float32))
    return made


def gradient(step: int) -> Floats:
    return np.random.default_rng(step).normal(size=LAYOUT.size).astype(np.float32)


def values(of: Shard) -> Floats:
    assert of.published
    return of.published.values.copy()


def test_the_server_steps_with_the_scheduled_rate() -> None:
    store, before = shard(), np.zeros(LAYOUT.size, np.float32)

    for step in range(WARM + LONG):
        store.push(Push(0, step, 1, gradient(step)))
        np.testing.assert_allclose(
            values(store), before - np.float32(COSINE.factor(step)) * gradient(step), rtol=1e-5, atol=1e-6
        )
        before = values(store)


@pytest.mark.parametrize("consistency", [Consistency.SSP, Consistency.ASYNC])
def test_where_each_push_is_a_version_a_step_is_one_push_of_each_worker(consistency: Consistency) -> None:
    halving = Schedule(Decay.STEP, decay_steps=1, decay_factor=0.5)
    store = shard(consistency, workers=2, schedule=halving)
    ones = np.ones(LAYOUT.size, np.float32)

    moved = []
    for step, worker in ((0, 0), (0, 1), (1, 1), (1, 0)):
        before = values(store)[0]
        store.push(Push(worker, step, 1, ones.copy()))
        moved.append(before - values(store)[0])

    assert moved == [1, 1, 0.5, 0.5]


def test_a_resumed_run_goes_on_with_the_rate_it_would_have_had() -> None:
    adamw = AdamW(0.1, weight_decay=0.1)
    through, first, second = (shard(optimizer=adamw) for _ in range(3))
    for step in range(20):
        through.push(Push(0, step, 1, gradient(step)))
    for step in range(8):
        first.push(Push(0, step, 1, gradient(step)))

    second.restore(first.state())
    for step in range(8, 20):
        second.push(Push(0, step, 1, gradient(step)))

    assert np.array_equal(values(second), values(through))
