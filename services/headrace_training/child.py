"""One rank as a subprocess: brings program, store and registry together, trains, and registers the result."""

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import structlog
import torch

from headrace.data.dataset import Dataset
from headrace.program import Program
from headrace.program.loading import load_program
from headrace.registry.client import RegistryClient
from headrace.rpc.channel import open_channel
from headrace.tasks.child import Context, Reporter, run_task
from headrace.tasks.records import RECORD
from headrace.training.v1.workers_pb2 import Precision, StartTaskRequest
from headrace.types.v1.task_pb2 import Checkpoint, Task, TaskResult
from headrace_training.best_values import BestValues
from headrace_training.core.device import Device
from headrace_training.core.rank import Rank
from headrace_training.core.selection import Best
from headrace_training.core.sharded_rank import ShardedRank
from headrace_training.devices import device_for
from headrace_training.peak import peak_flops
from headrace_training.profiler import StepProfiler
from headrace_training.recorder import Recorder
from headrace_training.registration import register
from headrace_training.sharded_group import WatchedTeam
from headrace_training.strategies import synchronizer_for
from headrace_training.trackers import recorder_for
from headrace_training.wire import read_device, read_run

log = structlog.get_logger(__name__)


class ReportingObserver:
    """Tells the service how the rank fares."""

    def __init__(
        self,
        reporter: Reporter,
        steps: int,
        best_values: BestValues,
        recorder: Recorder,
        profiler: StepProfiler,
    ) -> None:
        self._reporter = reporter
        self._profiler = profiler
        self._steps = steps
        self._best_values = best_values
        self._recorder = recorder

    def advanced(self, step: int, metrics: Mapping[str, float]) -> None:
        """Report progress."""
        self._profiler.stepped()
        self._recorder.stepped(step, metrics)
        self._reporter.progress(step, self._steps, "training", metrics)

    def checkpointed(self, step: int, snapshots: Sequence[str]) -> None:
        """Report a checkpoint."""
        log.info("checkpoint_saved", step=step, snapshots=snapshots)
        self._recorder.checkpointed()
        self._reporter.checkpoint(Checkpoint(step=step, snapshots=snapshots))

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record the measures."""
        log.info("evaluated", step=step, metrics=metrics)
        self._recorder.evaluated(step, metrics)

    def improved(self, best: Best, state: Mapping[str, torch.Tensor]) -> None:
        """Keep the values, then report them."""
        kept = self._best_values.keep(best, state)
        log.info(
            "best_values_kept", step=kept.step, metric=kept.metric, value=kept.value, artifact=kept.artifact
        )
        self._reporter.send(Task(best=kept))

    def took_lead(self, step: int) -> Best | None:
        """Go on where the rank that led has stopped: with its curves, and what it found."""
        log.info("took_lead", step=step)
        self._recorder.track(step)
        return self._best_values.of_run()

    def raise_if_stopped(self) -> None:
        """Raise Cancelled if the service was asked to stop this rank."""
        self._reporter.raise_if_stopped()


def work(request: StartTaskRequest, context: Context, reporter: Reporter) -> TaskResult:
    """Be the task; its working folder is its own and is removed afterwards."""
    torch.set_num_threads(request.options.threads or 1)
    steps = request.options.steps
    with ExitStack() as stack:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        device = stack.enter_context(device_for(read_device(request), visible))
        registry = _registry(str(context["registry_address"]), stack)
        reporter.progress(request.start_step, steps, "loading", {})
        program = _program(request, context, registry)
        synchronizer = stack.enter_context(synchronizer_for(request, context, registry, reporter, device))
        best_values = BestValues(registry, request, str(context["scheduler_address"]))
        recorder = stack.enter_context(recorder_for(request, context))
        profiler = StepProfiler(Path(context[RECORD]))
        reporter.on_profile(profiler.take)
        observer = ReportingObserver(reporter, steps, best_values, recorder, profiler)
        open_dataset = partial(Dataset.open, storage=context["object_storage"])
        run = replace(read_run(request), peak_flops=_peak(request, context, device))
        team = synchronizer if isinstance(synchronizer, WatchedTeam) else None
        if team:
            rank: Rank = ShardedRank(program, run, team, observer, time.monotonic, open_dataset, device)
        else:
            rank = Rank(program, run, synchronizer, observer, time.monotonic, open_dataset, device)
        log.info(
            "training_began",
            rank=request.rank,
            of=request.world_size,
            step=rank.step,
            steps=steps,
            device=str(device.place),
            name=device.name,
        )
        reporter.send(Task(ready=True))

        def train() -> TaskResult:
            rank.train()
            log.info("training_ended", step=rank.step, metrics=rank.metrics)
            if team:
                best_values.read(team.told(best_values.written()))
            elif not rank.leads:
                return TaskResult(metrics=rank.metrics)
            return _finish(request, rank, best_values, registry, reporter)

        return team.watch.run(train) if team else train()


def _peak(request: StartTaskRequest, context: Context, device: Device) -> float:
    """Return the FLOPs per second that this rank could do; 0 if nobody wants to know its utilization."""
    if not context["measure_utilization"]:
        return 0.0
    bf16 = request.options.precision == Precision.PRECISION_BF16
    given = float(context["peak_flops"])
    return given or peak_flops(Path(context["data_dir"]), device, torch.get_num_threads(), bf16=bf16)


def _finish(
    request: StartTaskRequest,
    rank: Rank,
    best_values: BestValues,
    registry: RegistryClient | None,
    reporter: Reporter,
) -> TaskResult:
    """Measure the result, and register it if the request names a model."""
    reporter.progress(rank.step, request.options.steps, "registering", rank.metrics)
    step = best_values.put_into(rank.model) or rank.step
    test_metrics = rank.evaluate_test()
    metrics = rank.metrics | test_metrics
    if not request.model:
        return TaskResult(metrics=metrics, led=rank.leads)
    assert registry is not None, "StartTask refuses a model without a registry"
    state = rank.model.state()
    if not rank.leads:
        return TaskResult(metrics=metrics)
    version = register(registry, request, state, test_metrics, step)
    return TaskResult(version=version.name, metrics=metrics, led=True)


def _registry(address: str, stack: ExitStack) -> RegistryClient | None:
    if not address:
        return None
    channel = open_channel(address)
    stack.callback(channel.close)
    return RegistryClient(channel)


def _program(request: StartTaskRequest, context: Context, registry: RegistryClient | None) -> Program:
    def fetch(artifact: str) -> bytes:
        assert registry is not None, "StartTask refuses an archive without a registry"
        return registry.download_bytes(artifact)

    return load_program(
        request.program,
        allowed_modules=context["allowed_programs"],
        allow_archives=context["allow_archives"],
        fetch=fetch,
    )


if __name__ == "__main__":
    run_task(StartTaskRequest, work)
