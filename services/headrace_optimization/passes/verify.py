"""Verify: measure every candidate on the held-out split, as a server would run it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from headrace.data.prefetch import ahead
from headrace.data.rows import Rows
from headrace.optimization.report import Candidate, Latency
from headrace.program import Program
from headrace.program.calls import measured
from headrace_optimization.calls import check_reference
from headrace_optimization.passes.latency import measure_latency
from headrace_optimization.passes.session import (
    RUN_BATCH,
    Arrays,
    open_session,
    run_batches,
    run_model,
    take,
)

EMULATED_EXAMPLES = 64  # the float32 emulation is slow, and a saturating kernel shows in any few examples


def verify(
    files: Mapping[str, Path], program: Program, test: Rows, batch_sizes: Sequence[int], threads: int
) -> tuple[Candidate, ...]:
    """Measure candidates; their gates are not judged yet.

    Args:
        files: ONNX file of each candidate by its name, fp32 first.
        test: The held-out split.
        threads: Threads one inference computes with.
    Returns:
        One candidate per file, in their order.
    Raises:
        ProgramFailed: The program's `metrics` raised, or the goal is missing or not finite for fp32.
    """
    models = {name: path.read_bytes() for name, path in files.items()}
    sessions = {name: open_session(model, threads=threads) for name, model in models.items()}
    outputs, targets = _outputs(sessions, test)
    metrics = {name: measured(program, output, targets) for name, output in outputs.items()}
    check_reference(program, metrics["fp32"])
    inputs = test.sample(max(EMULATED_EXAMPLES, *batch_sizes)).inputs
    latency = measure_latency(sessions, inputs, batch_sizes)
    return tuple(
        _describe(name, files[name], models[name], metrics[name], latency[name], inputs) for name in files
    )


def _outputs(
    sessions: Mapping[str, ort.InferenceSession], test: Rows
) -> tuple[dict[str, np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    """Run every model on the whole split, which is read once; inputs pass by, outputs and targets are kept."""
    outputs: dict[str, list[np.ndarray[Any, Any]]] = {name: [] for name in sessions}
    targets = []
    for batch in ahead(test.batches(RUN_BATCH)):
        targets.append(batch.targets)
        for name, session in sessions.items():
            outputs[name].append(run_model(session, batch.inputs))
    return {name: np.concatenate(parts) for name, parts in outputs.items()}, np.concatenate(targets)


def _describe(
    name: str,
    path: Path,
    model: bytes,
    metrics: dict[str, float],
    latency: tuple[Latency, ...],
    inputs: Arrays,
) -> Candidate:
    return Candidate(
        name=name,
        file=path.name,
        size_bytes=len(model),
        metrics=metrics,
        latency=latency,
        kernel_difference=None if name == "fp32" else kernel_difference(model, inputs),
    )


def kernel_difference(model: bytes, inputs: Arrays) -> float:
    """Measure how much the fused integer kernels of this machine differ from float32 arithmetic on the same integers.

    Returns:
        The largest difference of any output, relative to the largest output. Kernels round differently: a few per mille
        are normal. Kernels that saturate differ by tens of per cent.
    """
    batch = take(inputs, range(EMULATED_EXAMPLES))
    fused, emulated = (run_batches(open_session(model, fused=fused), batch) for fused in (True, False))
    return _relative_difference(fused, emulated)


def _relative_difference(values: np.ndarray[Any, Any], reference: np.ndarray[Any, Any]) -> float:
    largest = float(np.max(np.abs(reference), initial=0.0))
    difference = float(np.max(np.abs(values - reference), initial=0.0))
    return difference / largest if largest else difference
