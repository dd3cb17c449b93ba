# length: all rpcs of one service, two lines each
"""The Open Inference Protocol on the wire, with the extensions that Triton's clients use."""

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version

import grpc

from headrace.inference.oip.v2 import inference_pb2 as pb
from headrace.inference.oip.v2 import (
    model_config_pb2,
    repository_pb2,
    settings_pb2,
    shared_memory_pb2,
    statistics_pb2,
)
from headrace.inference.oip.v2.inference_pb2_grpc import GRPCInferenceServiceServicer
from headrace.rpc.authorization import LOCAL_USER, Role, Rule, current_principal
from headrace.rpc.context import metadata_value
from headrace.rpc.deferred import Answer, answers_later
from headrace.rpc.layers import current_call
from headrace_inference.core.catalog import Key
from headrace_inference.core.signature import Tensor
from headrace_inference.core.trace_settings import TraceSettings
from headrace_inference.inference import Caller, Inference
from headrace_inference.loader import Model
from headrace_inference.models import Models
from headrace_inference.shared_memory import Regions
from headrace_inference.streaming import Place, Stream
from headrace_inference.tracing import Tracer
from headrace_inference.wire.config import config_of
from headrace_inference.wire.regions import CudaRegions, SystemRegions
from headrace_inference.wire.repository import Repository
from headrace_inference.wire.settings import change_logs, change_traces
from headrace_inference.wire.statistics import statistics_of

_SERVICE = "/inference.GRPCInferenceService/"

# What changes what others get, or has the server open memory of its machine. The settings ask for more where they are changed.
_OF_EDITORS = (
    "RepositoryModelLoad",
    "RepositoryModelUnload",
    "SystemSharedMemoryRegister",
    "SystemSharedMemoryUnregister",
    "CudaSharedMemoryRegister",
    "CudaSharedMemoryUnregister",
)

# The protocol is not ours, so its protos do not declare who may call; the project is the caller's own.
RULES: Mapping[str, Rule] = {
    _SERVICE + method.name: Rule(Role.EDITOR if method.name in _OF_EDITORS else Role.VIEWER)
    for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
}

# Answered even when the server is full or draining.
PROBES = tuple(_SERVICE + rpc for rpc in ("ServerLive", "ServerReady"))

EXTENSIONS = (
    "classification",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "parameters",
    "schedule_policy",
    "statistics",
    "system_shared_memory",
    "trace",
    "logging",
)

# In the metadata of a stream: errors end it with their status, instead of being answers.
STRICT_METADATA = "triton_grpc_error"


