"""From a file of the registry to the runner that its format asks for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace_inference.cache import FileCache
from headrace_inference.core.catalog import Format
from headrace_inference.core.config import ModelConfig
from headrace_inference.core.signature import check_declared
from headrace_inference.decoupled import DecoupledRunner
from headrace_inference.runners.onnx import OnnxRunner
from headrace_inference.runners.onnx_sessions import Hardware
from headrace_inference.runners.python_function import PythonRunner, PythonStream
from headrace_inference.runners.runner import ModelFile, Runner

_BYTES = "bytes"


@dataclass(frozen=True)
class Opener:
    """Opens files on this machine."""

    hardware: Hardware
    cache: FileCache
    allowed_functions: Sequence[str] = ()

    def open(self, file: ModelFile, config: ModelConfig) -> Runner | DecoupledRunner:
        """Make a file run.

        Raises:
            FailedPrecondition: It cannot be served, or is not what its configuration declares.
            ProgramNotAllowed: It is a function that may not run here.
            StorageFull: The cache has no room.
        """
        if file.format is Format.CONFIG:
            python = PythonStream if config.streams else PythonRunner
            return python(config, self.allowed_functions)
        runner = (
            self._torch(file, config) if file.format is Format.TORCH_PROGRAM else self._onnx(file, config)
        )
        try:
            check_declared(config.signature, runner.signature)
        except BaseException:
            runner.close()
            raise
        return runner

    def _onnx(self, file: ModelFile, config: ModelConfig) -> Runner:
        hardware = Hardware(
            config.threads or self.hardware.threads,
            config.batching.workers,
            config.providers or self.hardware.providers,
        )
        return OnnxRunner(file, hardware, self.cache)

    def _torch(self, file: ModelFile, config: ModelConfig) -> Runner:
        # Imported for whoever serves such a model: it takes seconds and some hundred megabytes.
        from headrace_inference.runners.torch_program import TorchRunner

        with self.cache.entry(f"file-{file.digest}", lambda folder: _write(file, folder)) as folder:
            return TorchRunner((folder / _BYTES).read_bytes(), config.threads or self.hardware.threads)


def _write(file: ModelFile, folder: Path) -> None:
    (folder / _BYTES).write_bytes(file.read())
