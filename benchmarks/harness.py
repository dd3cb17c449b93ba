"""What every benchmark shares: cases that take turns, medians with their spread, a table or JSON, the facts of the machine.

    def cases() -> Iterator[list[Case]]:   # a context manager: it starts what is measured and stops it
        yield [Case("socket", "ms", send_by_socket), Case("push", "ms", push, reference="socket")]

    if __name__ == "__main__":
        main("parameters", {"transfer": contextmanager(cases)})

Cases run in rounds, one after the other in each, so that a machine that grows slow under us slows all of them; a ratio to a
reference is taken within each round, and the median of these is what counts.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

REPEATS = 7
FEWEST_REPEATS = 5
PACKAGES = ("grpcio", "numpy", "onnxruntime-gpu", "protobuf", "torch")


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Args:
        measure: Does it once and returns the value, in `unit`.
        reference: Name of the case that it is compared with.
        goal: What the ratio to the reference, or the value if there is no reference, should be at most, or at least.
        more_is_better: The goal is a lower bound.
    """

    name: str
    unit: str
    measure: Callable[[], float]
    reference: str = ""
    goal: float | None = None
    more_is_better: bool = False


@dataclass(frozen=True)
class Result:
    """What was found: medians over the rounds, and the lowest and highest value.

    `reference` is the median of the case compared with, `ratio` the median of the ratios within each round. `holds` is None without
    a goal.
    """

    case: str
    value: float
    low: float
    high: float
    unit: str
    reference: float | None
    ratio: float | None
    goal: float | None
    holds: bool | None


def _tell_nobody(_: str) -> None:
    pass


def measure(
    cases: Sequence[Case], repeats: int, tell: Callable[[str], object] = _tell_nobody
) -> list[Result]:
    """Run all cases `repeats` times in turn, after one round that only warms up.

    Args:
        tell: Told of every round that is over.
    """
    values: dict[str, list[float]] = {case.name: [] for case in cases}
    for number in range(repeats + 1):
        began = time.monotonic()
        for case in cases:
            values[case.name].append(case.measure())
        what = f"round {number} of {repeats}" if number else "warm-up"
        tell(f"{what}: {time.monotonic() - began:.0f} s")
    counted = {name: found[1:] for name, found in values.items()}
    return [_result(case, counted) for case in cases]


def _result(case: Case, values: Mapping[str, Sequence[float]]) -> Result:
    own = values[case.name]
    ratio = reference = None
    if case.reference:
        reference = statistics.median(values[case.reference])
        ratio = statistics.median(
            mine / theirs for mine, theirs in zip(own, values[case.reference], strict=True)
        )
    judged = statistics.median(own) if ratio is None else ratio
    holds = None
    if case.goal is not None:
        holds = judged >= case.goal if case.more_is_better else judged <= case.goal
    return Result(
        case=case.name,
        value=statistics.median(own),
        low=min(own),
        high=max(own),
        unit=case.unit,
        reference=reference,
        ratio=ratio,
        goal=case.goal,
        holds=holds,
    )


def machine() -> dict[str, object]:
    """Return what numbers depend on."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "load": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def _cpu_model() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def table(title: str, results: Sequence[Result], value: str = "median") -> Table:
    """Lay out results for a person; `value` says what their value is."""
    made = Table("case", title=title)
    for column in (value, "lowest to highest", "ratio", "goal"):
        made.add_column(column, justify="right")
    for result in results:
        goal = "" if result.goal is None else f"{result.goal:g} {'holds' if result.holds else 'FAILS'}"
        made.add_row(
            result.case,
            f"{result.value:.4g} {result.unit}",
            f"{result.low:.4g} to {result.high:.4g}",
            "" if result.ratio is None else f"{result.ratio:.2f}",
            goal,
        )
    return made


def _tell(suite: str, progress: str) -> None:
    print(f"{suite}: {progress}", file=sys.stderr, flush=True)


Suite = Callable[[], AbstractContextManager[Sequence[Case]]]


def main(name: str, suites: Mapping[str, Suite]) -> None:
    """Be the command `python -m benchmarks.<name> [suite] [--json] [--repeats N]`."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}")
    parser.add_argument("suite", nargs="?", choices=sorted(suites), help="all of them if none is named")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--repeats", type=int, default=REPEATS, help=f"rounds, {FEWEST_REPEATS} or more")
    arguments = parser.parse_args()
    if arguments.repeats < FEWEST_REPEATS:
        parser.error(
            f"--repeats {arguments.repeats} is too few to tell speed from luck; use {FEWEST_REPEATS} or more"
        )
    facts, console = machine(), Console()
    if not arguments.json:
        console.print(f"{facts['cpu']}, {facts['cores']} cores, load {facts['load']}")
    results: list[Result] = []
    for suite in [arguments.suite] if arguments.suite else sorted(suites):
        with suites[suite]() as cases:
            found = measure(cases, arguments.repeats, partial(_tell, suite))
        results += found
        if not arguments.json:
            console.print(table(f"{name} {suite}, {arguments.repeats} rounds", found))
    if arguments.json:
        print(json.dumps({"machine": facts, "results": [asdict(result) for result in results]}, indent=2))
