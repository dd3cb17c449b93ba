"""How a model is served, as a configuration of Triton's: what clients need to know to send requests, and what decides how they run."""

from headrace.inference.oip.v2 import model_config_pb2 as pb
from headrace_inference.core.catalog import Format
from headrace_inference.core.signature import Tensor
from headrace_inference.decoupled import DecoupledEngine
from headrace_inference.loader import Model

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
    return pb.ModelDynamicBatching(
        default_queue_policy=pb.ModelQueuePolicy(
            timeout_action=pb.ModelQueuePolicy.REJECT,
            allow_timeout_override=True,
            max_queue_size=model.batching.max_waiting,
        )
    )
