"""Calls a server knowing only its address, as grpcurl does: names and types come from reflection."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


class ReflectionClient:
    """Lists and calls what the server at `address` (host:port) says it has. Use as a context manager."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self._database = ProtoReflectionDescriptorDatabase(self._channel)
        self._pool = DescriptorPool(self._database)

    def __enter__(self) -> ReflectionClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def services(self) -> list[str]:
        """Return the full names of the services, sorted."""
        return sorted(self._database.get_services())

    def call(self, method: str, *requests: dict[str, Any], timeout_s: float = 30) -> list[dict[str, Any]]:
        """Call `package.Service/Method`.

        Args:
            requests: Messages as JSON objects; none means one empty message.
        Returns:
            The responses as JSON objects with the protos' field names.
        Raises:
            grpc.RpcError: The call failed.
            KeyError: The server describes no such method.
        """
        descriptor = self._method(method)
        messages = [self._parse(descriptor, request) for request in requests or ({},)]
        responses = self._invoke(descriptor, method, messages, timeout_s)
        return [
            MessageToDict(response, preserving_proto_field_name=True, descriptor_pool=self._pool)
            for response in responses
        ]

    def _method(self, method: str) -> MethodDescriptor:
        service, _, name = method.partition("/")
        return self._pool.FindServiceByName(service).methods_by_name[name]

    def _parse(self, descriptor: MethodDescriptor, request: dict[str, Any]) -> Any:
        return ParseDict(request, GetMessageClass(descriptor.input_type)(), descriptor_pool=self._pool)

    def _invoke(
        self, descriptor: MethodDescriptor, method: str, messages: list[Any], timeout_s: float
    ) -> Iterable[Any]:
        kinds: dict[tuple[bool, bool], Any] = {
            (False, False): self._channel.unary_unary,
            (False, True): self._channel.unary_stream,
            (True, False): self._channel.stream_unary,
            (True, True): self._channel.stream_stream,
        }
        many_in, many_out = descriptor.client_streaming, descriptor.server_streaming
        call = kinds[many_in, many_out](
            f"/{method}",
            request_serializer=GetMessageClass(descriptor.input_type).SerializeToString,
            response_deserializer=GetMessageClass(descriptor.output_type).FromString,
        )
        answer: Any = call(iter(messages) if many_in else messages[0], timeout=timeout_s)
        return answer if many_out else [answer]


def parse_grpcurl(words: list[str]) -> tuple[str, str, list[dict[str, Any]]]:
    """Read the arguments of a grpcurl command: `-plaintext [-d JSON] ADDRESS METHOD|list`.

    Returns:
        The address, the method (or "list"), and the requests.
    """
    rest = [word for word in words if word != "-plaintext"]
    requests: list[dict[str, Any]] = []
    if rest[0] == "-d":
        requests = [json.loads(rest[1])]
        rest = rest[2:]
    address, method = rest
    return address, method, requests
