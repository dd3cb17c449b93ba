"""Snapshots of shards: safetensors files that pass through a private folder on their way to and from the registry."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from headrace.errors import FailedPrecondition, InvalidArgument
from headrace_parameters.core.config import StoreConfig
from headrace_parameters.core.state import ShardState
from headrace_parameters.recut import recut

_FILE = "shard.safetensors"


class ArtifactFiles(Protocol):
    """What of the registry snapshots need; `headrace.registry.client.RegistryClient` has it."""

    def upload_file(self, project: str, path: Path) -> str:
        """Store a file and return its artifact's name."""

    def download_file(self, name: str, path: Path) -> None:
        """Write an artifact to `path`."""


class Snapshots:
    """Saves and loads shards.

    Args:
        artifacts: Where to; None: this process has no registry.
    """

    def __init__(self, artifacts: ArtifactFiles | None) -> None:
        self._artifacts = artifacts

    def save(self, project: str, state: Callable[[], ShardState]) -> tuple[str, int]:
        """Store what `state` returns in the project with this id; return the artifact's name and the version in it.

        Raises:
            FailedPrecondition: There is no registry.
        """
        artifacts = self._require()  # before the state, which is a copy of everything, is made for nothing
        saved = state()
        tensors, metadata = saved.encode()
        with tempfile.TemporaryDirectory(prefix="headrace-snapshot-") as folder:
            path = Path(folder, _FILE)
            save_file(tensors, path, metadata)
            return artifacts.upload_file(project, path), saved.version

    def cut_out(self, artifacts: Sequence[str], config: StoreConfig) -> ShardState:
        """Return what a shard begins with, out of the snapshots of all shards of a checkpoint, in the order of their ids.

        Only those are loaded that it needs: its own alone if there are as many shards as were saved.

        Raises:
            FailedPrecondition, InvalidArgument: As `load` and `recut`.
        """
        first = (
            config.shard_index * len(artifacts) // config.shard_count
        )  # most likely what it needs begins here
        return recut(map(self.load, (*artifacts[first:], *artifacts[:first])), config)

    def load(self, artifact: str) -> ShardState:
        """Return what was saved under this name.

        Raises:
            FailedPrecondition: There is no registry.
            InvalidArgument: It is not a snapshot of a shard.
        """
        artifacts = self._require()
        with tempfile.TemporaryDirectory(prefix="headrace-snapshot-") as folder:
            path = Path(folder, _FILE)
            artifacts.download_file(artifact, path)
            try:
                with safe_open(path, framework="pt") as file:
                    # Cloned: the tensors of a file point into it, and it is about to be removed.
                    tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
                    state = ShardState.decode(tensors, file.metadata() or {})
            except SafetensorError as error:
                raise InvalidArgument(
                    f"{artifact} is not a safetensors file: {error}", field="artifact"
                ) from error
        state.check_finite()
        return state

    def _require(self) -> ArtifactFiles:
        if self._artifacts is None:
            raise FailedPrecondition(
                "this process has no registry to keep snapshots in; start it with HEADRACE_PARAMETERS_REGISTRY_ADDRESS"
            )
        return self._artifacts
