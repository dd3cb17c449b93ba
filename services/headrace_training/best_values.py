"""The best values of a run, kept in the registry: as safe as any checkpoint, before anybody hears of them."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from headrace.names import TaskName
from headrace.registry.client import RegistryClient
from headrace.training.v1.workers_pb2 import StartTaskRequest
from headrace.types.v1 import task_pb2
from headrace_training.core.flat_model import FlatModel
from headrace_training.core.selection import Best

_FILE = "best.safetensors"


class BestValues:
    """What the attempts of a run found so far, and where it is kept."""

    def __init__(self, registry: RegistryClient | None, request: StartTaskRequest) -> None:
        """Go on from what earlier attempts found.

        Args:
            registry: None: this worker has none, and `request` asks for no best values.
        """
        self._registry = registry
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

    def put_into(self, model: FlatModel) -> int:
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
