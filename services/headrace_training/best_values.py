"""The best values of a run, kept in the registry: as safe as any checkpoint, before anybody hears of them."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import structlog
import torch
from google.protobuf import json_format
from safetensors.torch import load_file, save_file

from headrace.errors import HeadraceError
from headrace.names import TaskName
from headrace.registry.client import RegistryClient
from headrace.rpc.channel import open_channel
from headrace.scheduler.v1.jobs_pb2 import GetJobRequest
from headrace.scheduler.v1.jobs_pb2_grpc import JobsStub
from headrace.training.v1.workers_pb2 import StartTaskRequest
from headrace.types.v1 import task_pb2
from headrace_training.core.model import Model
from headrace_training.core.selection import Best

_FILE = "best.safetensors"
_ASK_S = 10.0

log = structlog.get_logger(__name__)


class BestValues:
    """What the attempts of a run found so far, and where it is kept."""

    def __init__(
        self, registry: RegistryClient | None, request: StartTaskRequest, scheduler_address: str = ""
    ) -> None:
        """Go on from what earlier attempts found.

        Args:
            registry: None: this worker has none, and `request` asks for no best values.
            scheduler_address: Who knows what other ranks found meanwhile; empty: nobody.
        """
        self._registry = registry
        self._job, self._scheduler_address = request.job, scheduler_address
        self._project = TaskName.parse(request.name).project
        self._best = request.best if request.HasField("best") else None
        self._last_is_result = request.options.selection.register_last

    def keep(self, best: Best, state: Mapping[str, torch.Tensor]) -> task_pb2.Best:
        """Store better values; they are safe when this returns."""
        assert self._registry is not None, "StartTask refuses a selection without a registry"
        with tempfile.TemporaryDirectory(prefix="best-") as folder:
            path = Path(folder, _FILE)
            save_file(dict(state), path)
            artifact = self._registry.upload_file(self._project, path)
        self._best = task_pb2.Best(step=best.step, metric=best.metric, value=best.value, artifact=artifact)
        return self._best

    def of_run(self) -> Best | None:
        """Return the best that any rank of the run has told of; a rank asks when it takes the lead from another one."""
        if self._job and self._scheduler_address:
            try:
                with open_channel(self._scheduler_address) as channel:
                    job = JobsStub(channel).GetJob(GetJobRequest(name=self._job), timeout=_ASK_S)
                self._best = job.best if job.HasField("best") else self._best
            except HeadraceError as error:
                # What this rank knows is older, but as true; better values are kept from now on.
                log.warning("best_values_unknown", error=error.message)
        best = self._best
        return Best(best.step, best.metric, best.value) if best else None

    def written(self) -> str:
        """Write down which values are best, for the other ranks of a sharded run."""
        return json_format.MessageToJson(self._best) if self._best else ""

    def read(self, written: str) -> None:
        """Take over what rank 0 wrote down."""
        self._best = json_format.Parse(written, task_pb2.Best()) if written else None

    def put_into(self, model: Model) -> int:
        """Let the model have the best values, if they are to be the run's result.

        Returns:
            The steps they hold; 0 if the model stays as it is.
        """
        if self._best is None or self._last_is_result:
            return 0
        assert self._registry is not None, "StartTask refuses a selection without a registry"
        with tempfile.TemporaryDirectory(prefix="best-") as folder:
            path = Path(folder, _FILE)
            self._registry.download_file(self._best.artifact, path)
            model.take(load_file(path))
        return self._best.step
