"""A gRPC server as every headrace service wants it: bounded, observable, describing itself, leaving in good order."""

import socket
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_channelz.v1 import channelz
from grpc_channelz.v1.channelz_pb2 import DESCRIPTOR as CHANNELZ
from grpc_health.v1.health_pb2 import DESCRIPTOR as HEALTH
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry

from headrace.rpc.addresses import join_address, split_address
from headrace.rpc.admission import Admission
from headrace.rpc.authorization import Authenticate, Authorization, Rule, local_user
from headrace.rpc.errors import answer_error
from headrace.rpc.front_end import FrontEnd, GrpcioFrontEnd
from headrace.rpc.health import Health
from headrace.rpc.lanes.server import Lanes
from headrace.rpc.layers import INFRASTRUCTURE, FindHandler, Handler, Layers
from headrace.rpc.observation import RpcMetrics
from headrace.rpc.reflection import CompositePool
from headrace.rpc.tls import TlsCredentials
from headrace.rpc.tracing import Traced

SPARE_THREADS = 8  # for health, reflection and channelz, and to tell callers politely that the server is full
_OPEN = Layers((), answer_error, ())  # for health, reflection and channelz
LAST_WORDS_S = 0.5  # after the drain, for statuses still on their way out


@dataclass
class _Details:
    """A `grpc.HandlerCallDetails`."""

    method: str
    invocation_metadata: tuple[tuple[str, str | bytes], ...] = ()


class _Infrastructure:
    """Collects the handlers of health, channelz and reflection, as a `grpc.Server` would."""

    def __init__(self) -> None:
        self.handlers: list[grpc.GenericRpcHandler] = []

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Any) -> None:
        """Remember a service."""
        self.handlers += generic_rpc_handlers

    def add_registered_method_handlers(self, service_name: str, method_handlers: Any) -> None:
        """Do nothing, as in `Server`."""


class AddressUnavailable(Exception):
    """The server cannot listen where it was told to."""


