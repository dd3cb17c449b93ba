"""One pipeline as a subprocess: fetches the version, runs the passes, registers what came out."""

from collections.abc import Mapping
from contextlib import closing
from functools import partial
from pathlib import Path

from headrace.data.dataset import Dataset
from headrace.optimization.options import read_options
from headrace.optimization.report import Candidate
from headrace.optimization.v1.optimizer_pb2 import StartTaskRequest
from headrace.program.loading import load_program
from headrace.registry.client import RegistryClient
from headrace.registry.v1.models_pb2 import Version
from headrace.rpc.channel import open_channel
from headrace.tasks.child import Context, Reporter, run_task
from headrace.types.v1.task_pb2 import Progress, Task, TaskResult
from headrace_optimization.core import plan
from headrace_optimization.core.result import progress_metrics, task_metrics
from headrace_optimization.pipeline import Source, optimize
from headrace_optimization.registration import find_registered, register
from headrace_optimization.wire import weights_of


def work(request: StartTaskRequest, context: Context, reporter: Reporter) -> TaskResult:
    """Be the task; its working folder is its own and is removed afterwards."""
    with closing(open_channel(str(context["registry_address"]))) as channel:
        registry = RegistryClient(channel)
        earlier = find_registered(registry, request)
        if earlier is not None:  # an attempt before this one was cut off between registering and saying so
            return TaskResult(version=earlier.name, metrics=earlier.metrics)
        return _optimize(request, context, reporter, registry)


def _optimize(
    request: StartTaskRequest, context: Context, reporter: Reporter, registry: RegistryClient
) -> TaskResult:
    def advance(step: plan.Pass, candidates: tuple[Candidate, ...]) -> None:
        reporter.raise_if_stopped()
        metrics = progress_metrics(candidates, source.program.goal.metric)
        reporter.send(_progress(plan.PASSES.index(step), step.stage, metrics))

    version = registry.get_version(request.version)
    source = _fetch(version, context, registry)
    folder = Path("result")
    folder.mkdir()
    report = optimize(source, read_options(request.options), int(context["threads"]), folder, advance)
    advance(plan.REGISTER, report.candidates)
    made = register(registry, version, report, folder, request)
    reporter.send(
        _progress(len(plan.PASSES), "done", progress_metrics(report.candidates, report.goal.metric))
    )
    return TaskResult(version=made.name, metrics=task_metrics(report.candidates) | dict(made.metrics))


def _progress(step: int, stage: str, metrics: Mapping[str, float]) -> Task:
    """Put progress into an event. It is sent at once: passes are few, and one may follow another quickly and then take long."""
    return Task(progress=Progress(step=step, total_steps=len(plan.PASSES), stage=stage, metrics=metrics))


def _fetch(version: Version, context: Context, registry: RegistryClient) -> Source:
    """Bring program and weights here."""
    program = load_program(
        version.program,
        allowed_modules=context["allowed_programs"],
        allow_archives=context["allow_archives"],
        fetch=registry.download_bytes,
    )
    weights = Path("weights.safetensors")
    registry.download_file(weights_of(version).artifact, weights)
    return Source(version.name, program, weights, partial(Dataset.open, storage=context["object_storage"]))


if __name__ == "__main__":
    run_task(StartTaskRequest, work)
