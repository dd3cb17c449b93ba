"""From a file of the registry to the runner that its format asks for."""

from dataclasses import dataclass

from headrace_inference.cache import FileCache
from headrace_inference.runners.onnx import OnnxRunner
from headrace_inference.runners.onnx_sessions import Hardware
from headrace_inference.runners.runner import ModelFile, Runner


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
        return OnnxRunner(file, self.hardware, self.cache)
