"""Checkpoints of runs without shards: safetensors files on their way to and from the registry."""

import tempfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from headrace.errors import FailedPrecondition, InvalidArgument
from headrace.registry.client import RegistryClient
from headrace_training.core.state import TrainingState

_FILE = "checkpoint.safetensors"


class RegistryCheckpoints:
    """Keeps states as artifacts of a project.

    Args:
        registry: None: this worker has none.
        project: Its id.
    """

    def __init__(self, registry: RegistryClient | None, project: str) -> None:
        self._registry = registry
        self._project = project

    def save(self, state: TrainingState) -> str:
        """Store a state; FailedPrecondition without a registry."""
        tensors, metadata = state.encode()
        with tempfile.TemporaryDirectory(prefix="checkpoint-") as folder:
            path = Path(folder, _FILE)
            save_file(tensors, path, metadata)
            return self._require().upload_file(self._project, path)

    def load(self, artifact: str) -> TrainingState:
        """Return a state.

        Raises:
            FailedPrecondition: There is no registry.
            InvalidArgument: It is no checkpoint.
        """
        with tempfile.TemporaryDirectory(prefix="checkpoint-") as folder:
            path = Path(folder, _FILE)
            self._require().download_file(artifact, path)
            try:
                with safe_open(path, framework="pt") as file:
                    # Cloned: the tensors of a file point into it, and it is about to be removed.
                    tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
                    return TrainingState.decode(tensors, file.metadata() or {})
            except SafetensorError as error:
                raise InvalidArgument(
                    f"{artifact} is not a safetensors file: {error}", field="snapshot"
                ) from error

    def _require(self) -> RegistryClient:
        if self._registry is None:
            raise FailedPrecondition(
                "this worker has no registry to keep checkpoints in; start it with HEADRACE_TRAINING_REGISTRY_ADDRESS"
            )
        return self._registry
