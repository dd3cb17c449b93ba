"""Reads how a model is served from a configuration of Triton's: JSON, or the text form of .pbtxt.

What the server does not do is refused by name rather than passed over: whoever wrote it counts on it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from google.protobuf import json_format, text_format
from google.protobuf.message import Message

from headrace.errors import FailedPrecondition, InvalidArgument
from headrace.inference.oip.v2 import model_config_pb2 as pb
from headrace_inference.core.batching import Batching, OnTimeout, QueuePolicy
from headrace_inference.core.config import ModelConfig, PaddingWish, Sample
from headrace_inference.core.ensemble import Step
from headrace_inference.core.signature import Signature, Tensor

TEXT_SUFFIX = ".pbtxt"
MAX_BYTES = 1 << 20
MAX_WORKERS, MAX_ROWS, MAX_DELAY_S = 256, 4096, 60  # as the server's own settings have them
BATCH = "batch"  # the name of the first axis of models whose requests are joined
PYTHON = "python"

# Fields that decide something here, or that only describe; all others are refused when they are set.
_HONOURED = {
    "": "name platform backend max_batch_size input output instance_group dynamic_batching optimization "
    "ensemble_scheduling parameters model_warmup response_cache model_transaction_policy",
    "input": "name data_type format dims",
    "output": "name data_type dims label_filename",
    "instance_group": "name kind count gpus",
    "dynamic_batching": "preferred_batch_size max_queue_delay_microseconds priority_levels default_priority_level "
    "default_queue_policy priority_queue_policy",
    "ensemble_scheduling": "step",
    "step": "model_name model_version input_map output_map",
    "optimization": "execution_accelerators",
    "model_warmup": "name batch_size inputs count",
}
_ACCELERATORS = {
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
}
_THREADS = ("threads", "intra_op_thread_count")
_FUNCTION = "function"
_PADDING = ("padding_axis", "padding_values", "padding_buckets", "padding_multiple")
MICROSECONDS = 1_000_000  # in a second


def read_config(data: bytes, path: str, defaults: Batching) -> ModelConfig:
    """Read the configuration of a model.

    Args:
        path: Name of its file, which tells JSON from text.
        defaults: Of what it leaves open.
    Raises:
        FailedPrecondition: It is none, says what makes no sense, or what this server does not do.
    """
    check_size(path, len(data))
    message = pb.ModelConfig()
    try:
        if path.endswith(TEXT_SUFFIX):
            text_format.Parse(data.decode(), message)
        else:
            json_format.ParseDict(_object(data), message)
    except (text_format.ParseError, json_format.ParseError, ValueError, RecursionError) as error:
        raise FailedPrecondition(f"{path!r} is no configuration of a model: {str(error)[:300]}") from error
    try:
        _refuse_others(message, "")
        return _config(message, defaults)
    except InvalidArgument as error:
        raise FailedPrecondition(f"{path!r}: {error.message}") from error


def _object(data: bytes) -> dict[str, Any]:
    found = json.loads(data)
    if not isinstance(found, dict):
        raise ValueError(f"it is no object but {type(found).__name__}")
    return found


def check_size(path: str, size_bytes: int) -> None:
    """Refuse what is too large for a configuration, before it is fetched.

    Raises:
        FailedPrecondition: It is.
    """
    if size_bytes > MAX_BYTES:
        raise FailedPrecondition(f"{path!r} has {size_bytes} bytes; a configuration has at most {MAX_BYTES}")


def _refuse_others(message: Message, field: str) -> None:
    known = _HONOURED[field].split()
    for descriptor, value in message.ListFields():
        name = descriptor.name
        if name not in known:
            where = f"{field}.{name}" if field else name
            raise InvalidArgument(f"{where} is set, and this server does not do it; leave it out")
        if name in _HONOURED:
            for one in value if isinstance(value, Sequence) else [value]:
                _refuse_others(one, name)


def _config(message: pb.ModelConfig, defaults: Batching) -> ModelConfig:
    parameters = {name: parameter.string_value for name, parameter in message.parameters.items()}
    threads = [parameters.pop(name) for name in _THREADS if name in parameters]
    runs_python = PYTHON in (message.backend, message.platform)
    function = parameters.pop(_FUNCTION, "")
    padding = _padding({name: _value(parameters.pop(name)) for name in _PADDING if name in parameters})
    if parameters and not runs_python:
        raise InvalidArgument(
            f"parameters.{min(parameters)} is not known; known are {', '.join((*_THREADS, _FUNCTION, *_PADDING))}"
        )
    streams = message.model_transaction_policy.decoupled
    if streams and not runs_python:
        raise InvalidArgument(
            f"model_transaction_policy.decoupled is set, and only a model of backend {PYTHON!r} gives any number of answers"
        )
    if runs_python and not function:
        raise InvalidArgument(
            f"a model of backend {PYTHON!r} has the parameter {_FUNCTION!r}: module:attribute of what runs it"
        )
    return ModelConfig(
        batching=_batching(message, defaults),
        threads=_count("parameters.threads", threads[0]) if threads else 0,
        providers=tuple(_providers(message)),
        warm_up=tuple(_sample(one) for one in message.model_warmup),
        keeps_answers=message.response_cache.enable,
        function=function,
        streams=streams,
        function_config={name: _value(text) for name, text in parameters.items()},
        signature=_signature(message),
        label_files={one.name: one.label_filename for one in message.output if one.label_filename},
        padding=padding,
        steps=tuple(_step(one) for one in message.ensemble_scheduling.step),
    )


def _count(name: str, text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 256:
        raise InvalidArgument(f"{name} is {text!r}; give a number from 1 to 256")
    return int(text)


def _padding(parameters: dict[str, object]) -> PaddingWish | None:
    if not parameters:
        return None
    axis, values = parameters.get("padding_axis", ""), parameters.get("padding_values", {})
    buckets, multiple = parameters.get("padding_buckets", []), parameters.get("padding_multiple", 1)
    sound = (
        isinstance(axis, str)
        and axis
        and isinstance(values, dict)
        and all(isinstance(value, int | float) for value in values.values())
        and isinstance(buckets, list)
        and all(isinstance(bucket, int) for bucket in buckets)
        and isinstance(multiple, int)
    )
    if not sound:
        raise InvalidArgument(
            f"the parameters of padding are {parameters}; give padding_axis a name, and as JSON padding_values an object of "
            "numbers by input, padding_buckets a list of lengths, padding_multiple a number"
        )
    assert isinstance(axis, str) and isinstance(values, dict)  # noqa: PT018 - as just checked
    assert isinstance(buckets, list) and isinstance(multiple, int)  # noqa: PT018 - as just checked
    return PaddingWish(axis, values, tuple(buckets), multiple)


def _value(text: str) -> object:
    """Read a parameter as JSON where it is some, else as text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _batching(message: pb.ModelConfig, defaults: Batching) -> Batching:
    if not 0 <= message.max_batch_size <= MAX_ROWS:
        raise InvalidArgument(
            f"max_batch_size is {message.max_batch_size}; give 1 to {MAX_ROWS}, or leave it to the server"
        )
    workers = sum(max(1, group.count) for group in message.instance_group)
    if workers > MAX_WORKERS:
        raise InvalidArgument(f"instance_group counts {workers} in all; give {MAX_WORKERS} at most")
    max_size = message.max_batch_size or defaults.max_size
    whole = replace(
        defaults,
        workers=workers or defaults.workers,
        max_size=max_size,
        preferred_sizes=tuple(size for size in defaults.preferred_sizes if size <= max_size),
    )
    return _queue(message.dynamic_batching, whole) if message.HasField("dynamic_batching") else whole


