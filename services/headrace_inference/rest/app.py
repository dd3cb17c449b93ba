"""The routes of the protocol over HTTP: each calls the gRPC service as any caller does, so that its checks, limits and counts hold here too."""

import zlib
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from google.protobuf.message import Message
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from headrace.errors import Code, HeadraceError, InvalidArgument, OutOfRange, PermissionDenied
from headrace.inference.oip.v2 import inference_pb2 as pb
from headrace.inference.oip.v2 import model_config_pb2, repository_pb2, settings_pb2, statistics_pb2
from headrace.inference.oip.v2 import shared_memory_pb2 as shm
from headrace.inference.oip.v2.inference_pb2_grpc import GRPCInferenceServiceStub
from headrace.rpc.channel import open_aio_channel
from headrace.rpc.context import PROJECT_METADATA, REQUEST_ID_METADATA
from headrace_inference.rest.documents import Document, answer_of, ask_of, parse
from headrace_inference.rest.plain import document_of

TIMEOUT_S = 60.0
LOAD_TIMEOUT_S = 300.0  # as `headrace.inference.client`
MAX_DIGITS = 18  # of a size in bytes
DOCUMENT_SIZE = "Inference-Header-Content-Length"
FORWARDED = (PROJECT_METADATA, REQUEST_ID_METADATA, "traceparent", "tracestate")

# As Google's APIs map canonical codes to HTTP; all others are 500.
STATUS: Mapping[int, int] = {
    Code.INVALID_ARGUMENT: 400,
    Code.FAILED_PRECONDITION: 400,
    Code.OUT_OF_RANGE: 400,
    Code.UNAUTHENTICATED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.ABORTED: 409,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.CANCELLED: 499,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}


