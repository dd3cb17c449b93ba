"""How much smaller and faster int8 is: `python -m benchmarks.optimization [--json]`.

digits: the example, trained by its recipe and optimized by the service's own pipeline, measured with 1 thread at batches of 1 and 32.
Times are of onnxruntime alone, without the wire. What int8 gains depends on the processor's integer instructions; the size does not.
"""

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.harness import Case, main
from headrace.optimization.report import Candidate, Gates, Options, Report
from headrace.program import Program
from headrace.program.loading import load_attribute
from headrace.testing.data import examples_of
from headrace_examples import RECIPES, Recipe
from headrace_optimization.passes.session import open_session, run_model, take
from headrace_optimization.pipeline import Source, optimize

BATCH_SIZES = (1, 32)
THREADS = 1
INFERENCES = 200  # per measurement, of which the median counts
SIZE_GOAL = 0.35  # a quarter, and the scales and the graph around it
OPTIONS = Options(
    precisions=("fp32", "int8"),
    gates=Gates(max_metric_drop=0.01, min_speedup=None, max_bytes=None),
    objective="latency",
    calibration_examples=256,
    batch_sizes=BATCH_SIZES,
)


@contextmanager
def digits() -> Iterator[Sequence[Case]]:
    """Train and optimize the digits, then compare int8 with fp32."""
    warnings.simplefilter("ignore")  # the exporter's, about its own insides
    torch.set_num_threads(THREADS)
    recipe = RECIPES["digits"]
    program = load_attribute(recipe.program)
    with tempfile.TemporaryDirectory() as folder:
        report = _optimize(program, recipe, Path(folder))
        models = {one.name: Path(folder, one.file).read_bytes() for one in report.candidates}
    fp32, int8 = (report.candidate(name) for name in ("fp32", "int8"))
    yield [
        *_latency_cases(program, models),
        Case("fp32 size", "kB", _size(fp32)),
        Case("int8 size", "kB", _size(int8), reference="fp32 size", goal=SIZE_GOAL),
        Case("fp32 accuracy", "%", _accuracy(fp32)),
        Case(
            "int8 accuracy", "%", _accuracy(int8), reference="fp32 accuracy", goal=0.99, more_is_better=True
        ),
    ]


def _optimize(program: Program, recipe: Recipe, folder: Path) -> Report:
    weights = folder / "model.safetensors"
    save_file(_train(program, recipe).state_dict(), weights)
    source = Source("projects/default/models/digits/versions/1", program, weights)
    return optimize(source, OPTIONS, THREADS, folder, lambda *_: None)


def _train(program: Program, recipe: Recipe) -> torch.nn.Module:
    """Train in this process, seeded."""
    torch.manual_seed(0)
    model, examples = program.model(), examples_of(program, "train")
    inputs = {name: torch.from_numpy(array) for name, array in examples.inputs.items()}
    targets = torch.from_numpy(examples.targets)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate)
    for _ in range(recipe.steps):
        chosen = torch.randint(len(examples), (recipe.batch_size,))
        outputs = model(**{name: values[chosen] for name, values in inputs.items()})
        optimizer.zero_grad()
        program.loss(outputs, targets[chosen]).backward()  # type: ignore[no-untyped-call]  # torch's own signature
        optimizer.step()
    return model


def _latency_cases(program: Program, models: dict[str, bytes]) -> Iterator[Case]:
    for size in BATCH_SIZES:
        yield Case(f"fp32 batch {size}", "ms", _latency(program, models["fp32"], size))
        int8 = _latency(program, models["int8"], size)
        yield Case(f"int8 batch {size}", "ms", int8, reference=f"fp32 batch {size}")


def _latency(program: Program, model: bytes, batch_size: int) -> Callable[[], float]:
    session = open_session(model, threads=THREADS)
    batch = take(examples_of(program, "test").inputs, range(batch_size))

    def measure() -> float:
        times_ms = []
        for _ in range(INFERENCES):
            start = time.perf_counter()
            run_model(session, batch)
            times_ms.append((time.perf_counter() - start) * 1e3)
        return statistics.median(times_ms)

    return measure


def _size(candidate: Candidate) -> Callable[[], float]:
    return lambda: candidate.size_bytes / 1e3


def _accuracy(candidate: Candidate) -> Callable[[], float]:
    return lambda: candidate.metrics["accuracy"] * 100


if __name__ == "__main__":
    main("optimization", {"digits": digits})
