"""Answers from whichever replica of a deployment is there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from headrace.client.naming import short
from headrace.client.replicas import Replicas
from headrace.client.retries import Retries
from headrace.errors import DeadlineExceeded, NotFound, Unavailable
from headrace.scheduler.v1.deployments_pb2 import GetDeploymentRequest
from headrace.scheduler.v1.deployments_pb2_grpc import DeploymentsStub

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from headrace.inference.client import InferenceClient, ModelMetadata

TIMEOUT_S = 30.0
Answer = TypeVar("Answer")


class Predictor:
    """Finds the ready replicas of deployments, keeps channels to them, and asks another when one is gone.

    A deployment's replicas are asked for once, and again when one of them fails. Threads may share a predictor.
    """

    def __init__(self, deployments: DeploymentsStub, project: str) -> None:
        self._deployments = deployments
        self._project = project
        self._replicas = Replicas()
        self._lock = threading.Lock()
        self._clients: dict[str, InferenceClient] = {}

    def predict(
        self, deployment: str, inputs: Mapping[str, npt.ArrayLike], timeout_s: float
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Run the deployment's model once; `deployment` is a full name."""
        model = short(deployment)
        return self._ask(
            deployment, timeout_s, lambda client, left_s: client.infer(model, inputs, timeout_s=left_s)
        )

    def metadata(self, deployment: str, timeout_s: float) -> ModelMetadata:
        """Describe the deployment's model; `deployment` is a full name."""
        model = short(deployment)
        return self._ask(
            deployment, timeout_s, lambda client, left_s: client.metadata(model, timeout_s=left_s)
        )

    def close(self) -> None:
        """Close the channels."""
        with self._lock:
            clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()

    def _ask(
        self, deployment: str, timeout_s: float, question: Callable[[InferenceClient, float], Answer]
    ) -> Answer:
        retries = Retries(timeout_s)
        while True:
            try:
                address = self._replicas.pick(deployment) or self._resolve(deployment, retries.remaining_s)
            except Unavailable as error:
                if not self._replicas.knows(deployment):  # a scheduler that never answered is not waited for
                    raise
                time.sleep(retries.pause_after(error))
                continue
            try:
                return question(self._client(address), retries.remaining_s)
            # The node is gone, or has another model now; the deployment tells where to go.
            except (Unavailable, NotFound) as error:
                self._replicas.drop(deployment, address)
                time.sleep(retries.pause_after(error))
            except DeadlineExceeded as error:
                raise retries.cause(error) from None

    def _resolve(self, deployment: str, timeout_s: float) -> str:
        request = GetDeploymentRequest(name=deployment)
        return self._replicas.learn(self._deployments.GetDeployment(request, timeout=timeout_s))

    def _client(self, address: str) -> InferenceClient:
        from headrace.inference.client import InferenceClient  # brings numpy

        with self._lock:
            if address not in self._clients:
                self._clients[address] = InferenceClient(address, project=self._project)
            return self._clients[address]