class Gateway:
    """Answers HTTP by calling the gRPC service at an address.

    Args:
        max_body_bytes: Largest body of a request, unpacked.
        hosts: Names that callers may know this server by, "*" for any.
    """

    def __init__(self, address: str, max_body_bytes: int, hosts: Sequence[str]) -> None:
        self._address = address
        self._hosts = list(hosts)
        self._max_body_bytes = max_body_bytes
        self._stub: Any = None

    def app(self) -> Starlette:
        """Return the ASGI application."""

        @asynccontextmanager
        async def lifespan(_: Starlette) -> Any:
            channel = open_aio_channel(self._address, max_message_bytes=self._max_body_bytes)
            self._stub = GRPCInferenceServiceStub(channel)
            yield
            await channel.close()

        return Starlette(
            routes=list(self._routes()),
            lifespan=lifespan,
            exception_handlers={HeadraceError: _refuse},
            # A page of the web that is open on this machine could else call with the rights of its user.
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=self._hosts, www_redirect=False)],
        )

    def _routes(self) -> Any:
        model, region = "/v2/models/{model}", "/v2/{kind}sharedmemory/region/{region}"
        get = ["GET"]
        yield Route("/v2", self._server, methods=get)
        yield Route("/v2/health/live", self._live, methods=get)
        yield Route("/v2/health/ready", self._ready, methods=get)
        yield Route("/v2/models/stats", self._statistics, methods=get)
        for path in (model, model + "/versions/{version}"):
            yield Route(path, self._metadata, methods=get)
            yield Route(path + "/ready", self._model_ready, methods=get)
            yield Route(path + "/config", self._config, methods=get)
            yield Route(path + "/stats", self._statistics, methods=get)
            yield Route(path + "/infer", self._infer, methods=["POST"])
        yield Route("/v2/repository/index", self._index, methods=["POST"])
        yield Route("/v2/repository/models/{model}/load", self._load, methods=["POST"])
        yield Route("/v2/repository/models/{model}/unload", self._unload, methods=["POST"])
        for path in ("/v2/{kind}sharedmemory", region):
            yield Route(path + "/status", self._regions, methods=get)
            yield Route(path + "/unregister", self._unregister, methods=["POST"])
        yield Route(region + "/register", self._register, methods=["POST"])
        for path in ("/v2/trace/setting", model + "/trace/setting"):
            yield Route(path, self._traces, methods=["GET", "POST"])
        yield Route("/v2/logging", self._logs, methods=["GET", "POST"])

    async def _call(self, request: Request, rpc: str, message: Message, timeout_s: float = TIMEOUT_S) -> Any:
        if "Origin" in request.headers:
            raise PermissionDenied("pages of the web are not answered; call from a program")
        metadata = [(name, request.headers[name]) for name in FORWARDED if name in request.headers]
        answer: Awaitable[Any] = getattr(self._stub, rpc)(message, timeout=timeout_s, metadata=metadata)
        return await answer

    async def _body(self, request: Request) -> bytes:
        """Read the whole body, unpacked.

        Raises:
            OutOfRange: It is too large.
            InvalidArgument: It is not packed as it says.
        """
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            self._check_size(len(body))
        packing = request.headers.get("Content-Encoding", "identity")
        if packing == "identity":
            return bytes(body)
        if packing not in ("gzip", "deflate"):
            raise InvalidArgument(f"Content-Encoding {packing!r} is not known; known are gzip and deflate")
        unpack = zlib.decompressobj(zlib.MAX_WBITS | 32)  # 32: either of the two
        try:
            unpacked = unpack.decompress(bytes(body), self._max_body_bytes + 1)
        except zlib.error as error:
            raise InvalidArgument(f"the body is not {packing}: {error}") from None
        self._check_size(len(unpacked))
        return unpacked

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._max_body_bytes:
            raise OutOfRange(f"the body has more than the {self._max_body_bytes} bytes allowed; send less")

    async def _document(self, request: Request) -> Document:
        document, _ = parse(await self._body(request), None)
        return document

    async def _server(self, request: Request) -> Response:
        return _plain(await self._call(request, "ServerMetadata", pb.ServerMetadataRequest()))

    async def _live(self, request: Request) -> Response:
        answer = await self._call(request, "ServerLive", pb.ServerLiveRequest())
        return _yes_or_no("live", answer.live)

    async def _ready(self, request: Request) -> Response:
        answer = await self._call(request, "ServerReady", pb.ServerReadyRequest())
        return _yes_or_no("ready", answer.ready)

    async def _model_ready(self, request: Request) -> Response:
        message = pb.ModelReadyRequest(**_model(request))
        answer = await self._call(request, "ModelReady", message)
        return _yes_or_no("ready", answer.ready, name=message.name)

    async def _metadata(self, request: Request) -> Response:
        return _plain(await self._call(request, "ModelMetadata", pb.ModelMetadataRequest(**_model(request))))

    async def _config(self, request: Request) -> Response:
        message = model_config_pb2.ModelConfigRequest(**_model(request))
        return _plain((await self._call(request, "ModelConfig", message)).config)

    async def _statistics(self, request: Request) -> Response:
        message = statistics_pb2.ModelStatisticsRequest(**_model(request))
        return _plain(await self._call(request, "ModelStatistics", message))

    async def _infer(self, request: Request) -> Response:
        named = _model(request)
        size = request.headers.get(DOCUMENT_SIZE)
        if size is not None and not (size.isdecimal() and len(size) <= MAX_DIGITS):
            raise InvalidArgument(f"{DOCUMENT_SIZE} is {size[:MAX_DIGITS]!r}; it must be a number of bytes")
        body = await self._body(request)
        ask = ask_of(named["name"], named["version"], body, None if size is None else int(size))
        answer, document_size = answer_of(ask, await self._call(request, "ModelInfer", ask.message))
        if document_size is None:
            return Response(answer, media_type="application/json")
        headers = {DOCUMENT_SIZE: str(document_size)}
        return Response(answer, media_type="application/octet-stream", headers=headers)

    async def _index(self, request: Request) -> Response:
        document = await self._document(request)
        message = repository_pb2.RepositoryIndexRequest(ready=document.get("ready") is True)
        answer = await self._call(request, "RepositoryIndex", message)
        return JSONResponse([document_of(one) for one in answer.models])

    async def _load(self, request: Request) -> Response:
        message = repository_pb2.RepositoryModelLoadRequest(model_name=request.path_params["model"])
        _put_texts(message.parameters, await self._document(request))
        await self._call(request, "RepositoryModelLoad", message, LOAD_TIMEOUT_S)
        return Response()

    async def _unload(self, request: Request) -> Response:
        message = repository_pb2.RepositoryModelUnloadRequest(model_name=request.path_params["model"])
        _put_texts(message.parameters, await self._document(request))
        await self._call(request, "RepositoryModelUnload", message, LOAD_TIMEOUT_S)
        return Response()

    async def _regions(self, request: Request) -> Response:
        kind, name = _region(request)
        message = getattr(shm, f"{kind}SharedMemoryStatusRequest")(name=name)
        answer = await self._call(request, f"{kind}SharedMemoryStatus", message)
        return JSONResponse([document_of(region) for _, region in sorted(answer.regions.items())])

    async def _register(self, request: Request) -> Response:
        kind, name = _region(request)
        document = await self._document(request)
        if kind == "Cuda":
            message: Message = shm.CudaSharedMemoryRegisterRequest(name=name)
        else:
            message = shm.SystemSharedMemoryRegisterRequest(name=name)
            _set(message, document, "key", "offset", "byte_size")
        await self._call(request, f"{kind}SharedMemoryRegister", message)
        return Response()

    async def _unregister(self, request: Request) -> Response:
        kind, name = _region(request)
        message = getattr(shm, f"{kind}SharedMemoryUnregisterRequest")(name=name)
        await self._call(request, f"{kind}SharedMemoryUnregister", message)
        return Response()

    async def _traces(self, request: Request) -> Response:
        message = settings_pb2.TraceSettingRequest(model_name=request.path_params.get("model", ""))
        for name, value in (await self._document(request)).items():
            values = value if isinstance(value, list) else [] if value is None else [value]
            message.settings[name].value.extend(str(one) for one in values)
        answer = await self._call(request, "TraceSetting", message)
        return JSONResponse({name: _one_or_all(value.value) for name, value in answer.settings.items()})

    async def _logs(self, request: Request) -> Response:
        message = settings_pb2.LogSettingsRequest()
        kinds = {bool: "bool_param", int: "uint32_param", str: "string_param"}
        for name, value in (await self._document(request)).items():
            if type(value) not in kinds:
                raise InvalidArgument(f"log setting {name!r} cannot be {value!r}")
            _set(message.settings[name], {kinds[type(value)]: value}, kinds[type(value)])
        answer = await self._call(request, "LogSettings", message)
        values = answer.settings.items()
        return JSONResponse(
            {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in values}
        )


