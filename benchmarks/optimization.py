"""How much smaller and faster is int8? The digits example, 1 thread, batches of 1 and 32, on this machine.

    python -m benchmarks.optimization [--json]

Both forms run in turn in one process, so that whatever else the machine does hits both alike; the ratio is of their medians, and the
median of five such measurements, each with fresh sessions, is reported.
"""

import json
import logging
import statistics
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from safetensors.torch import save_file

from headrace.optimization.report import Candidate, Gates, Options, Report
from headrace.program import Program
from headrace.program.loading import load_attribute
from headrace_examples import RECIPES, Recipe
from headrace_optimization.passes.machine import describe_machine
from headrace_optimization.passes.verify import verify
from headrace_optimization.pipeline import Source, optimize

BATCH_SIZES = (1, 32)
MEASUREMENTS = 5
THREADS = 1
OPTIONS = Options(
    precisions=("fp32", "int8"),
    gates=Gates(max_metric_drop=0.01, min_speedup=None, max_bytes=None),
    objective="latency",
    calibration_examples=256,
    batch_sizes=BATCH_SIZES,
)


def main() -> None:
    """Train, optimize, measure, print."""
    warnings.simplefilter("ignore")  # the exporter's, about itself
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    torch.set_num_threads(THREADS)
    recipe = RECIPES["digits"]
    program = load_attribute(recipe.program)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(program, recipe, Path(folder))
    print(json.dumps(result, indent=2) if "--json" in sys.argv[1:] else table(result))


def measure(program: Program, recipe: Recipe, folder: Path) -> dict[str, object]:
    """Return every number as plain data."""
    save_file(train(program, recipe).state_dict(), folder / "model.safetensors")
    source = Source("projects/default/models/digits/versions/1", program, folder / "model.safetensors")
    report = optimize(source, OPTIONS, THREADS, folder, lambda *_: None)
    files = {candidate.name: folder / candidate.file for candidate in report.candidates}
    test = program.data("test")
    again = [verify(files, program, test, BATCH_SIZES, THREADS) for _ in range(MEASUREMENTS)]
    return {
        "machine": describe_machine(),
        "accuracy": {one.name: one.metrics["accuracy"] for one in report.candidates},
        "size_bytes": {one.name: one.size_bytes for one in report.candidates},
        "size_ratio": size_ratio(report),
        "latency": {f"batch {size}": latency(again, i) for i, size in enumerate(BATCH_SIZES)},
    }


def train(program: Program, recipe: Recipe) -> torch.nn.Module:
    """Train in this process as the recipe says, seeded."""
    torch.manual_seed(0)
    model, examples = program.model(), program.data("train")
    inputs = {name: torch.from_numpy(array) for name, array in examples.inputs.items()}
    targets = torch.from_numpy(examples.targets)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate)
    for _ in range(recipe.steps):
        chosen = torch.randint(len(examples), (recipe.batch_size,))
        loss = program.loss(
            model(**{name: values[chosen] for name, values in inputs.items()}), targets[chosen]
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own signature
        optimizer.step()
    return model


def size_ratio(report: Report) -> float:
    """Return fp32's bytes over int8's."""
    return report.candidate("fp32").size_bytes / report.candidate("int8").size_bytes


def latency(measurements: list[tuple[Candidate, ...]], index: int) -> dict[str, float]:
    """Return the median times at one batch size, in milliseconds, and the median of the ratios."""
    pairs = [(fp32.latency[index].p50_ms, int8.latency[index].p50_ms) for fp32, int8 in measurements]
    return {
        "fp32_p50_ms": statistics.median(fp32 for fp32, _ in pairs),
        "int8_p50_ms": statistics.median(int8 for _, int8 in pairs),
        "speedup": statistics.median(fp32 / int8 for fp32, int8 in pairs),
    }


def table(result: dict[str, object]) -> str:
    """Print one line per fact."""
    return "\n".join(f"{name}: {json.dumps(value)}" for name, value in result.items())


if __name__ == "__main__":
    main()
