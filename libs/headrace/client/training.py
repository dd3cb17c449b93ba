"""How to train, as people say it, and the request that asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Required, TypedDict, Unpack

from headrace.client.choices import choose
from headrace.client.compression import CompressionOptions, compression
from headrace.client.naming import model_name, pool_name
from headrace.client.numbers import whole
from headrace.client.requests import create_job
from headrace.client.selection import SelectionOptions, selection
from headrace.client.updates import (
    UpdateOptions,
    clipping,
    server_optimizer,
    server_schedule,
    store_consistency,
)
from headrace.parameters.v1 import stores_pb2 as stores
from headrace.scheduler.v1 import jobs_pb2 as jobs
from headrace.training.v1 import workers_pb2 as training
from headrace.types.v1 import program_pb2

PrecisionKind = Literal["fp32", "bf16"]
DeviceKind = Literal["auto", "cpu", "cuda"]
StrategyKind = Literal["parameter_server", "all_reduce", "local_sgd"]
Durability = Literal["memory", "process", "disk", "replica", "replica+disk"]

_STRATEGIES = {
    "parameter_server": training.STRATEGY_PARAMETER_SERVER,
    "all_reduce": training.STRATEGY_ALL_REDUCE,
    "local_sgd": training.STRATEGY_LOCAL_SGD,
}
_DEVICES = {
    "auto": training.DEVICE_AUTO,
    "cpu": training.DEVICE_CPU,
    "cuda": training.DEVICE_CUDA,
}
_PRECISIONS = {"fp32": training.PRECISION_FP32, "bf16": training.PRECISION_BF16}
_DURABILITIES = {
    "memory": stores.DURABILITY_MEMORY,
    "process": stores.DURABILITY_PROCESS,
    "disk": stores.DURABILITY_DISK,
    "replica": stores.DURABILITY_REPLICA,
    "replica+disk": stores.DURABILITY_REPLICA_DISK,
}


class MemoryOptions(TypedDict, total=False):
    """What a worker computes with, and in how much memory."""

    threads: int  # 1; per worker
    accumulate: int  # 1; micro-batches that a worker cuts its examples of a step into, to need less memory
    precision: PrecisionKind  # "fp32"; "bf16": model and loss compute with bfloat16 where that is enough
    device: DeviceKind  # "auto": a GPU where the worker's node has one, else the CPU; "cuda": refused where there is none
    checkpoint_activations: (
        bool  # False; the backward pass computes each block's activations again, which need no memory then
    )
    fully_sharded: (
        bool  # False; "all_reduce": each worker holds a part of parameters, gradients and optimizer state
    )
    compile_model: bool  # False; by torch.compile, which needs a C++ compiler on the nodes


class TrainOptions(UpdateOptions, SelectionOptions, CompressionOptions, MemoryOptions, total=False):
    """How to train; `steps` and `batch_size` must be given."""

    steps: Required[int]  # optimizer steps in all
    batch_size: Required[int]  # examples per step over all workers
    workers: int  # 1; training processes
    straggler_factor: (
        float  # 0: none; with min_workers: one that takes so many times as long as the others is replaced
    )
    min_workers: int  # 0, all of them; the run begins, and goes on when others are lost, with so many
    strategy: (
        StrategyKind  # "parameter_server"; "all_reduce" and "local_sgd": the workers agree among themselves
    )
    shards: int | None  # 1, none with another strategy; processes that hold the parameters
    durability: (
        # "memory"; what an acknowledged push survives: "process" its process, "disk" its machine, "replica" one of two
        # processes, at once, "replica+disk" both; with the last two each shard takes two parameter nodes
        Durability
    )
    average_every_steps: int  # 0; "local_sgd": steps from one mean of the workers' values to the next
    seed: int  # 0; of the initial values and the order of the data
    checkpoint_every_steps: int  # 0: never
    evaluate_every_steps: int  # 0: only at the end
    pool: str  # "": pools/default
    job_id: str  # "": the scheduler makes one


# What those mean that are not said; `steps` and `batch_size` are not among them.
_DEFAULTS: Mapping[str, Any] = {
    "workers": 1,
    "min_workers": 0,
    "straggler_factor": 0.0,
    "strategy": "parameter_server",
    "shards": None,
    "average_every_steps": 0,
    "consistency": "bsp",
    "staleness_bound": 0,
    "backup_workers": 0,
    "durability": "memory",
    "compress_gradients": "none",
    "compress_values": "none",
    "top_k_density": 0.0,
    "significance_threshold": 0.0,
    "optimizer": "adamw",
    "update": "",
    "update_config": None,
    "learning_rate": 1e-3,
    "momentum": 0.0,
    "nesterov": False,
    "weight_decay": 0.0,
    "clip_norm": 0.0,
    "schedule": "constant",
    "warmup_steps": 0,
    "decay_steps": 0,
    "decay_factor": 0.0,
    "learning_rate_floor": 0.0,
    "seed": 0,
    "checkpoint_every_steps": 0,
    "evaluate_every_steps": 0,
    "patience": 0,
    "minimum_improvement": 0.0,
    "metric": "",
    "metric_best": None,
    "register": None,
    "threads": 1,
    "accumulate": 1,
    "precision": "fp32",
    "device": "auto",
    "checkpoint_activations": False,
    "fully_sharded": False,
    "compile_model": False,
    "pool": "",
    "job_id": "",
}
_REQUIRED = ("steps", "batch_size")


def train_job(
    project: str, program: program_pb2.Program, model: str, **options: Unpack[TrainOptions]
) -> jobs.CreateJobRequest:
    """Return the request for a training job; see `TrainOptions`.

    Raises:
        InvalidArgument: A value that no service could take.
        TypeError: An option is unknown, or one that must be given is missing.
    """
    asked = _complete(options)
    spec = jobs.TrainSpec(
        program=program,
        model=model_name(project, model),
        optimizer=_optimizer(asked),
        options=_training(asked),
    )
    spec.MergeFrom(_workers(asked))
    spec.MergeFrom(_store(asked))
    return create_job(project, jobs.Job(train=spec, pool=pool_name(asked["pool"])), asked["job_id"])


def _complete(options: TrainOptions) -> TrainOptions:
    """Return the options with the defaults of those that are not said."""
    unknown = options.keys() - _DEFAULTS.keys() - set(_REQUIRED)
    missing = [name for name in _REQUIRED if name not in options]
    if unknown or missing:
        wrong = [f"unknown: {name}" for name in sorted(unknown)] + [f"missing: {name}" for name in missing]
        raise TypeError(f"options of a training job: {', '.join(wrong)}; see headrace.client.TrainOptions")
    complete: Any = {**_DEFAULTS, **options}  # no type checker sees that it is whole
    asked: TrainOptions = complete
    return asked


def _workers(asked: TrainOptions) -> jobs.TrainSpec:
    """Return who trains."""
    return jobs.TrainSpec(
        workers=whole("workers", asked["workers"], least=1),
        min_workers=whole("min_workers", asked["min_workers"]),
        straggler_factor=asked["straggler_factor"],
        strategy=choose("strategy", asked["strategy"], _STRATEGIES),
    )


def _store(asked: TrainOptions) -> jobs.TrainSpec:
    """Return where the parameters are, and when a push takes effect."""
    shards, bound, backup = asked["shards"], asked["staleness_bound"], asked["backup_workers"]
    return jobs.TrainSpec(
        shards=0 if shards is None else whole("shards", shards, least=1),
        consistency=store_consistency(asked["consistency"], bound, backup, asked["workers"]),
        durability=choose("durability", asked["durability"], _DURABILITIES),
        compression=compression(
            asked["compress_gradients"],
            asked["compress_values"],
            asked["top_k_density"],
            asked["significance_threshold"],
        ),
        staleness_bound=whole("staleness_bound", bound),
        backup_workers=whole("backup_workers", backup),
    )


def _optimizer(asked: TrainOptions) -> stores.Optimizer:
    """Return what gradients are applied with, and at which rate when."""
    rule = server_optimizer(
        asked["optimizer"],
        asked["learning_rate"],
        asked["momentum"],
        asked["weight_decay"],
        asked["nesterov"],
        asked["update"],
        asked["update_config"],
    )
    rates = server_schedule(
        asked["schedule"],
        steps=whole("steps", asked["steps"], least=1, kind="uint64"),
        warmup_steps=whole("warmup_steps", asked["warmup_steps"], kind="uint64"),
        decay_steps=whole("decay_steps", asked["decay_steps"], kind="uint64"),
        decay_factor=asked["decay_factor"],
        floor=asked["learning_rate_floor"],
    )
    rule.maximum_gradient_norm = clipping(asked["clip_norm"], asked["consistency"], asked["backup_workers"])
    if rates:
        rule.schedule.CopyFrom(rates)
    return rule


def _training(asked: TrainOptions) -> training.TrainingOptions:
    """Return what each worker does."""
    return training.TrainingOptions(
        steps=whole("steps", asked["steps"], least=1, kind="uint64"),
        batch_size=whole("batch_size", asked["batch_size"], least=1),
        seed=whole("seed", asked["seed"], kind="uint64"),
        checkpoint_every_steps=whole(
            "checkpoint_every_steps", asked["checkpoint_every_steps"], kind="uint64"
        ),
        evaluate_every_steps=whole("evaluate_every_steps", asked["evaluate_every_steps"], kind="uint64"),
        threads=whole("threads", asked["threads"], least=1),
        accumulate=whole("accumulate", asked["accumulate"], least=1),
        average_every_steps=whole("average_every_steps", asked["average_every_steps"]),
        precision=choose("precision", asked["precision"], _PRECISIONS),
        device=choose("device", asked["device"], _DEVICES),
        checkpoint_activations=asked["checkpoint_activations"],
        fully_sharded=asked["fully_sharded"],
        compile_model=asked["compile_model"],
        selection=selection(
            asked["patience"],
            asked["minimum_improvement"],
            asked["metric"],
            asked["metric_best"],
            asked["register"],
        ),
    )