def _model(request: Request) -> dict[str, str]:
    parameters = request.path_params
    return {"name": parameters.get("model", ""), "version": parameters.get("version", "")}


_KINDS = {"system": "System", "cuda": "Cuda"}


def _region(request: Request) -> tuple[str, str]:
    kind = request.path_params["kind"]
    if kind not in _KINDS:
        raise InvalidArgument(f"there is no {kind!r} shared memory; there is {' and '.join(_KINDS)}")
    return _KINDS[kind], request.path_params.get("region", "")


def _set(message: Message, document: Document, *fields: str) -> None:
    """Set fields of a message to values of a document, where it has them."""
    for name in fields:
        try:
            setattr(message, name, document.get(name, getattr(message, name)))
        except (TypeError, ValueError):
            raise InvalidArgument(f"field {name!r} cannot be {document[name]!r}", field=name) from None


def _put_texts(parameters: Any, document: Document) -> None:
    given = document.get("parameters", {})
    if not isinstance(given, dict):
        raise InvalidArgument(f"field 'parameters' is {given!r}; it must be an object", field="parameters")
    for name, value in given.items():
        kind = "bool_param" if isinstance(value, bool) else "string_param"
        _set(parameters[name], {kind: value}, kind)


def _plain(message: Message) -> Response:
    return JSONResponse(document_of(message))


def _one_or_all(values: Any) -> Any:
    return values[0] if len(values) == 1 else list(values)


def _yes_or_no(what: str, yes: bool, **more: str) -> Response:
    """Say it twice: Triton's clients look at the status, KServe's at the document."""
    return JSONResponse({**more, what: yes}, status_code=200 if yes else 400)


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, HeadraceError), "registered for those"
    headers = {} if error.retry_after_s is None else {"Retry-After": str(round(error.retry_after_s) or 1)}
    return JSONResponse({"error": error.message}, status_code=STATUS.get(error.code, 500), headers=headers)
