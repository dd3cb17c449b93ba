"""From a request to the `Synchronizer` of its strategy."""

from collections.abc import Callable

import torch

from headrace.names import TaskName
from headrace.parameters.client import ShardedStore
from headrace.parameters.route import Replicas
from headrace.parameters.tables import ShardedTables
from headrace.registry.client import RegistryClient
from headrace.tasks.child import Context, Reporter
from headrace.training.v1.workers_pb2 import StartTaskRequest, Strategy
from headrace_optimizers.loading import Load, loader
from headrace_optimizers.wire import optimizer_from_proto, schedule_from_proto
from headrace_training.checkpoints import RegistryCheckpoints
from headrace_training.core.agreement import Member
from headrace_training.core.all_reduce import AllReduce
from headrace_training.core.device import Device
from headrace_training.core.fully_sharded import Sharded
from headrace_training.core.group import Group
from headrace_training.core.local_sgd import LocalSgd
from headrace_training.core.parameter_server import ParameterServer
from headrace_training.core.synchronizer import Synchronizer
from headrace_training.interruption import Interruptible
from headrace_training.meetings import Meetings
from headrace_training.rendezvous import join, meet
from headrace_training.shard_finder import ShardFinder
from headrace_training.sharded_group import ShardedGroup, Watch, WatchedTeam
from headrace_training.wire import uses_store


def synchronizer_for(
    request: StartTaskRequest,
    context: Context,
    registry: RegistryClient | None,
    reporter: Reporter,
    device: Device,
) -> Synchronizer:
    """Make what a rank on this device agrees with the others by. A wait for a rank that is gone ends when the task is asked to stop."""
    timeout_s = float(context["step_timeout_s"])
    if request.options.fully_sharded:
        return _fully_sharded(request, context, registry, reporter, device)
    if not uses_store(request.strategy):
        return _all_reduce(
            request,
            str(context["collective_host"]),
            timeout_s,
            loader(context["allowed_updates"]),
            registry,
            reporter,
            device,
        )
    replicas = _replicas(request, str(context["scheduler_address"]))
    store = ShardedStore(
        list(request.shards),
        request.store,
        epoch=request.epoch,
        worker=request.rank,
        timeout_s=timeout_s,
        replicas=replicas,
    )
    reporter.on_stop(store.close)

    def open_tables() -> ShardedTables:
        tables = ShardedTables(
            list(request.shards),
            request.store,
            epoch=request.epoch,
            worker=request.rank,
            timeout_s=timeout_s,
            replicas=replicas,
        )
        reporter.on_stop(tables.close)
        return tables

    return ParameterServer(store, elastic=request.elastic, open_tables=open_tables, device=device)


def _replicas(request: StartTaskRequest, scheduler_address: str) -> Replicas:
    asks = request.replicas and request.job and scheduler_address
    find = ShardFinder(scheduler_address, request.job, request.epoch) if asks else None
    return Replicas(request.replicas, find)


def _all_reduce(
    request: StartTaskRequest,
    host: str,
    timeout_s: float,
    load: Load,
    registry: RegistryClient | None,
    reporter: Reporter,
    device: Device,
) -> AllReduce:
    parts = (
        _joining(request, host, timeout_s, reporter, device),
        optimizer_from_proto(request.optimizer, load),
        RegistryCheckpoints(registry, TaskName.parse(request.name).project),
        request.snapshot,
        request.start_step,
        schedule_from_proto(request.optimizer.schedule),
    )
    founder = request.rank < request.world_size
    member = Member(request.rank, founder) if request.elastic else None
    if request.strategy == Strategy.STRATEGY_LOCAL_SGD:
        return LocalSgd(request.options.average_every_steps, request.options.steps, *parts, member)
    return AllReduce(*parts, request.optimizer.maximum_gradient_norm, member)


def _joining(
    request: StartTaskRequest, host: str, timeout_s: float, reporter: Reporter, device: Device
) -> Callable[[], Group]:
    """Return how a rank finds the others: once, or whenever they have changed."""
    if request.elastic:
        meetings = Meetings(request, host, timeout_s, reporter.send, device)
        reporter.on_stop(meetings.stop)
        reporter.on_told(meetings.hear)
        return meetings.join
    waiting = Interruptible()
    reporter.on_stop(waiting.stop)
    return lambda: join(request, host, timeout_s, reporter.send, waiting, device)


def _fully_sharded(
    request: StartTaskRequest,
    context: Context,
    registry: RegistryClient | None,
    reporter: Reporter,
    device: Device,
) -> WatchedTeam:
    host, timeout_s = str(context["collective_host"]), float(context["step_timeout_s"])
    meeting, working = Interruptible(), Interruptible()
    reporter.on_stop(meeting.stop)
    reporter.on_stop(working.stop)
    watch = Watch(working)

    def join() -> ShardedGroup:
        store = meet(request, host, timeout_s, reporter.send, meeting)
        return ShardedGroup(store, request.rank, request.world_size, host, timeout_s, watch, device)

    return WatchedTeam(
        watch,
        join,
        _sharded_model,
        optimizer_from_proto(request.optimizer, loader(context["allowed_updates"])),
        RegistryCheckpoints(registry, TaskName.parse(request.name).project),
        request.snapshot,
        request.start_step,
        schedule_from_proto(request.optimizer.schedule),
        request.optimizer.maximum_gradient_norm,
    )


def _sharded_model(module: torch.nn.Module, device: Device, bf16: bool) -> Sharded:
    # Here: importing FSDP takes 1.5 s, which other tasks shall not wait for.
    from headrace_training.sharded_model import ShardedModel

    return ShardedModel(module, device, bf16=bf16)
