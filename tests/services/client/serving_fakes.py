"""Inference nodes and a scheduler that knows them, reduced to what a prediction needs, behind real servers."""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from headrace.errors import NotFound
from headrace.inference.messages import inputs_of
from headrace.inference.oip.descriptor_pool import POOL
from headrace.inference.oip.v2 import inference_pb2, inference_pb2_grpc
from headrace.inference.tensors import datatype_of, encode_raw
from headrace.rpc.authorization import Rule
from headrace.rpc.context import Role
from headrace.scheduler.v1 import deployments_pb2, deployments_pb2_grpc
from headrace.testing import serve
from headrace.testing.server import ServedChannel

DEPLOYMENT = "projects/default/deployments/double"
_RULES = {"/inference.GRPCInferenceService/ModelInfer": Rule(Role.VIEWER)}


class Doubling(inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Serves one model, which doubles `x`, until it is `unloaded`."""

    def __init__(self) -> None:
        self.calls = 0
        self.unloaded = False

    def ModelInfer(
        self, request: inference_pb2.ModelInferRequest, context: grpc.ServicerContext
    ) -> inference_pb2.ModelInferResponse:
        """Double."""
        self.calls += 1
        if self.unloaded or request.model_name != "double":
            raise NotFound(f"model {request.model_name!r} is not loaded")
        response = inference_pb2.ModelInferResponse(model_name=request.model_name)
        doubled = inputs_of(request)["x"] * 2
        response.outputs.add(name="y", datatype=datatype_of(doubled.dtype), shape=doubled.shape)
        response.raw_output_contents.append(encode_raw(doubled))
        return response


@contextmanager
def serve_replica(servicer: Doubling) -> Iterator[ServedChannel]:
    """Serve an inference node."""
    with serve(
        lambda server: inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server),
        rules=_RULES,
        pools=[POOL],
    ) as channel:
        yield channel


class OneDeployment(deployments_pb2_grpc.DeploymentsServicer):
    """Knows where `DEPLOYMENT` is served: at `addresses`."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)
        self.asked = 0

    def GetDeployment(
        self, request: deployments_pb2.GetDeploymentRequest, context: grpc.ServicerContext
    ) -> deployments_pb2.Deployment:
        """Tell."""
        self.asked += 1
        if request.name != DEPLOYMENT:
            raise NotFound(f"there is no {request.name}")
        serving = [deployments_pb2.Replica(address=address, ready=True) for address in self.addresses]
        return deployments_pb2.Deployment(name=DEPLOYMENT, replicas=2, serving=serving)


@contextmanager
def serve_deployments(servicer: OneDeployment) -> Iterator[str]:
    """Serve the scheduler's part and yield its address."""
    with serve(
        lambda server: deployments_pb2_grpc.add_DeploymentsServicer_to_server(servicer, server)
    ) as channel:
        yield channel.address
