"""Requests are built from what people say."""

from typing import Any

import pytest
from google.protobuf import json_format

from headrace.client import requests
from headrace.client.training import train_job
from headrace.errors import InvalidArgument
from headrace.parameters.v1 import stores_pb2
from headrace.training.v1 import workers_pb2 as training
from headrace.types.v1.program_pb2 import Program

PROGRAM = Program(module="package:Net")


def test_a_training_job_says_everything_the_scheduler_needs() -> None:
    request = train_job(
        "default",
        PROGRAM,
        "digits",
        steps=400,
        batch_size=64,
        workers=2,
        shards=3,
        learning_rate=0.01,
        checkpoint_every_steps=50,
        pool="gpu",
        job_id="mine",
    )

    train = request.job.train
    assert (request.parent, request.job_id, request.job.pool) == ("projects/default", "mine", "pools/gpu")
    assert (train.model, train.workers, train.shards) == ("projects/default/models/digits", 2, 3)
    assert train.program == PROGRAM
    assert train.consistency == stores_pb2.CONSISTENCY_BSP
    assert train.optimizer.adamw.learning_rate == 0.01
    assert (train.options.steps, train.options.batch_size, train.options.threads) == (400, 64, 1)
    assert train.options.checkpoint_every_steps == 50


def test_a_strategy_without_shards_asks_for_none() -> None:
    job = train_job("default", PROGRAM, "m", steps=1, batch_size=1, strategy="all_reduce").job

    assert (job.train.strategy, job.train.shards) == (training.STRATEGY_ALL_REDUCE, 0)


@pytest.mark.parametrize(
    ("device", "sent"),
    [("auto", training.DEVICE_AUTO), ("cpu", training.DEVICE_CPU), ("cuda", training.DEVICE_CUDA)],
)
def test_a_job_says_what_its_workers_compute_on(device: Any, sent: training.Device.ValueType) -> None:
    job = train_job("default", PROGRAM, "m", steps=1, batch_size=1, device=device).job

    assert job.train.options.device == sent


def test_every_request_has_an_idempotency_key_of_its_own() -> None:
    first, second = (train_job("default", PROGRAM, "digits", steps=1, batch_size=1) for _ in range(2))

    assert first.request_id
    assert first.request_id != second.request_id


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"steps": 0}, "steps"),
        ({"batch_size": -1}, "batch_size"),
        ({"workers": 1 << 32}, "workers"),
        ({"seed": 1.5}, "seed"),
        ({"threads": True}, "threads"),
        ({"strategy": "gossip"}, "strategy"),
        ({"shards": 0}, "shards"),
        ({"consistency": "eventual"}, "consistency"),
        ({"precision": "fp8"}, "precision"),
        ({"device": "gpu"}, "device"),
        ({"accumulate": 0}, "accumulate"),
        ({"optimizer": "lion"}, "optimizer"),
        ({"schedule": "cyclic"}, "schedule"),
        ({"staleness_bound": -1, "consistency": "ssp"}, "staleness_bound"),
        ({"model": "Digits"}, "name"),
    ],
)
def test_a_value_no_service_could_take_is_refused_here(wrong: dict[str, Any], field: str) -> None:
    options = {"model": "digits", "steps": 1, "batch_size": 1, **wrong}

    with pytest.raises(InvalidArgument) as raised:
        train_job("default", PROGRAM, options.pop("model"), **options)

    assert raised.value.field == field


def test_an_option_that_is_unknown_or_missing_is_refused() -> None:
    with pytest.raises(TypeError, match="unknown: batchsize, missing: batch_size"):
        train_job("default", PROGRAM, "digits", steps=1, batchsize=1)  # type: ignore[call-arg]  # the mistake


def test_what_a_worker_computes_with_is_said_in_the_options() -> None:
    request = train_job(
        "default", PROGRAM, "m", steps=1, batch_size=1, checkpoint_activations=True, compile_model=True
    )

    options = request.job.train.options
    assert (options.checkpoint_activations, options.compile_model) == (True, True)


def test_gates_that_are_not_said_stay_unset() -> None:
    options = requests.optimize_job("default", "digits").job.optimize.options

    assert not options.gates.HasField("max_metric_drop")
    assert not options.gates.HasField("min_speedup")
    assert not options.gates.HasField("max_bytes")


def test_gates_that_are_said_are_kept_even_when_zero() -> None:
    job = requests.optimize_job("default", "digits/3", max_metric_drop=0.0, batch_sizes=(1, 8)).job

    assert job.optimize.version == "projects/default/models/digits/versions/3"
    assert job.optimize.options.gates.HasField("max_metric_drop")
    assert list(job.optimize.options.batch_sizes) == [1, 8]


def test_an_update_asks_for_what_the_creation_asked_for() -> None:
    created = requests.create_deployment("default", "digits", "digits@stable", file="int8.onnx", replicas=2)
    update = requests.update_deployment(created)

    assert update.name == "projects/default/deployments/digits"
    assert update.deployment == created.deployment
    assert list(update.update_mask.paths) == ["version", "file", "replicas"]
    assert update.request_id != created.request_id


def test_the_config_of_a_program_travels_as_json() -> None:
    program = requests.module_program("package:Net", {"width": 64, "layers": [1, 2], "name": "x"})

    assert json_format.MessageToDict(program.config) == {"width": 64.0, "layers": [1.0, 2.0], "name": "x"}
    with pytest.raises(InvalidArgument, match="is not JSON"):
        requests.module_program("package:Net", {"width": object()})
