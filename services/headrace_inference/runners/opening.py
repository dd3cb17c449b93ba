"""From a file of the registry to the runner that its format asks for."""

from dataclasses import dataclass
from pathlib import Path

from headrace_inference.cache import FileCache
from headrace_inference.core.catalog import Format
from headrace_inference.runners.onnx import OnnxRunner
from headrace_inference.runners.onnx_sessions import Hardware
from headrace_inference.runners.runner import ModelFile, Runner

_BYTES = "bytes"


@dataclass(frozen=True)
class Opener:
    """Opens files on this machine."""

    hardware: Hardware
    cache: FileCache

    def open(self, file: ModelFile) -> Runner:
        """Make a file run.

        Raises:
            FailedPrecondition: It cannot be served.
            StorageFull: The cache has no room.
        """
        if file.format is Format.TORCH_PROGRAM:
            return self._torch(file)
        return OnnxRunner(file, self.hardware, self.cache)

    def _torch(self, file: ModelFile) -> Runner:
        # Imported for whoever serves such a model: it takes seconds and some hundred megabytes.
        from headrace_inference.runners.torch_program import TorchRunner

        with self.cache.entry(f"file-{file.digest}", lambda folder: _write(file, folder)) as folder:
            return TorchRunner((folder / _BYTES).read_bytes(), self.hardware.threads)


def _write(file: ModelFile, folder: Path) -> None:
    (folder / _BYTES).write_bytes(file.read())
