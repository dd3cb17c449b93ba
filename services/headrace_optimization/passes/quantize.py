"""Quantize: a form of the model that computes in 8-bit integers.

Where the graph has convolutions, activations need scales before the first request comes, and calibration finds them; where it has
only matrix products, each request's own range is cheap to find and more exact.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from headrace.errors import FailedPrecondition
from headrace_optimization.passes.export import tidied
from headrace_optimization.passes.session import Arrays, batches, count_examples, take

# Integer kernels of CPUs with AVX2 but no VNNI add two products of 8 bits in 16 and saturate: 1.5 points of accuracy lost on the
# digits. Weights of 7 bits cannot. The machine that serves is not the machine that quantizes, so this holds everywhere.
REDUCE_RANGE = True

CALIBRATION_BATCH = 32
# A data set may be sorted; the sample must not be its first class, nor differ between two runs.
CALIBRATION_SEED = 0

CONVOLUTIONS = {"Conv", "ConvTranspose"}
MATRIX_PRODUCTS = {"MatMul", "Gemm"}


def quantize_int8(source: Path, inputs: Arrays, calibration_examples: int, path: Path) -> None:
    """Write an int8 form of an fp32 ONNX file, with one scale per output channel.

    Args:
        source: The fp32 file.
        inputs: The train split; `calibration_examples` of it, or all if it has fewer, set the scales of activations.
        path: Where to write.
    Raises:
        FailedPrecondition: The graph has nothing that gains from integers.
    """
    operators = {node.op_type for node in onnx.load(source, load_external_data=False).graph.node}
    if not operators & (CONVOLUTIONS | MATRIX_PRODUCTS):
        raise FailedPrecondition(
            "the model has neither convolutions nor matrix products, so int8 gains nothing; ask for fp32 only"
        )
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        prepared = Path(folder) / "prepared.onnx"
        # The exporter has written every shape, so the symbolic search for them, which fails on rare operators, is not needed.
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        if operators & CONVOLUTIONS:
            _quantize_static(prepared, _sample(inputs, calibration_examples), path)
        else:
            _quantize_dynamic(prepared, path)
    _tidy(path)


def _quantize_static(prepared: Path, calibration: Arrays, path: Path) -> None:
    quantize_static(
        prepared,
        path,
        _Batches(calibration),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=REDUCE_RANGE,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        # Keeps two numbers per activation; the other methods keep every value they see, which for real models is gigabytes.
        calibrate_method=CalibrationMethod.MinMax,
    )


def _quantize_dynamic(prepared: Path, path: Path) -> None:
    quantize_dynamic(
        prepared,
        path,
        op_types_to_quantize=sorted(MATRIX_PRODUCTS),
        per_channel=True,
        reduce_range=REDUCE_RANGE,
        weight_type=QuantType.QInt8,
    )


def _sample(inputs: Arrays, examples: int) -> Arrays:
    available = count_examples(inputs)
    chosen = np.random.default_rng(CALIBRATION_SEED).permutation(available)[:examples]
    return take(inputs, sorted(int(index) for index in chosen))


class _Batches(CalibrationDataReader):  # type: ignore[misc] # onnxruntime ships no types
    """Hands the calibrator one batch at a time."""

    def __init__(self, inputs: Arrays) -> None:
        self._batches: Iterator[dict[str, np.ndarray[Any, Any]]] = batches(inputs, CALIBRATION_BATCH)

    def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
        return next(self._batches, None)


def _tidy(path: Path) -> None:
    """Keep only the operator sets that are used: the tools declare many, and a server may not know them all."""
    model = tidied(onnx.load(path))
    used = {"" if node.domain == "ai.onnx" else node.domain for node in model.graph.node} | {""}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