class InferenceServicer(GRPCInferenceServiceServicer):
    """Answers for the models of one server.

    Args:
        is_ready: Whether the server takes requests.
        trace_file: As `TraceSettings`.
    """

    def __init__(self, models: Models, is_ready: Callable[[], bool], trace_file: str = "") -> None:
        self._models = models
        self._is_ready = is_ready
        self._trace_settings = TraceSettings(trace_file)
        regions = Regions()
        self._inference = Inference(models, regions, Tracer(self._trace_settings))
        self._repository = Repository(models)
        self._regions = SystemRegions(regions)
        self._cuda = CudaRegions()

    def ServerLive(
        self, request: pb.ServerLiveRequest, context: grpc.ServicerContext
    ) -> pb.ServerLiveResponse:
        """Tell that the server runs."""
        return pb.ServerLiveResponse(live=True)

    def ServerReady(
        self, request: pb.ServerReadyRequest, context: grpc.ServicerContext
    ) -> pb.ServerReadyResponse:
        """Tell whether the server takes requests."""
        return pb.ServerReadyResponse(ready=self._is_ready())

    def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ServerMetadataResponse:
        """Describe the server."""
        return pb.ServerMetadataResponse(name="headrace", version=version("headrace"), extensions=EXTENSIONS)

    def ModelReady(
        self, request: pb.ModelReadyRequest, context: grpc.ServicerContext
    ) -> pb.ModelReadyResponse:
        """Tell whether a model takes requests."""
        numbers = [
            model.source.number
            for model in self._models.ready(current_principal().project)
            if model.key.model == request.name
        ]
        ready = self._is_ready() and bool(numbers) and request.version in ("", *numbers)
        return pb.ModelReadyResponse(ready=ready)

    def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ModelMetadataResponse:
        """Describe a model."""
        model = self._models.find(_key(request.name), request.version)
        return pb.ModelMetadataResponse(
            name=model.key.model,
            versions=[model.source.number],
            platform=model.source.format.value,
            inputs=map(_tensor_metadata, model.signature.inputs),
            outputs=map(_tensor_metadata, model.signature.outputs),
            properties=_properties(model),
        )

    @answers_later
    def ModelInfer(  # type: ignore[override]  # the layers know answers that come later, the stubs do not
        self, request: pb.ModelInferRequest, context: grpc.ServicerContext
    ) -> Answer[pb.ModelInferResponse]:
        """Run a model once."""
        return self._inference.enter(
            _caller(context), request, context.time_remaining(), context.add_callback
        )

    def ModelStreamInfer(
        self, request_iterator: Iterator[pb.ModelInferRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.ModelStreamInferResponse]:
        """Run models, many requests at a time."""
        caller, strict = (
            _caller(context),
            metadata_value(context.invocation_metadata(), STRICT_METADATA),
        )

        def begin(place: Place) -> Answer[pb.ModelInferResponse] | None:
            return self._inference.begin(caller, place, context.time_remaining())

        return Stream(begin, strict=strict.lower() == "true").serve(request_iterator, current_call())

    def ModelConfig(
        self, request: model_config_pb2.ModelConfigRequest, context: grpc.ServicerContext
    ) -> model_config_pb2.ModelConfigResponse:
        """Tell how a model is served."""
        model = self._models.find(_key(request.name), request.version)
        return model_config_pb2.ModelConfigResponse(config=config_of(model))

    def ModelStatistics(
        self, request: statistics_pb2.ModelStatisticsRequest, context: grpc.ServicerContext
    ) -> statistics_pb2.ModelStatisticsResponse:
        """Tell what one model has done, or all."""
        if request.name:
            models = [self._models.find(_key(request.name), request.version)]
        else:
            models = self._models.ready(current_principal().project)
        return statistics_pb2.ModelStatisticsResponse(model_stats=map(statistics_of, models))

    def RepositoryIndex(
        self, request: repository_pb2.RepositoryIndexRequest, context: grpc.ServicerContext
    ) -> repository_pb2.RepositoryIndexResponse:
        """List the models of the caller's project."""
        return self._repository.index(request)

    def RepositoryModelLoad(
        self, request: repository_pb2.RepositoryModelLoadRequest, context: grpc.ServicerContext
    ) -> repository_pb2.RepositoryModelLoadResponse:
        """Load a model."""
        return self._repository.load(request, context.time_remaining())

    def RepositoryModelUnload(
        self, request: repository_pb2.RepositoryModelUnloadRequest, context: grpc.ServicerContext
    ) -> repository_pb2.RepositoryModelUnloadResponse:
        """Unload a model."""
        unloaded = self._repository.unload(request, context.time_remaining())
        self._trace_settings.forget(_key(unloaded.model_name))
        return unloaded

    def SystemSharedMemoryStatus(
        self, request: shared_memory_pb2.SystemSharedMemoryStatusRequest, context: grpc.ServicerContext
    ) -> shared_memory_pb2.SystemSharedMemoryStatusResponse:
        """List regions of the caller's project."""
        return self._regions.status(request)

    def SystemSharedMemoryRegister(
        self, request: shared_memory_pb2.SystemSharedMemoryRegisterRequest, context: grpc.ServicerContext
    ) -> shared_memory_pb2.SystemSharedMemoryRegisterResponse:
        """Make a region known."""
        return self._regions.register(request)

    def SystemSharedMemoryUnregister(
        self, request: shared_memory_pb2.SystemSharedMemoryUnregisterRequest, context: grpc.ServicerContext
    ) -> shared_memory_pb2.SystemSharedMemoryUnregisterResponse:
        """Forget one region, or all."""
        return self._regions.unregister(request)

    def CudaSharedMemoryStatus(
        self, request: shared_memory_pb2.CudaSharedMemoryStatusRequest, context: grpc.ServicerContext
    ) -> shared_memory_pb2.CudaSharedMemoryStatusResponse:
        """List regions on GPUs."""
        return self._cuda.status(request)

    def CudaSharedMemoryRegister(
        self, request: shared_memory_pb2.CudaSharedMemoryRegisterRequest, context: grpc.ServicerContext
    ) -> shared_memory_pb2.CudaSharedMemoryRegisterResponse:
        """Make a region on a GPU known."""
        return self._cuda.register(request)

    def CudaSharedMemoryUnregister(
        self, request: shared_memory_pb2.CudaSharedMemoryUnregisterRequest, context: grpc.ServicerContext
    ) -> shared_memory_pb2.CudaSharedMemoryUnregisterResponse:
        """Forget one region on a GPU, or all."""
        return self._cuda.unregister(request)

    def TraceSetting(
        self, request: settings_pb2.TraceSettingRequest, context: grpc.ServicerContext
    ) -> settings_pb2.TraceSettingResponse:
        """Change and tell what is traced."""
        key = self._models.find(_key(request.model_name)).key if request.model_name else None
        return change_traces(self._trace_settings, key, request)

    def LogSettings(
        self, request: settings_pb2.LogSettingsRequest, context: grpc.ServicerContext
    ) -> settings_pb2.LogSettingsResponse:
        """Change and tell what is logged."""
        return change_logs(request)


def _caller(context: grpc.ServicerContext) -> Caller:
    principal = current_principal()
    # Where nobody says who calls, each connection is a caller.
    return Caller(principal.project, context.peer() if principal.name == LOCAL_USER else principal.name)


def _key(model: str) -> Key:
    return Key(current_principal().project, model)


def _properties(model: Model) -> dict[str, str]:
    return {
        "version": str(model.source.version),
        "file": model.source.file,
        "artifact": model.source.artifact,
        "batched": str(model.batched).lower(),
    }


def _tensor_metadata(tensor: Tensor) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=tensor.name, datatype=tensor.datatype, shape=tensor.shape
    )
