"""The generated stub and handlers of the Parameters service, with `headrace.parameters.codec` in the place of the generated codec.

Only what has a chunk is recoded; the bytes on the wire, and all that a caller or an interceptor sees, stay as they are.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import grpc
from google.protobuf.descriptor import Descriptor
from google.protobuf.message_factory import GetMessageClass

from headrace.parameters import codec
from headrace.parameters.v1 import parameters_pb2
from headrace.parameters.v1.parameters_pb2_grpc import (
    ParametersServicer,
    ParametersStub,
    add_ParametersServicer_to_server,
)

_SERVICE = parameters_pb2.DESCRIPTOR.services_by_name["Parameters"]

Deserialize = Callable[[bytes], Any]


def parameters_stub(channel: grpc.Channel) -> ParametersStub:
    """Return the stub of a channel."""
    return ParametersStub(cast("grpc.Channel", _RecodedChannel(channel)))  # all of a channel that a stub uses


def add_parameters_servicer(servicer: ParametersServicer, server: grpc.Server) -> None:
    """Serve the service."""
    add_ParametersServicer_to_server(servicer, cast("grpc.Server", _RecodedServer(server)))


class _RecodedChannel:
    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def __getattr__(self, kind: str) -> Callable[..., Any]:
        """Return `unary_unary` and its siblings, by which a stub makes its calls."""
        make = getattr(self._channel, kind)

        def made(method: str, *, response_deserializer: Deserialize, **options: Any) -> Any:
            answer = _SERVICE.methods_by_name[method.rpartition("/")[2]].output_type
            recoded = options | {"request_serializer": codec.encode}
            return make(method, response_deserializer=_recoded(answer, response_deserializer), **recoded)

        return made


class _RecodedServer:
    def __init__(self, server: grpc.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Wait for the methods themselves, which come next."""

    def add_registered_method_handlers(
        self, service: str, handlers: "Mapping[str, grpc.RpcMethodHandler[Any, Any]]"
    ) -> None:
        """Serve the methods."""
        recoded = {name: _handler(name, handler) for name, handler in handlers.items()}
        generic = grpc.method_handlers_generic_handler(service, recoded)
        self._server.add_generic_rpc_handlers((generic,))
        self._server.add_registered_method_handlers(service, recoded)


def _handler(name: str, handler: Any) -> "grpc.RpcMethodHandler[Any, Any]":
    make, behavior = _KINDS[handler.request_streaming, handler.response_streaming]
    request = _recoded(_SERVICE.methods_by_name[name].input_type, handler.request_deserializer)
    return make(getattr(handler, behavior), request, codec.encode)


def _recoded(message: Descriptor, deserialize: Deserialize) -> Deserialize:
    return codec.decoder(GetMessageClass(message)) if "chunk" in message.fields_by_name else deserialize


_KINDS: "Mapping[tuple[bool, bool], tuple[Callable[..., grpc.RpcMethodHandler[Any, Any]], str]]" = {
    (False, False): (grpc.unary_unary_rpc_method_handler, "unary_unary"),
    (False, True): (grpc.unary_stream_rpc_method_handler, "unary_stream"),
    (True, False): (grpc.stream_unary_rpc_method_handler, "stream_unary"),
    (True, True): (grpc.stream_stream_rpc_method_handler, "stream_stream"),
}
