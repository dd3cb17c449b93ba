"""Which files of a version an inference server may take."""

from headrace.registry.v1.models_pb2 import (
    FILE_ROLE_MODEL_CONFIG,
    FILE_ROLE_ONNX,
    FILE_ROLE_TORCH_PROGRAM,
)

SERVABLE = frozenset({FILE_ROLE_ONNX, FILE_ROLE_TORCH_PROGRAM, FILE_ROLE_MODEL_CONFIG})
