"""How the ranks of an all-reduce run find each other.

Rank 0 opens a store on a free port of its own address and tells it through its task (`Task.rendezvous`); the others watch that
task. So the port is chosen by who listens on it, and is that of this very attempt: the task's name and epoch fence it.
"""

import socket
from collections.abc import Callable
from datetime import timedelta
from time import monotonic

from headrace.errors import DeadlineExceeded, NotFound, StaleEpoch, Unavailable, error_class
from headrace.rpc.addresses import join_address, split_address
from headrace.rpc.channel import open_channel
from headrace.training.v1.workers_pb2 import Lead, StartTaskRequest
from headrace.training.v1.workers_pb2_grpc import WorkersStub
from headrace.types.v1.task_pb2 import Task, TaskState, WatchTaskRequest
from headrace_training.core.device import Device
from headrace_training.core.group import Group
from headrace_training.device_group import meet_on_devices
from headrace_training.gloo import Alone, Store, c10d
from headrace_training.interruption import Interruptible

_RETRY_S = 0.2
_ENDED = (TaskState.TASK_STATE_SUCCEEDED, TaskState.TASK_STATE_FAILED, TaskState.TASK_STATE_STOPPED)


def join(
    request: StartTaskRequest,
    host: str,
    timeout_s: float,
    tell: Callable[[Task], None],
    waiting: Interruptible,
    device: Device,
) -> Group:
    """Wait for all ranks of a run, and return the group; of one rank `Alone`.

    Args:
        host: The address of this machine that the others reach.
        device: What this rank computes on.
        tell: Reports a change of this task.
    Raises:
        Unavailable: Another rank went away meanwhile.
        DeadlineExceeded: One did not come.
        Cancelled: This rank was asked to stop.
        HeadraceError: What rank 0 failed with before it was ready.
    """
    if request.world_size == 1:
        return Alone()
    store = meet(request, host, timeout_s, tell, waiting)
    return meet_on_devices(store, request.rank, request.world_size, host, device, timeout_s, waiting)


def meet(
    request: StartTaskRequest,
    host: str,
    timeout_s: float,
    tell: Callable[[Task], None],
    waiting: Interruptible,
) -> Store:
    """Return the store that all ranks of this attempt share; errors as of `join`."""
    if request.world_size == 1:
        return c10d.HashStore()
    if request.rank == 0:
        store, address = open_store(host, timeout_s)
        tell(Task(rendezvous=address))
    else:
        address = waiting.run(
            lambda: find(request.lead, request.epoch, timeout_s, waiting), timeout_s, "search for rank 0"
        )
        store = connect(address, timeout_s)
    return c10d.PrefixStore(f"{_run(request)}/{request.epoch}", store)


def _run(request: StartTaskRequest) -> str:
    return request.name if request.rank == 0 else request.lead.task


def open_store(host: str, timeout_s: float) -> tuple[Store, str]:
    """Open the store of a run; it lives as long as this process."""
    family, _, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    with socket.create_server(address[:2], family=family) as listener:
        port = listener.getsockname()[1]
        store = c10d.TCPStore(
            host,
            port,
            is_master=True,
            timeout=timedelta(seconds=timeout_s),
            wait_for_workers=False,
            master_listen_fd=listener.detach(),  # it is the store's from now on
        )
    return store, join_address(host, port)


def connect(address: str, timeout_s: float) -> Store:
    """Connect to a store that another rank keeps."""
    host, port = split_address(address)
    try:
        return c10d.TCPStore(
            host, port, is_master=False, timeout=timedelta(seconds=timeout_s), wait_for_workers=False
        )
    except RuntimeError as error:
        raise Unavailable(f"rank 0 does not answer at {address}: {error}") from error


def find(lead: Lead, epoch: int, timeout_s: float, waiting: Interruptible) -> str:
    """Ask the node of the rank that leads where to meet, until it knows; errors as of `join`."""
    deadline = monotonic() + timeout_s
    channel = open_channel(lead.address)
    try:
        while not waiting.stopped and monotonic() < deadline:
            task = _follow(WorkersStub(channel), lead.task, epoch, deadline - monotonic())
            if task is not None:
                return _meeting_place(task, epoch)
            waiting.pause(_RETRY_S)
    finally:
        channel.close()
    raise DeadlineExceeded(f"rank 0, {lead.task} on {lead.address}, did not say where to meet")


def _follow(workers: WorkersStub, name: str, epoch: int, timeout_s: float) -> Task | None:
    """Return rank 0's task once it says where to meet, or has ended; None if its node cannot be asked just now."""
    try:
        for response in workers.WatchTask(WatchTaskRequest(name=name), timeout=timeout_s):
            task = response.task
            if task.epoch > epoch:
                return task
            if task.epoch == epoch and (task.rendezvous or task.state in _ENDED):
                return task
    except (NotFound, Unavailable):  # it is told a moment later than ours, or restarts
        return None
    return None


def _meeting_place(task: Task, epoch: int) -> str:
    if task.epoch > epoch:
        raise StaleEpoch(
            f"{task.name} belongs to epoch {task.epoch} now; epoch {epoch} has been replaced and must stop"
        )
    if task.state in _ENDED:
        # The same reason: whoever hears of both ranks first decides alike.
        failure = error_class(task.failure.reason, Unavailable.code)
        raise failure(f"rank 0: {task.failure.message or 'it has ended'}")
    return task.rendezvous
