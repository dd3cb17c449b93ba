"""Whether training on many workers learns what it should: `python -m benchmarks.learning [suite] [--text FILE] [--seeds N] [--json]`.

digits: accuracy on the test split. text: cross-entropy in nats per character over all of the text's last tenth, of a GPT of nanoGPT's
setting for a CPU (4 layers of 128 channels and 4 heads, context 64, 2,000 steps of 12); its goal is for Karpathy's tinyshakespeare
(1,115,394 characters), where a single process got 1.899 by nanoGPT's recipe. Any other text has no goal.

Each suite trains by a parameter server (2 workers, 2 shards, BSP) and by all-reduce (2 workers), in processes of its own, once per
seed. The worst seed is the value, and counts.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

import headrace
from benchmarks.harness import Result, machine, table
from headrace.client import Client
from headrace.client.training import StrategyKind
from headrace.local.plan import Sizes, plan
from headrace.local.supervisor import Supervisor
from headrace_examples import RECIPES

WORKERS = SHARDS = 2
SEEDS = 5
JOB_TIMEOUT_S = 3600.0
STRATEGIES: Mapping[str, StrategyKind] = {
    "parameter server": "parameter_server",
    "all-reduce": "all_reduce",
}
TINYSHAKESPEARE_CHARACTERS = 1_115_394


@dataclass(frozen=True)
class Task:
    """Something to learn.

    Args:
        training: What `Client.train` is told beside the program, the workers and the seed.
        metric: What counts, on the test split.
        goal: What every seed should reach: at least if `more_is_better`, else at most.
    """

    name: str
    program: str
    training: Mapping[str, Any]
    metric: str
    unit: str
    goal: float | None
    more_is_better: bool

    def judge(self, case: str, found: Sequence[float]) -> Result:
        """Take the worst of what the seeds found."""
        worst = min(found) if self.more_is_better else max(found)
        holds = None
        if self.goal is not None:
            holds = worst >= self.goal if self.more_is_better else worst <= self.goal
        return Result(
            case=case,
            value=worst,
            low=min(found),
            high=max(found),
            unit=self.unit,
            reference=None,
            ratio=None,
            goal=self.goal,
            holds=holds,
        )


def digits(_text: Path | None) -> Task:
    """Return the digits example, trained by its recipe."""
    recipe = RECIPES["digits"]
    training = {
        "steps": recipe.steps,
        "batch_size": recipe.batch_size,
        "learning_rate": recipe.learning_rate,
    }
    return Task("digits", recipe.program, training, "accuracy", "", goal=0.985, more_is_better=True)


def text(path: Path | None) -> Task:
    """Return the text example in nanoGPT's setting, on this file or the standard library's sources."""
    config = {"layers": 4, "heads": 4, "channels": 128, "context": 64, "held_out": "end"}
    if path:
        config["text_path"] = str(path.resolve())
    training = {
        "steps": 2000,
        "batch_size": 12,
        "learning_rate": 2e-3,
        "weight_decay": 0.1,
        "schedule": "cosine",
        "warmup_steps": 100,
        "learning_rate_floor": 0.1,
        "config": config,
    }
    known = path is not None and len(path.read_text(encoding="utf-8")) == TINYSHAKESPEARE_CHARACTERS
    return Task(
        "text",
        RECIPES["text"].program,
        training,
        "nats_per_character",
        "nats",
        goal=1.90 if known else None,
        more_is_better=False,
    )


SUITES: Mapping[str, Callable[[Path | None], Task]] = {"digits": digits, "text": text}


@contextmanager
def cluster() -> Iterator[Client]:
    """Run all services on free ports of this machine."""
    with tempfile.TemporaryDirectory(prefix="headrace-learning-") as folder:
        specs = plan(Path(folder, "services"), Sizes(workers=WORKERS, shards=SHARDS), port=0)
        addresses = {spec.name: spec.address for spec in specs}
        with Supervisor(specs, Path(folder, "logs")), headrace.connect(addresses["scheduler"]) as client:
            yield client


def learn(client: Client, task: Task, strategy: StrategyKind, seed: int) -> float:
    """Train once and return the metric."""
    job = client.train(
        task.program,
        task.name,
        workers=WORKERS,
        strategy=strategy,
        shards=SHARDS if strategy == "parameter_server" else None,
        seed=seed,
        **task.training,
    )
    done = client.wait(job, timeout_s=JOB_TIMEOUT_S)
    return done.result.metrics[task.metric]


def run(task: Task, seeds: int, say: Callable[[str], None]) -> list[Result]:
    """Train by every strategy, the seeds in turn."""
    found: dict[str, list[float]] = {name: [] for name in STRATEGIES}
    with cluster() as client:
        for seed in range(seeds):
            for name, strategy in STRATEGIES.items():
                value = learn(client, task, strategy, seed)
                found[name].append(value)
                say(f"{task.name}, {name}, seed {seed}: {value:.4f} {task.unit}")
    return [task.judge(f"{task.name}, {name}", values) for name, values in found.items()]


def main() -> None:
    """Be the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning")
    parser.add_argument("suite", nargs="?", choices=sorted(SUITES), help="all of them if none is named")
    parser.add_argument("--text", type=Path, help="what to learn to continue, UTF-8")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="trainings by each strategy")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    if arguments.seeds < 1:
        parser.error(f"--seeds {arguments.seeds} trains nothing; use 1 or more")
    console, facts = Console(), machine()
    results: list[Result] = []
    for suite in [arguments.suite] if arguments.suite else sorted(SUITES):
        found = run(
            SUITES[suite](arguments.text),
            arguments.seeds,
            (lambda _line: None) if arguments.json else console.print,
        )
        results += found
        if not arguments.json:
            console.print(table(f"learning {suite}, {arguments.seeds} seeds", found, value="worst"))
    if arguments.json:
        print(json.dumps({"machine": facts, "results": [asdict(result) for result in results]}, indent=2))


if __name__ == "__main__":
    main()
