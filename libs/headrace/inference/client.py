"""Clients of any server of the Open Inference Protocol: arrays in, arrays out.

    with InferenceClient("127.0.0.1:8472") as client:
        logits = client.infer("digits", {"image": images})["logits"]

Every call has a deadline. All methods raise the errors of `headrace.errors`. BYTES are arrays of `bytes`, BF16 arrays
of `ml_dtypes.bfloat16`: see `headrace.inference.tensors`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy.typing as npt

from headrace.inference.messages import infer_request, outputs_of
from headrace.inference.oip.v2 import inference_pb2 as pb
from headrace.inference.oip.v2 import repository_pb2
from headrace.inference.oip.v2.inference_pb2_grpc import GRPCInferenceServiceStub
from headrace.inference.tensors import Array
from headrace.rpc.channel import open_aio_channel, open_channel

TIMEOUT_S = 30.0
LOAD_TIMEOUT_S = 300.0  # a load fetches the file and compiles it; the largest the registry takes need minutes


@dataclass(frozen=True)
class TensorMetadata:
    """One input or output of a model: `shape` has the batch dimension and -1 where the size may vary."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ModelMetadata:
    """What a model takes and gives, and the versions that are loaded."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]
    properties: Mapping[str, str]


@dataclass(frozen=True)
class ModelState:
    """One model a server has: `state` is "READY", "LOADING", "UNLOADING" or "UNAVAILABLE" for `reason`."""

    name: str
    version: str
    state: str
    reason: str


@dataclass(frozen=True)
class ServerMetadata:
    """What a server is."""

    name: str
    version: str
    extensions: tuple[str, ...]


class InferenceClient:
    """Calls one inference server; open it once, share it among threads, close it.

    Args:
        address: host:port.
        timeout_s: Deadline of a call that is given none.
        project: Where the model names belong; empty leaves that to the server.
    """

    def __init__(self, address: str, *, timeout_s: float = TIMEOUT_S, project: str = "") -> None:
        self._channel = open_channel(address, timeout_s=timeout_s, project=project)
        self._stub = GRPCInferenceServiceStub(self._channel)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def server_live(self, *, timeout_s: float | None = None) -> bool:
        """Tell whether the server runs."""
        return self._stub.ServerLive(pb.ServerLiveRequest(), timeout=timeout_s).live

    def server_ready(self, *, timeout_s: float | None = None) -> bool:
        """Tell whether the server takes inference requests."""
        return self._stub.ServerReady(pb.ServerReadyRequest(), timeout=timeout_s).ready

    def server_metadata(self, *, timeout_s: float | None = None) -> ServerMetadata:
        """Describe the server."""
        answer = self._stub.ServerMetadata(pb.ServerMetadataRequest(), timeout=timeout_s)
        return ServerMetadata(answer.name, answer.version, tuple(answer.extensions))

    def model_ready(self, model: str, version: str = "", *, timeout_s: float | None = None) -> bool:
        """Tell whether `infer` would be taken; an unknown model is not ready."""
        request = pb.ModelReadyRequest(name=model, version=version)
        return self._stub.ModelReady(request, timeout=timeout_s).ready

    def metadata(self, model: str, version: str = "", *, timeout_s: float | None = None) -> ModelMetadata:
        """Describe a loaded model.

        Raises:
            NotFound: It is not loaded.
        """
        request = pb.ModelMetadataRequest(name=model, version=version)
        return _model_metadata(self._stub.ModelMetadata(request, timeout=timeout_s))

    def infer(
        self,
        model: str,
        inputs: Mapping[str, npt.ArrayLike],
        *,
        version: str = "",
        outputs: Iterable[str] = (),
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> dict[str, Array]:
        """Run `model` once.

        Args:
            version: The version that shall answer; empty leaves the choice to the server.
            outputs: The wished outputs; empty means all.
            request_id: Echoed by the server.
        Returns:
            The outputs by name; read-only.
        Raises:
            NotFound: The model or version is not loaded.
            InvalidArgument: A name, dtype or shape is not the model's.
            ResourceExhausted: The model's queue is full.
        """
        request = infer_request(model, inputs, version=version, outputs=outputs, request_id=request_id)
        return outputs_of(self._stub.ModelInfer(request, timeout=timeout_s))

    def load(
        self, model: str, *, version: str = "", file: str = "", timeout_s: float = LOAD_TIMEOUT_S
    ) -> None:
        """Load a model, or load it again; the version being served goes on until the new one is ready.

        Args:
            model: The name to serve under.
            version: Registry name of a version, by number or alias; empty means the newest of the model of that name.
            file: Path of the version's file; empty means its serving file.
        Raises:
            NotFound: The registry has no such version or file.
            FailedPrecondition: The file cannot be served.
            ResourceExhausted: The server has as many models as it takes.
        """
        self._stub.RepositoryModelLoad(_load_request(model, version, file), timeout=timeout_s)

    def unload(self, model: str, *, timeout_s: float | None = None) -> None:
        """Unload a model when its requests are answered.

        Raises:
            NotFound: It is not loaded.
        """
        self._stub.RepositoryModelUnload(
            repository_pb2.RepositoryModelUnloadRequest(model_name=model), timeout=timeout_s
        )

    def index(self, *, ready: bool = False, timeout_s: float | None = None) -> list[ModelState]:
        """List the models the server has, by name; if `ready`, only those that take requests."""
        answer = self._stub.RepositoryIndex(
            repository_pb2.RepositoryIndexRequest(ready=ready), timeout=timeout_s
        )
        return [ModelState(one.name, one.version, one.state, one.reason) for one in answer.models]


class AsyncInferenceClient:
    """The asyncio twin of `InferenceClient`, for inference itself; make it inside a running event loop."""

    def __init__(self, address: str, *, timeout_s: float = TIMEOUT_S, project: str = "") -> None:
        self._channel = open_aio_channel(address, timeout_s=timeout_s, project=project)
        self._stub = GRPCInferenceServiceStub(self._channel)

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def model_ready(self, model: str, version: str = "", *, timeout_s: float | None = None) -> bool:
        """As `InferenceClient.model_ready`."""
        request = pb.ModelReadyRequest(name=model, version=version)
        return (await self._stub.ModelReady(request, timeout=timeout_s)).ready

    async def metadata(
        self, model: str, version: str = "", *, timeout_s: float | None = None
    ) -> ModelMetadata:
        """As `InferenceClient.metadata`."""
        request = pb.ModelMetadataRequest(name=model, version=version)
        return _model_metadata(await self._stub.ModelMetadata(request, timeout=timeout_s))

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, npt.ArrayLike],
        *,
        version: str = "",
        outputs: Iterable[str] = (),
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> dict[str, Array]:
        """As `InferenceClient.infer`."""
        request = infer_request(model, inputs, version=version, outputs=outputs, request_id=request_id)
        return outputs_of(await self._stub.ModelInfer(request, timeout=timeout_s))


def _load_request(model: str, version: str, file: str) -> repository_pb2.RepositoryModelLoadRequest:
    request = repository_pb2.RepositoryModelLoadRequest(model_name=model)
    for key, value in (("version", version), ("file", file)):
        if value:
            request.parameters[key].string_param = value
    return request


def _model_metadata(answer: pb.ModelMetadataResponse) -> ModelMetadata:
    return ModelMetadata(
        name=answer.name,
        versions=tuple(answer.versions),
        platform=answer.platform,
        inputs=tuple(map(_tensor_metadata, answer.inputs)),
        outputs=tuple(map(_tensor_metadata, answer.outputs)),
        properties=dict(answer.properties),
    )


def _tensor_metadata(tensor: pb.ModelMetadataResponse.TensorMetadata) -> TensorMetadata:
    return TensorMetadata(tensor.name, tensor.datatype, tuple(tensor.shape))
