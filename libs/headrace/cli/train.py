"""`headrace train` and `headrace optimize`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from headrace.cli.options import AsJson, Detach, JobId, Pool, read_config
from headrace.cli.session import connected

if TYPE_CHECKING:
    from headrace.client.training import StrategyKind


_STRATEGIES: dict[str, StrategyKind] = {
    "parameter-server": "parameter_server",
    "all-reduce": "all_reduce",
    "local-sgd": "local_sgd",
}


# Long because it is a list: every parameter is an option of the command with its help.
def train(
    context: typer.Context,
    program: Annotated[
        str,
        typer.Argument(
            help="Your model code: my_model.py, my_model.py:Class, folder:module:Class, "
            "or package.module:Class of an installed package."
        ),
    ],
    model: Annotated[str, typer.Argument(help="Model to add the result to; made when missing.")],
    steps: Annotated[int, typer.Option(help="Optimizer steps in all.", min=1)],
    batch_size: Annotated[int, typer.Option(help="Examples per step, over all workers.", min=1)],
    workers: Annotated[int, typer.Option(help="Training processes.", min=1)] = 1,
    min_workers: Annotated[
        int,
        typer.Option(
            help="Workers it begins with, and goes on with when others are lost; 0: all of them.", min=0
        ),
    ] = 0,
    straggler_factor: Annotated[
        float,
        typer.Option(
            help="Replace a worker that takes so many times as long as the others, with --min-workers; 0: none.",
            min=0,
        ),
    ] = 0.0,
    strategy: Annotated[
        Literal["parameter-server", "all-reduce", "local-sgd"],
        typer.Option(
            help="Parameters in shards; in every worker alike; in every worker, averaged now and then."
        ),
    ] = "parameter-server",
    shards: Annotated[
        int | None,
        typer.Option(
            help="Processes that hold the parameters.  [default: 1; none with another strategy]", min=1
        ),
    ] = None,
    average_every: Annotated[
        int, typer.Option(help="Steps from one mean to the next, for local-sgd.", min=0)
    ] = 0,
    consistency: Annotated[
        Literal["bsp", "ssp", "async"],
        typer.Option(help="bsp: steps wait for all workers; ssp: within --staleness-bound; async: for none."),
    ] = "bsp",
    staleness_bound: Annotated[
        int, typer.Option(help="Steps a worker may run ahead of the slowest, for ssp.", min=0)
    ] = 0,
    backup_workers: Annotated[
        int, typer.Option(help="Slowest workers a step does not wait for, for bsp.", min=0)
    ] = 0,
    durability: Annotated[
        Literal["memory", "process", "disk", "replica", "replica+disk"],
        typer.Option(
            help="What the parameters survive: memory: nothing; process: kill -9 of a process that holds them, once it is back; "
            "disk: of its machine; replica: the loss of one of two processes that hold each shard, at once; replica+disk: also of both."
        ),
    ] = "memory",
    compress_gradients: Annotated[
        Literal["none", "bf16", "fp16", "int8", "top-k", "significance"],
        typer.Option(
            help="Fewer bytes for gradients on slow links; top-k, significance: the rest is sent later."
        ),
    ] = "none",
    compress_values: Annotated[
        Literal["none", "bf16", "fp16", "int8"],
        typer.Option(help="Fewer bytes for pulled parameters on slow links."),
    ] = "none",
    top_k_density: Annotated[
        float,
        typer.Option(help="Part of a gradient that is sent, for top-k.  [default: 0.01]", show_default=False),
    ] = 0.0,
    significance_threshold: Annotated[
        float,
        typer.Option(
            help="What is sent, in root mean squares of the gradient, for significance.  [default: 2]",
            show_default=False,
        ),
    ] = 0.0,
    optimizer: Annotated[
        Literal["adamw", "adam", "sgd", "adagrad", "lamb", "registered"],
        typer.Option(help="How gradients are applied."),
    ] = "adamw",
    update: Annotated[
        str,
        typer.Option(
            help="module:attribute of an optimizer that the operator allows, for registered.",
            show_default=False,
        ),
    ] = "",
    update_config: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Keyword argument of the update; may be repeated."),
    ] = None,
    learning_rate: Annotated[float, typer.Option(help="Learning rate.")] = 1e-3,
    momentum: Annotated[float, typer.Option(help="Momentum, for sgd.")] = 0.0,
    nesterov: Annotated[bool, typer.Option("--nesterov", help="Nesterov's momentum, for sgd.")] = False,
    weight_decay: Annotated[float, typer.Option(help="Weight decay.")] = 0.0,
    clip_norm: Annotated[
        float,
        typer.Option(help="Largest norm of a step's mean gradient, for bsp or all-reduce; 0: any.", min=0),
    ] = 0.0,
    schedule: Annotated[
        Literal["constant", "linear", "cosine", "step"],
        typer.Option(help="How the learning rate goes down after the warm-up."),
    ] = "constant",
    warmup_steps: Annotated[int, typer.Option(help="Steps of linear warm-up.", min=0)] = 0,
    decay_steps: Annotated[
        int,
        typer.Option(help="Steps down to the floor, 0: all after the warm-up; step: per reduction.", min=0),
    ] = 0,
    decay_factor: Annotated[
        float, typer.Option(help="Factor of each reduction, for step.  [default: 0.1]", show_default=False)
    ] = 0.0,
    learning_rate_floor: Annotated[
        float, typer.Option(help="Least part of the learning rate that is left, 0 to 1.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Of initial values and order of the data.", min=0)] = 0,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints; 0: none.", min=0)] = 0,
    evaluate_every: Annotated[
        int, typer.Option(help="Steps between evaluations; 0: only at the end.", min=0)
    ] = 0,
    patience: Annotated[
        int,
        typer.Option(help="Evaluations in a row without a better one after which to stop; 0: never.", min=0),
    ] = 0,
    min_improvement: Annotated[
        float, typer.Option(help="A better evaluation is better by more than this.", min=0)
    ] = 0.0,
    metric: Annotated[str, typer.Option(help="What is compared; the program's goal if empty.")] = "",
    metric_best: Annotated[
        Literal["max", "min"] | None,
        typer.Option(help="Which values are better, if --metric is not the goal."),
    ] = None,
    register: Annotated[
        Literal["best", "last"] | None,
        typer.Option(help="Which values become the version.  [default: best with --patience, else last]"),
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of each worker.", min=1)] = 1,
    accumulate: Annotated[
        int, typer.Option(help="Micro-batches a worker cuts its examples of a step into.", min=1)
    ] = 1,
    precision: Annotated[
        Literal["fp32", "bf16"], typer.Option(help="Numbers that model and loss compute with.")
    ] = "fp32",
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        typer.Option(help="What each worker computes on; auto: a GPU where its node has one."),
    ] = "auto",
    checkpoint_activations: Annotated[
        bool,
        typer.Option(
            "--checkpoint-activations",
            help="Compute each block's activations again in the backward pass: less memory, more time.",
        ),
    ] = False,
    fully_sharded: Annotated[
        bool,
        typer.Option(
            "--fully-sharded",
            help="With all-reduce: each worker holds a part of parameters, gradients and optimizer state.",
        ),
    ] = False,
    compile_model: Annotated[
        bool, typer.Option("--compile", help="Compile the model by torch.compile; needs a C++ compiler.")
    ] = False,
    config: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Keyword argument of the program's class; may be repeated."),
    ] = None,
    pool: Pool = "",
    name: JobId = "",
    detach: Detach = False,
    as_json: AsJson = False,
) -> None:
    """Train a model on many workers and register the result."""
    from headrace.cli.waiting import submitted

    with connected(context) as client:
        job = client.train(
            program,
            model,
            steps=steps,
            batch_size=batch_size,
            workers=workers,
            min_workers=min_workers,
            straggler_factor=straggler_factor,
            strategy=_STRATEGIES[strategy],
            average_every_steps=average_every,
            shards=shards,
            consistency=consistency,
            staleness_bound=staleness_bound,
            backup_workers=backup_workers,
            durability=durability,
            compress_gradients=compress_gradients,
            compress_values=compress_values,
            top_k_density=top_k_density,
            significance_threshold=significance_threshold,
            optimizer=optimizer,
            update=update,
            update_config=read_config(update_config or []),
            learning_rate=learning_rate,
            momentum=momentum,
            nesterov=nesterov,
            weight_decay=weight_decay,
            clip_norm=clip_norm,
            schedule=schedule,
            warmup_steps=warmup_steps,
            decay_steps=decay_steps,
            decay_factor=decay_factor,
            learning_rate_floor=learning_rate_floor,
            seed=seed,
            checkpoint_every_steps=checkpoint_every,
            evaluate_every_steps=evaluate_every,
            patience=patience,
            minimum_improvement=min_improvement,
            metric=metric,
            metric_best=metric_best,
            register=register,
            threads=threads,
            accumulate=accumulate,
            precision=precision,
            device=device,
            checkpoint_activations=checkpoint_activations,
            fully_sharded=fully_sharded,
            compile_model=compile_model,
            config=read_config(config or []),
            pool=pool,
            job_id=name,
        )
        submitted(context, client, job, detach=detach, as_json=as_json)


def optimize(
    context: typer.Context,
    version: Annotated[str, typer.Argument(help="digits (the newest version), digits@stable or digits/3.")],
    objective: Annotated[
        Literal["latency", "size"], typer.Option(help="What the best candidate has least of.")
    ] = "latency",
    max_metric_drop: Annotated[
        float | None,
        typer.Option(help="Largest worsening of the program's goal.  [default: 0.01]", min=0),
    ] = None,
    min_speedup: Annotated[float | None, typer.Option(help="Least speed against fp32, as a ratio.")] = None,
    max_bytes: Annotated[int | None, typer.Option(help="Largest file.", min=1)] = None,
    calibration_examples: Annotated[
        int, typer.Option(help="Training examples to calibrate with; 0: the service's choice.", min=0)
    ] = 0,
    batch_size: Annotated[
        list[int] | None,
        typer.Option(help="Batch size to measure; may be repeated, the first decides.", min=1),
    ] = None,
    pool: Pool = "",
    name: JobId = "",
    detach: Detach = False,
    as_json: AsJson = False,
) -> None:
    """Make a version small and fast.

    Exports it, quantizes it, measures every candidate on held-out data and keeps the best that passes its gates.
    """
    from headrace.cli.waiting import submitted

    with connected(context) as client:
        job = client.optimize(
            version,
            objective=objective,
            max_metric_drop=max_metric_drop,
            min_speedup=min_speedup,
            max_bytes=max_bytes,
            calibration_examples=calibration_examples,
            batch_sizes=batch_size or (),
            pool=pool,
            job_id=name,
        )
        submitted(context, client, job, detach=detach, as_json=as_json)
