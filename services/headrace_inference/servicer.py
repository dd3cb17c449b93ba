"""The Open Inference Protocol on the wire."""

from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version

import grpc

from headrace.errors import InvalidArgument, PermissionDenied, Unimplemented
from headrace.inference.messages import fill_outputs, inputs_of
from headrace.inference.oip.v2 import inference_pb2 as pb
from headrace.inference.oip.v2.inference_pb2_grpc import GRPCInferenceServiceServicer
from headrace.names import check_id, project_of
from headrace.rpc.authorization import Role, Rule, current_principal
from headrace_inference.core.catalog import Key, Listing, State
from headrace_inference.core.signature import Tensor
from headrace_inference.loader import Model
from headrace_inference.models import Models

_SERVICE = "/inference.GRPCInferenceService/"

# The protocol is not ours, so its protos do not declare who may call; the project is the caller's own.
RULES: Mapping[str, Rule] = {
    **{
        _SERVICE + rpc: Rule(Role.VIEWER)
        for rpc in (
            "ServerLive",
            "ServerReady",
            "ServerMetadata",
            "ModelReady",
            "ModelMetadata",
            "ModelInfer",
            "RepositoryIndex",
        )
    },
    **{_SERVICE + rpc: Rule(Role.EDITOR) for rpc in ("RepositoryModelLoad", "RepositoryModelUnload")},
}

# Answered even when the server is full or draining.
PROBES = tuple(_SERVICE + rpc for rpc in ("ServerLive", "ServerReady"))

# Extensions of tensors that would make the answer mean something else, if they were passed over in silence.
_UNSUPPORTED = ("shared_memory_region", "classification")

_Parameters = Mapping[str, pb.ModelRepositoryParameter]
_Tensor = pb.ModelInferRequest.InferInputTensor | pb.ModelInferRequest.InferRequestedOutputTensor


class InferenceServicer(GRPCInferenceServiceServicer):
    """Answers for the models of one server.

    Args:
        is_ready: Whether the server takes requests.
    """

    def __init__(self, models: Models, is_ready: Callable[[], bool]) -> None:
        self._models = models
        self._is_ready = is_ready

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
        return pb.ServerMetadataResponse(
            name="headrace", version=version("headrace"), extensions=["model_repository"]
        )

    def ModelReady(
        self, request: pb.ModelReadyRequest, context: grpc.ServicerContext
    ) -> pb.ModelReadyResponse:
        """Tell whether a model takes requests."""
        key = _key(request.name)
        numbers = [
            one.source.number for one in self._listings() if one.key == key and one.state is State.READY
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

    def ModelInfer(
        self, request: pb.ModelInferRequest, context: grpc.ServicerContext
    ) -> pb.ModelInferResponse:
        """Run a model once."""
        _refuse_unsupported(request)
        model, outputs = self._models.infer(
            _key(request.model_name),
            request.model_version,
            inputs_of(request),
            tuple(output.name for output in request.outputs),
            timeout_s=context.time_remaining(),
            watch=context.add_callback,
        )
        response = pb.ModelInferResponse(
            model_name=model.key.model, model_version=model.source.number, id=request.id
        )
        # Who writes typed contents, by hand perhaps, wants to read them too.
        fill_outputs(response, outputs, raw=bool(request.raw_input_contents))
        return response

    def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryIndexResponse:
        """List the models of the caller's project."""
        listings = [one for one in self._listings() if one.state is State.READY or not request.ready]
        return pb.RepositoryIndexResponse(models=map(_model_index, listings))

    def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryModelLoadResponse:
        """Load a model."""
        _refuse_unknown(request.parameters, ("version", "file"))
        reference = _text(request.parameters, "version")
        if reference:
            _check_project(reference)
        key = _key(check_id(request.model_name, "model_name"))
        self._models.load(key, reference, _text(request.parameters, "file"), context.time_remaining())
        return pb.RepositoryModelLoadResponse()

    def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryModelUnloadResponse:
        """Unload a model."""
        _refuse_unknown(request.parameters, ("unload_dependents",))
        self._models.unload(_key(request.model_name), context.time_remaining())
        return pb.RepositoryModelUnloadResponse()

    def _listings(self) -> list[Listing]:
        return self._models.listings(current_principal().project)


def _key(model: str) -> Key:
    return Key(current_principal().project, model)


def _check_project(reference: str) -> None:
    project = project_of(reference, field="version")
    if not current_principal().may_enter(project):
        raise PermissionDenied(
            f"{current_principal().name} has no role in projects/{project}; load a model of your own"
        )


def _refuse_unsupported(request: pb.ModelInferRequest) -> None:
    tensors: list[_Tensor] = [*request.inputs, *request.outputs]
    for tensor in tensors:
        for parameter in _UNSUPPORTED:
            if parameter in tensor.parameters:
                raise Unimplemented(
                    f"tensor {tensor.name!r} has the parameter {parameter!r}, which is not offered; "
                    "send and take plain contents"
                )


def _refuse_unknown(parameters: Iterable[str], known: Iterable[str]) -> None:
    for name in parameters:
        if name not in known:
            raise InvalidArgument(
                f"parameter {name!r} is not known; known are {', '.join(known)}", field="parameters"
            )


def _text(parameters: _Parameters, name: str) -> str:
    if name not in parameters:
        return ""
    if not parameters[name].HasField("string_param"):
        raise InvalidArgument(f"parameter {name!r} must be a string_param", field="parameters")
    return parameters[name].string_param


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


def _model_index(listing: Listing) -> pb.RepositoryIndexResponse.ModelIndex:
    return pb.RepositoryIndexResponse.ModelIndex(
        name=listing.key.model,
        version=listing.source.number,
        state=listing.state.value,
        reason=listing.reason,
    )
