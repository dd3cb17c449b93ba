"""Training jobs that could never run are refused when they are created, with the field that is wrong."""

import pytest

from headrace.errors import InvalidArgument
from headrace.parameters.v1 import stores_pb2
from headrace.scheduler.v1 import jobs_pb2
from headrace.training.v1 import workers_pb2
from tests.services.scheduler.scheduler_server import PROJECT, Scheduler, train_spec

OWN = {"registered": {"learning_rate": 1, "update": "mine:Update"}}
STORELESS = {
    workers_pb2.STRATEGY_ALL_REDUCE: workers_pb2.TrainingOptions(steps=9, batch_size=4),
    workers_pb2.STRATEGY_LOCAL_SGD: workers_pb2.TrainingOptions(steps=9, batch_size=4, average_every_steps=3),
}


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("job.train.options.steps", {"options": workers_pb2.TrainingOptions(batch_size=1)}),
        (
            "job.train.options.batch_size",
            {"options": workers_pb2.TrainingOptions(steps=1, batch_size=1), "workers": 2},
        ),
        (
            "job.train.options.accumulate",
            {"options": workers_pb2.TrainingOptions(steps=1, batch_size=8, accumulate=5), "workers": 2},
        ),
        (
            "job.train.options.precision",
            {"options": workers_pb2.TrainingOptions(steps=1, batch_size=1, precision=9)},  # type: ignore[arg-type]  # of a newer client
        ),
        ("job.train.options.average_every_steps", {"strategy": workers_pb2.STRATEGY_LOCAL_SGD, "shards": 0}),
        (
            "job.train.options.average_every_steps",
            {"options": workers_pb2.TrainingOptions(steps=1, batch_size=1, average_every_steps=2)},
        ),
        (
            "job.train.options.evaluate_every_steps",
            {
                "strategy": workers_pb2.STRATEGY_LOCAL_SGD,
                "shards": 0,
                "options": workers_pb2.TrainingOptions(
                    steps=9, batch_size=1, average_every_steps=2, evaluate_every_steps=3
                ),
            },
        ),
        ("job.train.workers", {"workers": 2000}),
        ("job.train.min_workers", {"workers": 2, "min_workers": 3}),
        ("job.train.straggler_factor", {"workers": 2, "straggler_factor": 4}),
        ("job.train.straggler_factor", {"workers": 2, "min_workers": 1, "straggler_factor": 1.5}),
        ("job.train.straggler_factor", {"workers": 2, "min_workers": 1, "straggler_factor": float("nan")}),
        (
            "job.train.min_workers",
            {
                "strategy": workers_pb2.STRATEGY_ALL_REDUCE,
                "shards": 0,
                "workers": 2,
                "min_workers": 1,
                "options": workers_pb2.TrainingOptions(steps=9, batch_size=1, fully_sharded=True),
            },
        ),
        ("job.train.backup_workers", {"workers": 3, "min_workers": 1, "backup_workers": 1}),
        ("job.train.model", {"model": "digits"}),
        ("job.train.model", {"model": "projects/other/models/digits"}),
        ("job.train.optimizer.sgd.learning_rate", {"optimizer": {"sgd": {"learning_rate": float("nan")}}}),
        ("job.train.optimizer.adamw.learning_rate", {"optimizer": {"adamw": {"learning_rate": 0}}}),
        ("job.train.optimizer.sgd.momentum", {"optimizer": {"sgd": {"learning_rate": 1, "momentum": 1}}}),
        ("job.train.strategy", {"strategy": 99}),
        ("job.train.shards", {"strategy": workers_pb2.STRATEGY_ALL_REDUCE, "shards": 2}),
        (
            "job.train.consistency",
            {
                "strategy": workers_pb2.STRATEGY_ALL_REDUCE,
                "shards": 0,
                "consistency": stores_pb2.CONSISTENCY_ASYNC,
            },
        ),
        (
            "job.train.consistency",
            {
                "strategy": workers_pb2.STRATEGY_LOCAL_SGD,
                "shards": 0,
                "consistency": stores_pb2.CONSISTENCY_SSP,
                "staleness_bound": 2,
            },
        ),
        (
            "job.train.consistency",
            {"strategy": workers_pb2.STRATEGY_ALL_REDUCE, "shards": 0, "consistency": 9},
        ),
        (
            "job.train.staleness_bound",
            {"strategy": workers_pb2.STRATEGY_ALL_REDUCE, "shards": 0, "staleness_bound": 1},
        ),
        *(
            (
                "job.train.durability",
                {"strategy": strategy, "shards": 0, "durability": 3, "options": options},
            )
            for strategy, options in STORELESS.items()
        ),
        ("job.train.durability", {"durability": 9}),
        *(("job.train.durability", {"durability": durability, "optimizer": OWN}) for durability in (4, 5)),
        *(
            (
                "job.train.backup_workers",
                {"strategy": strategy, "shards": 0, "workers": 2, "backup_workers": 1, "options": options},
            )
            for strategy, options in STORELESS.items()
        ),
        (
            "job.train.optimizer.maximum_gradient_norm",
            {
                "strategy": workers_pb2.STRATEGY_LOCAL_SGD,
                "shards": 0,
                "options": STORELESS[workers_pb2.STRATEGY_LOCAL_SGD],
                "optimizer": {"maximum_gradient_norm": 1},
            },
        ),
        ("job.train.optimizer.sgd.nesterov", {"optimizer": {"sgd": {"learning_rate": 1, "nesterov": True}}}),
        (
            "job.train.optimizer.adagrad.epsilon",
            {"optimizer": {"adagrad": {"learning_rate": 1, "epsilon": -1}}},
        ),
        ("job.train.optimizer.schedule.decay_steps", {"optimizer": {"schedule": {"decay": 3}}}),
        ("job.train.optimizer.schedule.floor", {"optimizer": {"schedule": {"floor": 0.5}}}),
        ("job.train.optimizer.maximum_gradient_norm", {"optimizer": {"maximum_gradient_norm": -1}}),
        ("job.train.shards", {"consistency": 2, "shards": 2, "optimizer": {"lamb": {"learning_rate": 1}}}),
        ("job.train.optimizer.lamb.beta1", {"optimizer": {"lamb": {"learning_rate": 1, "beta1": 1}}}),
        (
            "job.train.optimizer.maximum_gradient_norm",
            {"consistency": 2, "optimizer": {"maximum_gradient_norm": 1}},
        ),
        ("job.train.compression.top_k.density", {"compression": {"top_k": {"density": 2}}}),
        ("job.train.compression.value_encoding", {"compression": {"value_encoding": 9}}),
        ("job.train.compression.gradients", {"compression": {"gradient_encoding": 5}}),
        *(
            (
                "job.train.compression",
                {"strategy": strategy, "shards": 0, "options": options, "compression": {"value_encoding": 2}},
            )
            for strategy, options in STORELESS.items()
        ),
        ("job.train.consistency", {"consistency": 9}),
        ("job.train.staleness_bound", {"staleness_bound": 1}),
        ("job.train.backup_workers", {"backup_workers": 2, "workers": 2}),
        ("job.train.backup_workers", {"consistency": 2, "backup_workers": 1, "workers": 2}),
        ("job.train.program", {"program": {}}),
        ("job.train.program.module", {"program": {"module": "digits"}}),
        (
            "job.train.program.archive.artifact",
            {"program": {"archive": {"artifact": "projects/default/artifacts/zz", "object": "a:B"}}},
        ),
        (
            "job.train.program.archive.artifact",
            {"program": {"archive": {"artifact": f"projects/other/artifacts/{'0' * 64}", "object": "a:B"}}},
        ),
    ],
)
def test_a_job_that_could_never_run_is_refused(
    scheduler: Scheduler, field: str, change: dict[str, object]
) -> None:
    spec = train_spec()
    for name in change:
        spec.ClearField(name)  # type: ignore[arg-type]  # names of fields
    spec.MergeFrom(jobs_pb2.TrainSpec(**change))  # type: ignore[arg-type]  # fields by name
    with pytest.raises(InvalidArgument) as error:
        scheduler.jobs.CreateJob(jobs_pb2.CreateJobRequest(parent=PROJECT, job=jobs_pb2.Job(train=spec)))
    assert error.value.field == field


@pytest.mark.parametrize("shards", [1, 2])
def test_a_store_of_any_number_of_shards_may_be_durable_and_clip(scheduler: Scheduler, shards: int) -> None:
    spec = train_spec()
    spec.shards = shards
    spec.durability = stores_pb2.DURABILITY_DISK
    spec.optimizer.maximum_gradient_norm = 1
    request = jobs_pb2.CreateJobRequest(parent=PROJECT, job=jobs_pb2.Job(train=spec))
    job = scheduler.jobs.CreateJob(request)
    assert (job.train.shards, job.train.durability) == (shards, stores_pb2.DURABILITY_DISK)
