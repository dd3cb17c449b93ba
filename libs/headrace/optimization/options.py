"""What a pipeline may be asked for: the defaults and the bounds.

Read by the service that runs it, and before that by the scheduler, which refuses what could never run.
"""

import math
from collections.abc import Sequence
from typing import Literal

from headrace.errors import InvalidArgument
from headrace.optimization.report import Gates, Options
from headrace.optimization.v1.optimizer_pb2 import Objective, OptimizationOptions, Precision

MAX_METRIC_DROP = 0.01
CALIBRATION_EXAMPLES = 256
BATCH_SIZES = (1, 8)

# Bounds that keep one request from taking a node's whole memory or day.
LARGEST_BATCH_SIZE = 1024
MOST_BATCH_SIZES = 8
MOST_CALIBRATION_EXAMPLES = 100_000

PrecisionName = Literal["fp32", "int8"]
_PRECISIONS: dict[Precision.ValueType, PrecisionName] = {
    Precision.PRECISION_FP32: "fp32",
    Precision.PRECISION_INT8: "int8",
}
_OBJECTIVES: dict[int, Literal["latency", "size"]] = {
    Objective.OBJECTIVE_UNSPECIFIED: "latency",
    Objective.OBJECTIVE_LATENCY: "latency",
    Objective.OBJECTIVE_SIZE: "size",
}


def read_options(message: OptimizationOptions) -> Options:
    """Fill in the defaults.

    Raises:
        InvalidArgument: Some value is unknown or out of bounds.
    """
    objective = _OBJECTIVES.get(message.objective)
    if objective is None:
        raise InvalidArgument(
            f"objective {message.objective} is unknown; use {', '.join(Objective.keys())}",
            field="options.objective",
        )
    options = Options(
        precisions=_read_precisions(message),
        gates=_read_gates(message),
        objective=objective,
        calibration_examples=message.calibration_examples or CALIBRATION_EXAMPLES,
        batch_sizes=tuple(message.batch_sizes) or BATCH_SIZES,
    )
    return _check(options)


def _read_precisions(message: OptimizationOptions) -> tuple[PrecisionName, ...]:
    """Put fp32 first, which is always made, and each other once."""
    for number in message.precisions:
        if number not in _PRECISIONS:
            known = ", ".join(Precision.Name(known) for known in _PRECISIONS)
            raise InvalidArgument(f"precision {number} is unknown; use {known}", field="options.precisions")
    asked = {_PRECISIONS[number] for number in message.precisions or [Precision.PRECISION_INT8]} | {"fp32"}
    return tuple(name for name in _PRECISIONS.values() if name in asked)


def _read_gates(message: OptimizationOptions) -> Gates:
    gates = message.gates
    return Gates(
        max_metric_drop=gates.max_metric_drop if gates.HasField("max_metric_drop") else MAX_METRIC_DROP,
        min_speedup=gates.min_speedup if gates.HasField("min_speedup") else None,
        max_bytes=gates.max_bytes if gates.HasField("max_bytes") else None,
    )


def _check(options: Options) -> Options:
    """Return `options` if a pipeline can run with them.

    Raises:
        InvalidArgument: Some value is out of bounds; `field` names it as in `OptimizationOptions`.
    """
    _check_gates(options.gates)
    _check_batch_sizes(options.batch_sizes)
    if not 1 <= options.calibration_examples <= MOST_CALIBRATION_EXAMPLES:
        raise InvalidArgument(
            f"calibration_examples {options.calibration_examples} is not within 1 to {MOST_CALIBRATION_EXAMPLES}; "
            f"a few hundred are enough, 0 takes {CALIBRATION_EXAMPLES}",
            field="options.calibration_examples",
        )
    return options


def _check_gates(gates: Gates) -> None:
    if not (gates.max_metric_drop >= 0 and math.isfinite(gates.max_metric_drop)):
        raise InvalidArgument(
            f"max_metric_drop {gates.max_metric_drop} is not a finite number >= 0; 0.01 allows one point of accuracy",
            field="options.gates.max_metric_drop",
        )
    if gates.min_speedup is not None and not (gates.min_speedup > 0 and math.isfinite(gates.min_speedup)):
        raise InvalidArgument(
            f"min_speedup {gates.min_speedup} is not a finite ratio > 0; 1.0 asks for as fast as fp32, unset turns the gate off",
            field="options.gates.min_speedup",
        )
    if gates.max_bytes == 0:
        raise InvalidArgument(
            "max_bytes 0 refuses every file; leave it unset to turn the gate off",
            field="options.gates.max_bytes",
        )


def _check_batch_sizes(batch_sizes: Sequence[int]) -> None:
    if len(batch_sizes) > MOST_BATCH_SIZES:
        raise InvalidArgument(
            f"{len(batch_sizes)} batch sizes are more than the {MOST_BATCH_SIZES} that are measured; name fewer",
            field="options.batch_sizes",
        )
    for batch_size in batch_sizes:
        if not 1 <= batch_size <= LARGEST_BATCH_SIZE:
            raise InvalidArgument(
                f"batch size {batch_size} is not within 1 to {LARGEST_BATCH_SIZE}",
                field="options.batch_sizes",
            )
    if len(set(batch_sizes)) < len(batch_sizes):
        raise InvalidArgument(
            f"batch sizes {list(batch_sizes)} repeat; name each once", field="options.batch_sizes"
        )
