"""The generated stubs and handlers of services whose messages are large, with codecs of our own in the place of the generated one.

Parameters, Replication and Resharding have chunks (`headrace.parameters.codec`), Rows packed numbers (`headrace.parameters.packed`); what has neither is not recoded.
The bytes on the wire, and all that a caller or an interceptor sees, stay as they are.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import grpc
from google.protobuf.descriptor import Descriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from headrace.parameters import codec, packed
from headrace.parameters.v1 import parameters_pb2, replication_pb2, resharding_pb2, rows_pb2
from headrace.parameters.v1.parameters_pb2_grpc import (
    ParametersServicer,
    ParametersStub,
    add_ParametersServicer_to_server,
)
from headrace.parameters.v1.replication_pb2_grpc import (
    ReplicationServicer,
    ReplicationStub,
    add_ReplicationServicer_to_server,
)
from headrace.parameters.v1.resharding_pb2_grpc import (
    ReshardingServicer,
    ReshardingStub,
    add_ReshardingServicer_to_server,
)
from headrace.parameters.v1.rows_pb2_grpc import RowsServicer, RowsStub, add_RowsServicer_to_server

Deserialize = Callable[[bytes], Any]


@dataclass(frozen=True)
class _Codec:
    """How the messages of a service are written and read."""

    service: ServiceDescriptor
    encode: Callable[[Any], bytes]
    decoder: Callable[[type[Any]], Deserialize]
    recodes: Callable[[Descriptor], bool]

    def recoded(self, message: Descriptor, deserialize: Deserialize) -> Deserialize:
        return self.decoder(GetMessageClass(message)) if self.recodes(message) else deserialize


def _has_chunk(message: Descriptor) -> bool:
    return "chunk" in message.fields_by_name


_PARAMETERS = _Codec(
    parameters_pb2.DESCRIPTOR.services_by_name["Parameters"], codec.encode, codec.decoder, _has_chunk
)
_RESHARDING = _Codec(
    resharding_pb2.DESCRIPTOR.services_by_name["Resharding"], codec.encode, codec.decoder, _has_chunk
)
_REPLICATION = _Codec(
    replication_pb2.DESCRIPTOR.services_by_name["Replication"], codec.encode, codec.decoder, _has_chunk
)
_ROWS = _Codec(rows_pb2.DESCRIPTOR.services_by_name["Rows"], packed.encode, packed.decoder, packed.has_packed)


def parameters_stub(channel: grpc.Channel) -> ParametersStub:
    """Return the stub of a channel."""
    # All of a channel that a stub uses.
    return ParametersStub(cast("grpc.Channel", _RecodedChannel(channel, _PARAMETERS)))


class OneMessageStub(Protocol):
    """The rpcs of a `ParametersStub` whose requests are streams, for a stream of one message; the answers are a stream too."""

    Push: "grpc.UnaryStreamMultiCallable[parameters_pb2.PushRequest, parameters_pb2.PushResponse]"
    PushPull: "grpc.UnaryStreamMultiCallable[parameters_pb2.PushPullRequest, parameters_pb2.PushPullResponse]"


def one_message_stub(channel: grpc.Channel) -> OneMessageStub:
    """Return the stub of a channel."""
    recoded = cast("grpc.Channel", _OneMessageChannel(channel, _PARAMETERS))
    return cast("OneMessageStub", ParametersStub(recoded))


def replication_stub(channel: grpc.Channel) -> ReplicationStub:
    """Return the stub of a channel."""
    return ReplicationStub(cast("grpc.Channel", _RecodedChannel(channel, _REPLICATION)))


def resharding_stub(channel: grpc.Channel) -> ReshardingStub:
    """Return the stub of a channel."""
    return ReshardingStub(cast("grpc.Channel", _RecodedChannel(channel, _RESHARDING)))


def rows_stub(channel: grpc.Channel) -> RowsStub:
    """Return the stub of a channel."""
    return RowsStub(cast("grpc.Channel", _RecodedChannel(channel, _ROWS)))


def add_parameters_servicer(servicer: ParametersServicer, server: grpc.Server) -> None:
    """Serve the service."""
    add_ParametersServicer_to_server(servicer, cast("grpc.Server", _RecodedServer(server, _PARAMETERS)))


def add_replication_servicer(servicer: ReplicationServicer, server: grpc.Server) -> None:
    """Serve the service."""
    add_ReplicationServicer_to_server(servicer, cast("grpc.Server", _RecodedServer(server, _REPLICATION)))


def add_resharding_servicer(servicer: ReshardingServicer, server: grpc.Server) -> None:
    """Serve the service."""
    add_ReshardingServicer_to_server(servicer, cast("grpc.Server", _RecodedServer(server, _RESHARDING)))


def add_rows_servicer(servicer: RowsServicer, server: grpc.Server) -> None:
    """Serve the service."""
    add_RowsServicer_to_server(servicer, cast("grpc.Server", _RecodedServer(server, _ROWS)))


class _RecodedChannel:
    def __init__(self, channel: grpc.Channel, codec: _Codec) -> None:
        self._channel = channel
        self._codec = codec

    def __getattr__(self, kind: str) -> Callable[..., Any]:
        """Return `unary_unary` and its siblings, by which a stub makes its calls."""
        make = getattr(self._channel, kind)

        def made(method: str, *, response_deserializer: Deserialize, **options: Any) -> Any:
            answer = self._codec.service.methods_by_name[method.rpartition("/")[2]].output_type
            recoded = options | {"request_serializer": self._codec.encode}
            read = self._codec.recoded(answer, response_deserializer)
            return make(method, response_deserializer=read, **recoded)

        return made


class _OneMessageChannel(_RecodedChannel):
    """Makes every call as one with a single request and a stream of answers: on the wire they are all the same."""

    def __getattr__(self, kind: str) -> Callable[..., Any]:
        """Return what takes the place of `stream_unary` and its siblings."""
        return super().__getattr__("unary_stream")


class _RecodedServer:
    def __init__(self, server: grpc.Server, codec: _Codec) -> None:
        self._server = server
        self._codec = codec

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Wait for the methods themselves, which come next."""

    def add_registered_method_handlers(
        self, service: str, handlers: "Mapping[str, grpc.RpcMethodHandler[Any, Any]]"
    ) -> None:
        """Serve the methods."""
        recoded = {name: _handler(name, handler, self._codec) for name, handler in handlers.items()}
        generic = grpc.method_handlers_generic_handler(service, recoded)
        self._server.add_generic_rpc_handlers((generic,))
        self._server.add_registered_method_handlers(service, recoded)


def _handler(name: str, handler: Any, codec: _Codec) -> "grpc.RpcMethodHandler[Any, Any]":
    make, behavior = _KINDS[handler.request_streaming, handler.response_streaming]
    request = codec.recoded(codec.service.methods_by_name[name].input_type, handler.request_deserializer)
    return make(getattr(handler, behavior), request, codec.encode)


_KINDS: "Mapping[tuple[bool, bool], tuple[Callable[..., grpc.RpcMethodHandler[Any, Any]], str]]" = {
    (False, False): (grpc.unary_unary_rpc_method_handler, "unary_unary"),
    (False, True): (grpc.unary_stream_rpc_method_handler, "unary_stream"),
    (True, False): (grpc.stream_unary_rpc_method_handler, "stream_unary"),
    (True, True): (grpc.stream_stream_rpc_method_handler, "stream_stream"),
}
