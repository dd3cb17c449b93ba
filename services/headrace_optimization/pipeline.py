"""The pipeline: runs the passes in order over one set of weights, and leaves the files and their report in a folder."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from headrace.data.dataset import Dataset
from headrace.data.rows import Rows
from headrace.optimization.report import Candidate, Options, Report
from headrace.program import Program
from headrace.program.calls import OpenDataset, load_split
from headrace_optimization.calls import load_model
from headrace_optimization.core import plan
from headrace_optimization.core.choice import choose
from headrace_optimization.core.gates import judge
from headrace_optimization.passes.export import PARITY_BATCH_SIZES, export_model
from headrace_optimization.passes.machine import describe_libraries, describe_machine
from headrace_optimization.passes.plot import draw_report
from headrace_optimization.passes.quantize import quantize_int8
from headrace_optimization.passes.verify import verify

REPORT_FILE = "report.json"
PLOT_FILE = "report.png"

# Called as each pass begins, with the candidates as far as they are measured; may raise to end the pipeline.
Advance = Callable[[plan.Pass, tuple[Candidate, ...]], None]


@dataclass(frozen=True)
class Source:
    """What is optimized: a version's name, its program, the safetensors file of its weights, and what opens data that are streamed."""

    version: str
    program: Program
    weights: Path
    open_dataset: OpenDataset = Dataset.open


def optimize(source: Source, options: Options, threads: int, folder: Path, advance: Advance) -> Report:
    """Make, measure and judge every candidate.

    Args:
        threads: Threads each inference computes with.
        folder: An empty folder; it receives the candidates' files, "report.json" and "report.png".
    Returns:
        The report as written.
    Raises:
        ProgramFailed: The program, or its model, cannot be optimized.
        FailedPrecondition: A precision was asked for that the model gains nothing from.
    """
    torch.set_num_threads(threads)
    files = _make_candidates(source, options, folder, advance)
    advance(plan.VERIFY, ())
    test = load_split(source.program, "test", source.open_dataset)
    measured = verify(files, source.program, test, options.batch_sizes, threads)
    advance(plan.CHOOSE, measured)
    candidates = judge(measured, options.gates, source.program.goal)
    advance(plan.REPORT, candidates)
    report = _report(source, options, threads, test, candidates)
    (folder / REPORT_FILE).write_bytes(report.to_json())
    (folder / PLOT_FILE).write_bytes(draw_report(report))
    return report


def _make_candidates(source: Source, options: Options, folder: Path, advance: Advance) -> dict[str, Path]:
    advance(plan.EXPORT, ())
    rows = load_split(source.program, "train", source.open_dataset)
    train = rows.sample(max(options.calibration_examples, *PARITY_BATCH_SIZES))
    files = {precision: folder / f"{precision}.onnx" for precision in options.precisions}
    export_model(load_model(source.program, source.weights), train.inputs, files["fp32"])
    if "int8" in files:
        advance(plan.QUANTIZE, ())
        quantize_int8(files["fp32"], train.inputs, options.calibration_examples, files["int8"])
    return {str(name): path for name, path in files.items()}


def _report(
    source: Source, options: Options, threads: int, test: Rows, candidates: tuple[Candidate, ...]
) -> Report:
    return Report(
        source_version=source.version,
        goal=source.program.goal,
        options=options,
        test_examples=len(test),
        threads=threads,
        machine=describe_machine(),
        libraries=describe_libraries(),
        candidates=candidates,
        pick=choose(candidates, options.objective),
    )
