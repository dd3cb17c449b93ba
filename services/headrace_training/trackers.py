"""Where a rank's measures go: its history always; TensorBoard's files for rank 0, if the node has a folder for them."""

from pathlib import Path

from headrace.names import JobName, TaskName
from headrace.tasks.child import Context
from headrace.tasks.history import History
from headrace.tasks.records import RECORD
from headrace.training.v1.workers_pb2 import StartTaskRequest
from headrace_training.recorder import Recorder, Tracker
from headrace_training.tensorboard import TensorBoard


def recorder_for(request: StartTaskRequest, context: Context) -> Recorder:
    """Return what hears the measures of a rank."""
    return Recorder(History(Path(context[RECORD])), _trackers(request, context) if request.rank == 0 else [])


def _trackers(request: StartTaskRequest, context: Context) -> list[Tracker]:
    folder = context["tensorboard_dir"]
    return [TensorBoard(Path(folder, *_run(request)), request.start_step)] if folder else []


def _run(request: StartTaskRequest) -> tuple[str, str]:
    """Return project and run: the job, so that all its attempts are one curve, or the task when started by hand."""
    task = TaskName.parse(request.name)
    return task.project, JobName.parse(request.job).job if request.job else task.task
