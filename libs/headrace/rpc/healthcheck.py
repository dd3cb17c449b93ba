"""Asks one server whether it serves: `python -m headrace.rpc.healthcheck 127.0.0.1:8471`, status 0 if it does.

Made for container health checks, which have no other gRPC client at hand.
"""

from __future__ import annotations

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_S = 3.0


def serving(address: str, timeout_s: float = TIMEOUT_S) -> bool:
    """Return whether the server at `address` (host:port) says that it serves."""
    with grpc.insecure_channel(address) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=timeout_s
            )
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def main(arguments: list[str]) -> int:
    """Return the exit status: 0 serving, 1 not, 2 for wrong arguments."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m headrace.rpc.healthcheck HOST:PORT\n")
        return 2
    if serving(arguments[0]):
        return 0
    sys.stderr.write(f"{arguments[0]} does not serve\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