class Server(grpc.Server):
    """A `grpc.Server` with the layers of headrace; pass it to the generated `add_XServicer_to_server`.

    Args:
        address: `host:port`; port 0 takes a free one.
        max_concurrent_rpcs: Calls served at a time, streams included; one more is refused, nothing queues.
        max_message_bytes: Largest message taken or sent.
        rules: Access rules for services whose protos declare none, by `/package.Service/Method`.
        pools: Descriptor pools, beside the default one, of services that are served here.
        authenticate: Who calls.
        metrics: Where the rpc metrics are registered; nowhere else if None.
        probes: Rpcs that are answered even when the server is full or draining: see `Admission`.
        turbo: Speak HTTP/2 by `headrace.rpc.turbo` instead of grpcio (decision 0070).
        tls: What it shows to callers, who then come by TLS; without it they come by plain TCP.

    `lanes` offers its unary rpcs to callers of this machine in a quicker way; nobody gets in who was not invited by an rpc.
    """

    def __init__(
        self,
        address: str,
        *,
        max_concurrent_rpcs: int = 64,
        max_message_bytes: int = 64 << 20,
        rules: Mapping[str, Rule] | None = None,
        pools: Sequence[DescriptorPool] = (),
        authenticate: Authenticate = local_user,
        metrics: CollectorRegistry | None = None,
        probes: Collection[str] = (),
        turbo: bool = False,
        tls: TlsCredentials | None = None,
    ) -> None:
        self._address = address
        self._tls = tls
        self._pools = pools
        self._admission = Admission(max_concurrent_rpcs, probes)
        self._health = Health(max_watchers=SPARE_THREADS // 2)
        threads = max_concurrent_rpcs + SPARE_THREADS
        self._layers = Layers(
            observers=(Traced(), RpcMetrics(metrics or CollectorRegistry())),
            answer_error=answer_error,
            gates=(self._admission, Authorization(rules, pools, authenticate)),
        )
        self._handlers: list[grpc.ServiceRpcHandler] = []
        self._infrastructure = _Infrastructure()
        self._found: dict[str, Handler] = {}
        self.lanes = Lanes(self._service_handler, max_concurrent_rpcs)
        self._front: FrontEnd = (
            _turbo(self._handler, threads, max_message_bytes)
            if turbo
            else GrpcioFrontEnd(self._handler, threads, server_options(max_message_bytes))
        )

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Any) -> None:
        """Serve a service; the generated code calls this."""
        self._handlers += generic_rpc_handlers

    def add_registered_method_handlers(self, service_name: str, method_handlers: Any) -> None:
        """Do nothing: every service comes through `add_generic_rpc_handlers` as well; the generated code calls both."""

    def start(self) -> str:  # type: ignore[override]  # says where, which grpc's does not
        """Begin to serve and return the real address.

        Raises:
            AddressUnavailable: Something else listens there, or the host is not of this machine.
        """
        host, _ = split_address(self._address)
        self._describe()
        port = self._listen(self._address, self._tls)
        self._front.start()
        return join_address(host, port)

    def add_insecure_port(self, address: str) -> int:
        """Listen at one more address.

        Raises:
            AddressUnavailable: Something else listens there, or the host is not of this machine.
        """
        return self._listen(address, None)

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        """Listen at one more address, by TLS; turbo needs `TlsCredentials`.

        Raises:
            AddressUnavailable: Something else listens there, or the host is not of this machine.
        """
        return self._listen(address, server_credentials)

    def _listen(self, address: str, credentials: grpc.ServerCredentials | None) -> int:
        _check_free(address)
        try:
            return self._front.listen(address, credentials)
        except OSError as error:  # somebody was faster
            raise AddressUnavailable(f"cannot listen on {address}") from error

    def _service_handler(self, method: str) -> "Handler | None":
        """Find the handler of an rpc of a service: what lanes offer."""
        return None if method.startswith(INFRASTRUCTURE) else self._handler(method)

    def _handler(self, method: str) -> "Handler | None":
        """Find the handler of any rpc, with the layers around it."""
        found = self._found.get(method)
        if found is None and (bare := self._bare_handler(_Details(method))) is not None:
            layers = _OPEN if method.startswith(INFRASTRUCTURE) else self._layers
            found = self._found[method] = layers.around(method, bare)
        return found

    def _bare_handler(self, details: grpc.HandlerCallDetails) -> "Handler | None":
        handlers = (*self._handlers, *self._infrastructure.handlers)
        return next((found for handler in handlers if (found := handler.service(details))), None)

    def _describe(self) -> None:
        """Add health, channelz and reflection, which know the services by name."""
        services = [handler.service_name() for handler in self._handlers]
        add_HealthServicer_to_server(self._health, self._infrastructure)
        channelz.add_channelz_servicer(self._infrastructure)
        served = [*services, _only_service(HEALTH), _only_service(CHANNELZ), reflection.SERVICE_NAME]
        reflection.enable_server_reflection(served, self._infrastructure, pool=CompositePool(self._pools))
        for service in services:
            self._health.set(service, serving=True)

    def set_serving(self, service: str, *, serving: bool) -> None:
        """Change what health says of one service, or of the server as a whole under the empty name."""
        self._health.set(service, serving=serving)

    def drain(self, bound_s: float) -> bool:
        """Stop in good order: report NOT_SERVING, refuse new calls, let running ones finish, end streams that listen.

        Args:
            bound_s: Seconds the running calls get; then they are cancelled.
        Returns:
            Whether every handler has returned. If not, its thread still runs and keeps the interpreter from ending.
        """
        self._health.leave()
        finished = self._admission.drain(bound_s)
        self.lanes.close(at_once=not finished)
        self._front.stop(LAST_WORDS_S if finished else 0).wait(LAST_WORDS_S * 2)
        return finished or self._admission.drain(LAST_WORDS_S)

    def stop(self, grace: float | None) -> threading.Event:
        """Stop as `grpc.Server.stop` does, without the good order of `drain`."""
        self.lanes.close(at_once=True)
        return self._front.stop(grace)

    def wait_for_termination(self, timeout: float | None = None) -> bool:
        """Block until the server has stopped or `timeout` seconds have passed; return whether it timed out."""
        return not self._front.wait(timeout)


def _turbo(find: FindHandler, threads: int, max_message_bytes: int) -> FrontEnd:
    """Only who chooses it needs its libraries."""
    from headrace.rpc.turbo.front_end import TurboFrontEnd

    return TurboFrontEnd(find, threads, max_message_bytes)


def _check_free(address: str) -> None:
    """Bind once ourselves: gRPC does not say why it cannot, and writes lines of its own to standard error."""
    host, port = split_address(address)
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            # As gRPC does: a closed port is free at once.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        raise AddressUnavailable(f"cannot listen on {address}: {error.strerror}") from error


def _only_service(file: Any) -> str:
    (service,) = file.services_by_name.values()
    return str(service.full_name)


def server_options(max_message_bytes: int) -> list[tuple[str, int]]:
    """Return gRPC's options for a headrace server, which fit those of `headrace.rpc.channel`."""
    return [
        ("grpc.so_reuseport", 0),  # else two servers share a port in silence
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.enable_channelz", 1),
        # Clients ping every 10 s to notice a frozen server; without this leave they would be sent away for it.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # gRPC pings for reasons of its own as well (a new estimate of the bandwidth, several channels on one connection): a watch
        # in which nothing happened for long would end with GOAWAY "too_many_pings".
        ("grpc.http2.max_ping_strikes", 0),
        # The other way round: a caller that froze or vanished without a word gives its threads back.
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.ping_timeout_ms", 10_000),
    ]
