"""Optimizer, schedule and consistency of a job, from what people say."""

from typing import Any

import pytest

from headrace.client import updates
from headrace.client.training import train_job
from headrace.errors import InvalidArgument
from headrace.parameters.v1 import schedule_pb2, stores_pb2
from headrace.scheduler.v1.jobs_pb2 import TrainSpec
from headrace.types.v1.program_pb2 import Program


def spec(**options: Any) -> TrainSpec:
    given: dict[str, Any] = {"steps": 100, "batch_size": 8, **options}
    return train_job("default", Program(module="package:Net"), "digits", **given).job.train


def test_sgd_takes_momentum_and_adamw_refuses_it() -> None:
    sgd = updates.server_optimizer("sgd", 0.1, 0.9, 0.0)

    assert sgd.sgd == stores_pb2.Sgd(learning_rate=0.1, momentum=0.9)
    with pytest.raises(InvalidArgument, match=r"momentum 0\.9 is for optimizer 'sgd'"):
        updates.server_optimizer("adamw", 0.1, 0.9, 0.0)


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw", "adagrad", "lamb"])
def test_every_optimizer_can_be_named(kind: updates.OptimizerKind) -> None:
    optimizer = spec(optimizer=kind, learning_rate=0.2, weight_decay=0.1).optimizer

    assert optimizer.WhichOneof("kind") == kind
    chosen = getattr(optimizer, kind)
    assert (chosen.learning_rate, chosen.weight_decay) == (0.2, 0.1)
    assert not optimizer.HasField("schedule")


def test_bounded_staleness_and_backup_workers_reach_the_job() -> None:
    bounded = spec(consistency="ssp", staleness_bound=3)
    backed = spec(backup_workers=1, workers=3)

    assert (bounded.consistency, bounded.staleness_bound) == (stores_pb2.CONSISTENCY_SSP, 3)
    assert (backed.consistency, backed.backup_workers) == (stores_pb2.CONSISTENCY_BSP, 1)


def test_a_decay_fills_the_steps_after_the_warm_up() -> None:
    schedule = spec(schedule="cosine", warmup_steps=10, learning_rate_floor=0.1).optimizer.schedule

    assert schedule == schedule_pb2.Schedule(
        decay=schedule_pb2.DECAY_COSINE, warmup_steps=10, decay_steps=90, floor=0.1
    )


def test_a_norm_to_clip_by_reaches_the_job() -> None:
    assert spec(clip_norm=1.5).optimizer.maximum_gradient_norm == 1.5


def test_a_warm_up_needs_no_decay() -> None:
    schedule = spec(warmup_steps=10).optimizer.schedule

    assert schedule == schedule_pb2.Schedule(decay=schedule_pb2.DECAY_CONSTANT, warmup_steps=10)


@pytest.mark.parametrize(
    ("wrong", "field", "message"),
    [
        ({"staleness_bound": 2}, "staleness_bound", "2 is for consistency 'ssp'; leave it out with 'bsp'"),
        (
            {"consistency": "async", "backup_workers": 1, "workers": 2},
            "backup_workers",
            "1 is for consistency 'bsp'; leave it out with 'async'",
        ),
        ({"backup_workers": 2, "workers": 2}, "backup_workers", "2 of 2 workers"),
        ({"clip_norm": 1.0, "consistency": "ssp"}, "clip_norm", "needs all gradients of a step"),
        ({"nesterov": True}, "nesterov", "is for optimizer 'sgd'; leave it out with 'adamw'"),
        ({"schedule": "step"}, "decay_steps", "needs decay_steps"),
        ({"schedule": "linear", "warmup_steps": 100}, "warmup_steps", "100 of 100 steps"),
    ],
)
def test_options_that_do_not_go_together_are_refused(wrong: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message) as refused:
        spec(**wrong)

    assert refused.value.field == field


def test_an_update_of_ones_own_is_named_with_its_config() -> None:
    made = updates.server_optimizer(
        "registered", 0.5, 0, 0, update="mine.rules:Lion", update_config={"beta1": 0.8}
    )

    assert (made.registered.update, made.registered.learning_rate) == ("mine.rules:Lion", 0.5)
    assert dict(made.registered.config) == {"beta1": 0.8}


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("registered", 0.5, 0.0, 0.0), "update"),
        (("adamw", 0.5, 0.0, 0.0, False, "mine.rules:Lion"), "update"),
        (("adamw", 0.5, 0.0, 0.0, False, "", {"beta1": 1}), "update"),
        (("registered", 0.5, 0.9, 0.0, False, "mine.rules:Lion"), "update_config"),
        (("registered", 0.5, 0.0, 0.1, False, "mine.rules:Lion"), "update_config"),
    ],
)
def test_an_update_of_ones_own_goes_with_nothing_else(arguments: Any, field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        updates.server_optimizer(*arguments)

    assert refused.value.field == field