def _queue(message: pb.ModelDynamicBatching, batching: Batching) -> Batching:
    levels = message.priority_levels or batching.levels
    default = message.default_priority_level
    if message.priority_levels and not default:
        default = levels
    if default > levels:
        raise InvalidArgument(f"default_priority_level is {default}, and there are {levels} priority_levels")
    if message.max_queue_delay_microseconds > MAX_DELAY_S * MICROSECONDS:
        raise InvalidArgument(
            f"max_queue_delay_microseconds is {message.max_queue_delay_microseconds}; give {MAX_DELAY_S} seconds at most"
        )
    return replace(
        batching,
        max_waiting=message.default_queue_policy.max_queue_size or batching.max_waiting,
        max_delay_s=message.max_queue_delay_microseconds / MICROSECONDS or batching.max_delay_s,
        preferred_sizes=tuple(sorted(message.preferred_batch_size)) or batching.preferred_sizes,
        levels=levels,
        default_level=default or batching.default_level,
        policy=_policy(message.default_queue_policy)
        if message.HasField("default_queue_policy")
        else batching.policy,
        policies={level: _policy(policy) for level, policy in message.priority_queue_policy.items()},
    )


def _policy(message: pb.ModelQueuePolicy) -> QueuePolicy:
    delays = message.timeout_action == pb.ModelQueuePolicy.DELAY
    return QueuePolicy(
        max_waiting=message.max_queue_size,
        timeout_s=message.default_timeout_microseconds / MICROSECONDS,
        callers_may_shorten=message.allow_timeout_override,
        on_timeout=OnTimeout.DELAY if delays else OnTimeout.REJECT,
    )


