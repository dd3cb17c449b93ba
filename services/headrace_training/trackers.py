"""Where a rank's measures go: its history always; those of the rank that leads to TensorBoard's files and to MLflow, if the node is told where."""

from functools import partial
from pathlib import Path

from headrace.names import JobName, ModelName, TaskName
from headrace.tasks.child import Context
from headrace.tasks.history import History
from headrace.tasks.records import RECORD
from headrace.training.v1.workers_pb2 import StartTaskRequest
from headrace_training.mlflow_tracker import MlflowTracker, TrackedRun
from headrace_training.recorder import Recorder, Tracker
from headrace_training.registration import facts_of
from headrace_training.tensorboard import TensorBoard


def recorder_for(request: StartTaskRequest, context: Context) -> Recorder:
    """Return what hears the measures of a rank."""
    recorder = Recorder(History(Path(context[RECORD])), partial(_trackers, request, context))
    if request.rank == 0:
        recorder.track(request.start_step)
    return recorder


def _trackers(request: StartTaskRequest, context: Context, start_step: int) -> list[Tracker]:
    project, run = _run(request)
    trackers: list[Tracker] = []
    if context["tensorboard_dir"]:
        trackers.append(TensorBoard(Path(context["tensorboard_dir"], project, run), start_step))
    if context["mlflow_tracking_uri"]:
        model = ModelName.parse(request.model).model if request.model else ""
        tracked = TrackedRun(
            "/".join(filter(None, [project, model])), run, f"{project}/{run}", facts_of(request)
        )
        trackers.append(MlflowTracker(context["mlflow_tracking_uri"], tracked))
    return trackers


def _run(request: StartTaskRequest) -> tuple[str, str]:
    """Return project and run: the job, so that all its attempts are one curve, or the task when started by hand."""
    task = TaskName.parse(request.name)
    return task.project, JobName.parse(request.job).job if request.job else task.task
