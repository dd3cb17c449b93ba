"""Files that a test makes up, opened by what runs them."""

import hashlib
from pathlib import Path

from headrace_inference.cache import FileCache
from headrace_inference.core.catalog import Format
from headrace_inference.runners.onnx import OnnxRunner
from headrace_inference.runners.onnx_sessions import Hardware
from headrace_inference.runners.runner import ModelFile


def model_file(data: bytes, kind: Format = Format.ONNX) -> ModelFile:
    return ModelFile(kind, hashlib.sha256(data).hexdigest(), lambda: data)


def open_onnx(data: bytes, folder: Path, hardware: Hardware | None = None) -> OnnxRunner:
    """Open an ONNX model over a cache in `folder` that keeps nothing."""
    return OnnxRunner(model_file(data), hardware or Hardware(threads=2), FileCache(folder, max_bytes=0))
