"""The asyncio twin of `headrace.client.prediction`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from headrace.client.naming import short
from headrace.client.replicas import Replicas
from headrace.client.retries import Retries
from headrace.errors import DeadlineExceeded, NotFound, Unavailable
from headrace.scheduler.v1.deployments_pb2 import GetDeploymentRequest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from headrace.inference.client import AsyncInferenceClient, ModelMetadata
    from headrace.scheduler.v1.deployments_pb2_grpc import DeploymentsAsyncStub

Answer = TypeVar("Answer")


class AsyncPredictor:
    """Does as `headrace.client.prediction.Predictor`, for the tasks of one event loop."""

    def __init__(self, deployments: DeploymentsAsyncStub, project: str) -> None:
        self._deployments = deployments
        self._project = project
        self._replicas = Replicas()
        self._clients: dict[str, AsyncInferenceClient] = {}

    async def predict(
        self, deployment: str, inputs: Mapping[str, npt.ArrayLike], timeout_s: float
    ) -> dict[str, np.ndarray[Any, Any]]:
        """As `Predictor.predict`."""
        model = short(deployment)
        return await self._ask(
            deployment, timeout_s, lambda client, left_s: client.infer(model, inputs, timeout_s=left_s)
        )

    async def metadata(self, deployment: str, timeout_s: float) -> ModelMetadata:
        """As `Predictor.metadata`."""
        model = short(deployment)
        return await self._ask(
            deployment, timeout_s, lambda client, left_s: client.metadata(model, timeout_s=left_s)
        )

    async def close(self) -> None:
        """As `Predictor.close`."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.close()

    async def _ask(
        self,
        deployment: str,
        timeout_s: float,
        question: Callable[[AsyncInferenceClient, float], Awaitable[Answer]],
    ) -> Answer:
        retries = Retries(timeout_s)
        while True:
            try:
                address = self._replicas.pick(deployment) or await self._resolve(
                    deployment, retries.remaining_s
                )
            except Unavailable as error:
                if not self._replicas.knows(deployment):  # a scheduler that never answered is not waited for
                    raise
                await asyncio.sleep(retries.pause_after(error))
                continue
            try:
                return await question(self._client(address), retries.remaining_s)
            # The node is gone, or has another model now; the deployment tells where to go.
            except (Unavailable, NotFound) as error:
                self._replicas.drop(deployment, address)
                await asyncio.sleep(retries.pause_after(error))
            except DeadlineExceeded as error:
                raise retries.cause(error) from None

    async def _resolve(self, deployment: str, timeout_s: float) -> str:
        request = GetDeploymentRequest(name=deployment)
        return self._replicas.learn(await self._deployments.GetDeployment(request, timeout=timeout_s))

    def _client(self, address: str) -> AsyncInferenceClient:
        from headrace.inference.client import AsyncInferenceClient  # brings numpy

        if address not in self._clients:
            self._clients[address] = AsyncInferenceClient(address, project=self._project)
        return self._clients[address]
