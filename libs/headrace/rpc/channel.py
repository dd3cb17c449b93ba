"""Channels to headrace services: they notice a frozen peer, retry what may be retried, and raise `headrace.errors`.

    channel = open_channel("127.0.0.1:8471")
    model = ModelsStub(channel).GetModel(request)      # 30 s deadline unless `timeout=` says otherwise

gRPC itself repeats a call that ended UNAVAILABLE, if its rpc is unary and declares `idempotency_level`; a stream is
begun again by whoever produces or reads it. It learns which rpcs those are from the stubs that are imported when the
channel is opened, so import the stubs first.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import grpc.experimental
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions

from headrace.rpc.calls import Defaults, SyncCalls

TIMEOUT_S = 30.0
MAX_MESSAGE_BYTES = 64 << 20
REPEATABLE = (MethodOptions.NO_SIDE_EFFECTS, MethodOptions.IDEMPOTENT)

# 4 tries over about 1 s bridge a connection reset; whoever must bridge a restart keeps trying above this.
RETRY_POLICY = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "0.5s",
    "backoffMultiplier": 3,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


def open_channel(
    address: str,
    *,
    timeout_s: float = TIMEOUT_S,
    project: str = "",
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    patient: bool = False,
    reads_itself: bool = False,
) -> grpc.Channel:
    """Open a channel; it connects with the first call. Never fork afterwards.

    Args:
        address: `host:port`.
        timeout_s: Deadline of unary calls whose caller gives none. Streams have none of their own.
        project: Where names without a project belong; empty leaves that to the server.
        max_message_bytes: Largest message sent or taken.
        patient: Once the server has answered, unary calls wait out its restarts, up to their deadlines.
        reads_itself: Whoever asks for the next message of an answer reads it, where else a thread of gRPC's would hand it over: a call of 1 MB
            takes half the time. A call with one request and a stream of answers then does nothing that nobody waits for.
    """
    options: list[tuple[str, int | str]] = channel_options(max_message_bytes)
    if reads_itself:
        options.append((grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1))
    channel = grpc.insecure_channel(address, options=options)
    return grpc.intercept_channel(channel, SyncCalls(Defaults(address, timeout_s, project, patient)))


def open_aio_channel(
    address: str,
    *,
    timeout_s: float = TIMEOUT_S,
    project: str = "",
    max_message_bytes: int = MAX_MESSAGE_BYTES,
    patient: bool = False,
) -> grpc.aio.Channel:
    """Open the asyncio twin of `open_channel`, with the same arguments, inside a running event loop."""
    from headrace.rpc.aio_calls import aio_interceptors

    return grpc.aio.insecure_channel(
        address,
        options=channel_options(max_message_bytes),
        interceptors=aio_interceptors(Defaults(address, timeout_s, project, patient)),
    )


def channel_options(max_message_bytes: int) -> list[tuple[str, int | str]]:
    """Return gRPC's options for a channel to a headrace service."""
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        # A peer that is frozen (SIGSTOP, a dead network) is noticed within 15 s; keepalive alone does not do it.
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.http2.ping_timeout_ms", 5_000),
        ("grpc.http2.max_pings_without_data", 0),
        # A service that restarts is back within seconds, and workers wait for it; gRPC would wait up to two minutes to look again.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 500),
        ("grpc.per_rpc_retry_buffer_size", max_message_bytes),  # a larger message than this is never retried
        ("grpc.service_config", json.dumps(_service_config())),
    ]


def _service_config() -> dict[str, Any]:
    """Tell gRPC which rpcs it may repeat. It has no deadlines: `timeout` in a service config misbehaves."""
    repeatable = [
        {"service": service.full_name, "method": method.name}
        for service in _imported_services()
        for method in service.methods
        if is_repeatable(method)
    ]
    return {"methodConfig": [{"name": repeatable, "retryPolicy": RETRY_POLICY}]} if repeatable else {}


def is_repeatable(method: MethodDescriptor) -> bool:
    """Tell whether gRPC may repeat the rpc: it is unary and declares that a second call does no harm.

    A response stream is not repeated: with a retry policy, grpcio 1.85.1 never ends one whose server was killed before
    it sent its first message, not even at the deadline.
    """
    unary = not (method.client_streaming or method.server_streaming)
    return unary and method.GetOptions().idempotency_level in REPEATABLE


def _imported_services() -> Iterator[ServiceDescriptor]:
    for name, module in sorted(sys.modules.items()):
        if name.startswith("headrace.") and name.endswith("_pb2"):
            file: FileDescriptor = module.DESCRIPTOR
            yield from file.services_by_name.values()
