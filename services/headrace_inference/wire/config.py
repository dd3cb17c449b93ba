"""How a model is served, as a configuration of Triton's: what clients need to know to send requests, and what decides how they run."""

from headrace.inference.oip.v2 import model_config_pb2 as pb
from headrace_inference.core.batching import OnTimeout, QueuePolicy
from headrace_inference.core.catalog import Format
from headrace_inference.core.signature import Tensor
from headrace_inference.decoupled import DecoupledEngine
from headrace_inference.loader import Model

MICROSECONDS = 1_000_000  # in a second
# What runs a format, in Triton's words where it has some: platform and backend.
_RUNS = {
    Format.ONNX: ("onnxruntime_onnx", "onnxruntime"),
    Format.TORCH_PROGRAM: ("torch_export", "pytorch"),
    Format.CONFIG: ("python", "python"),
}


def config_of(model: Model) -> pb.ModelConfig:
    """Describe a loaded model."""
    platform, backend = ("ensemble", "") if model.config.steps else _RUNS[model.source.format]
    config = pb.ModelConfig(
        name=model.key.model,
        platform=platform,
        backend=backend,
        version_policy=pb.ModelVersionPolicy(
            specific=pb.ModelVersionPolicy.Specific(versions=[model.source.version.number])
        ),
        max_batch_size=model.batching.max_size if model.batched else 0,
        default_model_filename=model.source.file,
        instance_group=[_instances(model)],
        model_transaction_policy=pb.ModelTransactionPolicy(
            decoupled=isinstance(model.engine, DecoupledEngine)
        ),
        response_cache=pb.ModelResponseCache(enable=model.config.keeps_answers),
    )
    for tensor in model.signature.inputs:
        config.input.add(name=tensor.name, data_type=data_type(tensor), dims=_dims(model, tensor))
    for tensor in model.signature.outputs:
        config.output.add(
            name=tensor.name,
            data_type=data_type(tensor),
            dims=_dims(model, tensor),
            label_filename=model.config.label_files.get(tensor.name, ""),
        )
    for step in model.config.steps:
        config.ensemble_scheduling.step.add(
            model_name=step.model,
            model_version=int(step.version or -1),
            input_map=step.takes,
            output_map=step.gives,
        )
    if model.batched:
        config.dynamic_batching.CopyFrom(_batching(model))
    for name, value in (("version", str(model.source.version)), ("artifact", model.source.artifact)):
        config.parameters[name].string_value = value
    return config


def data_type(tensor: Tensor) -> "pb.DataType.ValueType":
    """Return the name that a configuration has for a datatype: "BYTES" is TYPE_STRING."""
    return pb.DataType.Value("TYPE_STRING" if tensor.datatype == "BYTES" else f"TYPE_{tensor.datatype}")


def _dims(model: Model, tensor: Tensor) -> tuple[int, ...]:
    return tensor.shape[1:] if model.batched else tensor.shape


def _instances(model: Model) -> pb.ModelInstanceGroup:
    return pb.ModelInstanceGroup(
        name=model.key.model, kind=pb.ModelInstanceGroup.KIND_AUTO, count=model.batching.workers
    )


def _batching(model: Model) -> pb.ModelDynamicBatching:
    batching = model.batching
    return pb.ModelDynamicBatching(
        preferred_batch_size=batching.preferred_sizes,
        max_queue_delay_microseconds=round(batching.max_delay_s * MICROSECONDS),
        priority_levels=batching.levels if batching.levels > 1 else 0,
        default_priority_level=batching.default_level if batching.levels > 1 else 0,
        default_queue_policy=_policy(batching.policy, batching.max_waiting),
        priority_queue_policy={
            level: _policy(policy, policy.max_waiting) for level, policy in batching.policies.items()
        },
    )


def _policy(policy: QueuePolicy, max_waiting: int) -> pb.ModelQueuePolicy:
    delays = policy.on_timeout is OnTimeout.DELAY
    return pb.ModelQueuePolicy(
        timeout_action=pb.ModelQueuePolicy.DELAY if delays else pb.ModelQueuePolicy.REJECT,
        default_timeout_microseconds=round(policy.timeout_s * MICROSECONDS),
        allow_timeout_override=policy.callers_may_shorten,
        max_queue_size=max_waiting,
    )