def _providers(message: pb.ModelConfig) -> Iterator[tuple[str, Mapping[str, str]]]:
    accelerators = message.optimization.execution_accelerators
    for one in (*accelerators.gpu_execution_accelerator, *accelerators.cpu_execution_accelerator):
        if one.name not in _ACCELERATORS:
            raise InvalidArgument(
                f"accelerator {one.name!r} is not known; known are {', '.join(_ACCELERATORS)}"
            )
        yield _ACCELERATORS[one.name], dict(one.parameters)
    gpus = {gpu for group in message.instance_group for gpu in group.gpus}
    on_gpu = any(group.kind == pb.ModelInstanceGroup.KIND_GPU for group in message.instance_group)
    if len(gpus) > 1:
        raise InvalidArgument(
            f"instance_group names the GPUs {sorted(gpus)}; a model is on one: load it on more servers"
        )
    if on_gpu and not any(one.name == "cuda" for one in accelerators.gpu_execution_accelerator):
        yield _ACCELERATORS["cuda"], {"device_id": str(gpus.pop() if gpus else 0)}


def _sample(warm_up: pb.ModelWarmup) -> Sample:
    rows = max(1, warm_up.batch_size)
    for name, one in warm_up.inputs.items():
        if one.input_data_file:
            raise InvalidArgument(f"model_warmup input {name!r} names a file; give zero_data or random_data")
    return Sample(
        rows=rows,
        shapes={name: tuple(one.dims) for name, one in warm_up.inputs.items()},
        zeros=frozenset(name for name, one in warm_up.inputs.items() if one.zero_data),
        count=max(1, warm_up.count),
    )


def _signature(message: pb.ModelConfig) -> Signature | None:
    if not message.input and not message.output:
        return None
    batch = (BATCH,) if message.max_batch_size > 0 else ()
    return Signature(
        tuple(_tensor(one.name, one.data_type, one.dims, batch) for one in message.input),
        tuple(_tensor(one.name, one.data_type, one.dims, batch) for one in message.output),
    )


def _step(step: pb.ModelEnsembling.Step) -> Step:
    version = str(step.model_version) if step.model_version > 0 else ""
    return Step(step.model_name, version, dict(step.input_map), dict(step.output_map))


def _tensor(name: str, kind: "pb.DataType.ValueType", dims: Sequence[int], batch: tuple[str, ...]) -> Tensor:
    datatype = pb.DataType.Name(kind).removeprefix("TYPE_")
    if datatype == "INVALID":
        raise InvalidArgument(f"tensor {name!r} has no data_type; give one, such as TYPE_FP32")
    wrong = [size for size in dims if size < -1]
    if wrong:
        raise InvalidArgument(f"tensor {name!r} has a dimension of {wrong[0]}; give sizes, or -1 for any")
    axes = tuple("" if size == -1 else size for size in dims)
    return Tensor(name, "BYTES" if datatype == "STRING" else datatype, (*batch, *axes))
