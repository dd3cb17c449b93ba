"""A real server for one test."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grpc
from google.protobuf.descriptor_pool import Default, DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from headrace.rpc.authorization import Authenticate, Rule, local_user
from headrace.rpc.channel import open_channel
from headrace.rpc.server import Server


class ServedChannel(grpc.Channel):
    """A channel that knows its server."""

    server: Server
    address: str


@contextlib.contextmanager
def serve(
    *register: Callable[[Server], object],
    rules: Mapping[str, Rule] | None = None,
    pools: Sequence[DescriptorPool] = (),
    authenticate: Authenticate = local_user,
    timeout_s: float = 10.0,
    project: str = "",
    **options: Any,
) -> Iterator[ServedChannel]:
    """Serve what `register` adds on a free loopback port and yield an open channel to it.

    Args:
        register: Called with the server: `lambda server: add_ModelsServicer_to_server(ModelsServicer(...), server)`.
        rules, pools, authenticate, options: As `Server` takes them.
        timeout_s, project: As `open_channel` takes them.
    """
    options.setdefault("turbo", os.environ.get("HEADRACE_TEST_FRONT_END") == "turbo")
    server = Server("127.0.0.1:0", rules=rules, pools=pools, authenticate=authenticate, **options)
    for add in register:
        add(server)
    address = server.start()
    channel: Any = open_channel(address, timeout_s=timeout_s, project=project)
    channel.address, channel.server = address, server
    try:
        yield channel
    finally:
        channel.close()
        server.stop(0).wait()


def handler(method: str, behavior: Callable[[Any, grpc.ServicerContext], Any]) -> Callable[[Server], None]:
    """Return what registers a single rpc of a service, for a test that needs no more of it.

    Args:
        method: `package.Service/Method`, of imported stubs.
        behavior: As a servicer's method, without `self`.
    """
    service, _, name = method.partition("/")
    described = Default().FindServiceByName(service).methods_by_name[name]
    make = getattr(
        grpc, f"{_arity(described.client_streaming)}_{_arity(described.server_streaming)}_rpc_method_handler"
    )
    rpc = make(
        behavior,
        request_deserializer=GetMessageClass(described.input_type).FromString,
        response_serializer=GetMessageClass(described.output_type).SerializeToString,
    )
    return lambda server: server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(service, {name: rpc})]
    )


def _arity(streaming: bool) -> str:
    return "stream" if streaming else "unary"
