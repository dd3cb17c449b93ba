"""The demo, stage by stage."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import headrace
from headrace.data.dataset import open_data
from headrace.demo.measure import Array, Infer, latency, outputs
from headrace.demo.result import DemoResult, Stage, Variant
from headrace.local.plan import Sizes, plan
from headrace.local.supervisor import Supervisor
from headrace.optimization.report import Report
from headrace.program.loading import load_attribute
from headrace.registry.v1.models_pb2 import FILE_ROLE_ONNX, FILE_ROLE_PLOT, FILE_ROLE_REPORT, Version
from headrace_examples import RECIPES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headrace.client import Client
    from headrace.program import Program
    from headrace.scheduler.v1.jobs_pb2 import Job

CALLERS = (1, 8)
REQUESTS = 400  # per latency measurement: the 99th percentile then stands on 4 requests beyond it
JOB_TIMEOUT_S = 600.0
_MEASURE_TIMEOUT_S = 60.0  # of one inference call; an inference node that was killed is back long before

OnStage = Callable[[str], None]
OnJob = Callable[["Job"], None]


@dataclass
class Demo:
    """One run of the demo in `folder`, on free ports of the loopback interface.

    `on_stage` is told what begins, `on_job` each change of the running job.
    """

    example: str
    folder: Path
    sizes: Sizes
    on_stage: OnStage
    on_job: OnJob
    stages: list[Stage] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._services = self.folder / "services"
        # The folder may be the one of a `headrace up`, which keeps its models in the same place.
        self._found_services = self._services.exists()

    def start(self) -> Supervisor:
        """Return the supervisor of all services, not yet started; `run` needs it entered."""
        specs = plan(self._services, self.sizes, port=0)
        return Supervisor(specs, self.folder / "logs", self.on_stage)

    def run(self, supervisor: Supervisor) -> DemoResult:
        """Train, optimize, deploy and measure.

        Raises:
            HeadraceError: A stage failed; the message says why and what to do.
        """
        addresses = {spec.name: spec.address for spec in supervisor.specs}
        with headrace.connect(addresses["scheduler"]) as client:
            program = load_attribute(RECIPES[self.example].program)
            with self.stage("training"):
                trained = self._train(client)
            with self.stage("optimizing"):
                optimized = self._optimize(client, trained)
            version = client.version(optimized.result.version)
            with self.stage("deploying"):
                deployments = self._deploy(client, version)
            with self.stage("measuring"):
                report = self._download(client, version)
                variants = [
                    self._measure(client, program, version, file, name, report)
                    for file, name in deployments.items()
                ]
            return self._result(trained, program, version, variants, addresses)

    def clean(self) -> None:
        """Remove what the services kept, if all of it is of this run; reports, models and logs stay."""
        if not self._found_services:
            shutil.rmtree(self._services, ignore_errors=True)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Announce what happens inside the `with`, and count its time."""
        self.on_stage(name)
        started = time.monotonic()
        yield
        self.stages.append(Stage(name, time.monotonic() - started))

    def _train(self, client: Client) -> Job:
        recipe = RECIPES[self.example]
        job = client.train(
            recipe.program,
            self.example,
            steps=recipe.steps,
            batch_size=recipe.batch_size,
            learning_rate=recipe.learning_rate,
            workers=self.sizes.workers,
            shards=self.sizes.shards,
            checkpoint_every_steps=max(1, recipe.steps // 10),
            evaluate_every_steps=max(1, recipe.steps // 4),
        )
        return client.wait(job, on_change=self.on_job, timeout_s=JOB_TIMEOUT_S)

    def _optimize(self, client: Client, trained: Job) -> Job:
        job = client.optimize(trained.result.version, batch_sizes=CALLERS)
        return client.wait(job, on_change=self.on_job, timeout_s=JOB_TIMEOUT_S)

    def _deploy(self, client: Client, version: Version) -> dict[str, str]:
        """Deploy the best file under the example's name, and every file under a name of its own; return file -> that name."""
        client.deploy(self.example, version.name)
        names = {file.path: f"{self.example}-{Path(file.path).stem}" for file in _onnx_files(version)}
        for path, name in names.items():
            client.deploy(name, version.name, file=path)
        return names

    def _download(self, client: Client, version: Version) -> Report:
        client.download(version.name, self.folder / "result")
        return Report.from_json(self._path(version, FILE_ROLE_REPORT).read_bytes())

    def _measure(
        self,
        client: Client,
        program: Program,
        version: Version,
        path: str,
        deployment: str,
        report: Report,
    ) -> Variant:
        infer = _infer(client, deployment)
        test = open_data(program.data("test"))
        metrics = program.metrics(*outputs(infer, test))
        return Variant(
            file=path,
            deployment=deployment,
            served=path == version.serving_file,
            verdict=_verdict(report, path),
            size_bytes=next(file.size_bytes for file in version.files if file.path == path),
            metrics={name: float(value) for name, value in metrics.items()},
            latencies=[latency(infer, test, concurrency=callers, requests=REQUESTS) for callers in CALLERS],
        )

    def _result(
        self,
        trained: Job,
        program: Program,
        version: Version,
        variants: list[Variant],
        addresses: Mapping[str, str],
    ) -> DemoResult:
        return DemoResult(
            example=self.example,
            version=version.name,
            goal=program.goal.metric,
            workers=self.sizes.workers,
            shards=self.sizes.shards,
            steps=trained.train.options.steps,
            samples_per_s=trained.progress.metrics["samples_per_s"],
            attempts=trained.attempt,
            variants=variants,
            stages=self.stages,
            scheduler_address=addresses["scheduler"],
            registry_address=addresses["registry"],
            inference_address=addresses["inference-0"],
            report=str(self._path(version, FILE_ROLE_REPORT)),
            plot=str(self._path(version, FILE_ROLE_PLOT)),
            folder=str(self.folder),
        )

    def _path(self, version: Version, role: int) -> Path:
        return self.folder / "result" / next(file.path for file in version.files if file.role == role)


def _onnx_files(version: Version) -> list[Any]:
    return [file for file in version.files if file.role == FILE_ROLE_ONNX]


def _infer(client: Client, deployment: str) -> Infer:
    def infer(inputs: Mapping[str, Array]) -> Array:
        (output,) = client.predict(deployment, inputs, timeout_s=_MEASURE_TIMEOUT_S).values()
        return output

    return infer


def _verdict(report: Report, path: str) -> str:
    candidate = next(candidate for candidate in report.candidates if candidate.file == path)
    return "; ".join(gate.reason for gate in candidate.gates if not gate.passed) or "passed"
