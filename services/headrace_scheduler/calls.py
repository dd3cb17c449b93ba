"""One rpc for each command: which service, which request, which deadline.

Repeating a call after a broken connection is the channel's work; what still fails is the core's to judge.
"""

import grpc

from headrace.errors import DataLoss, FailedPrecondition
from headrace.inference.oip.v2 import inference_pb2_grpc, repository_pb2
from headrace.optimization.v1 import optimizer_pb2, optimizer_pb2_grpc
from headrace.parameters.recoding import replication_stub
from headrace.parameters.v1 import (
    assignment_pb2,
    members_pb2,
    replication_pb2,
    resharding_pb2,
    resharding_pb2_grpc,
    stores_pb2,
    stores_pb2_grpc,
)
from headrace.registry.serving import SERVABLE
from headrace.registry.v1 import models_pb2, models_pb2_grpc
from headrace.rpc.context import PROJECT_METADATA
from headrace.scheduler.v1.jobs_pb2 import Job
from headrace.training.v1 import workers_pb2, workers_pb2_grpc
from headrace.types.v1.task_pb2 import StopTaskRequest
from headrace_scheduler.core.commands import (
    Assign,
    Assignment,
    Command,
    CreateStore,
    DeleteStore,
    LoadModel,
    Reshard,
    ResolveVersion,
    SetMembers,
    SetRanks,
    StartTask,
    StopTask,
    UnloadModel,
)
from headrace_scheduler.core.jobs import JobKind
from headrace_scheduler.wire import best_message

# A frozen process does not use these up: its lease ends first, and its channel is closed.
SHORT_S = 10.0  # answered from memory
START_S = 30.0  # a subprocess is started
MOVE_S = 75.0  # values move from shard to shard, and pushes wait: the shards themselves allow it a minute
TRANSFER_S = 120.0  # a snapshot or a model file is fetched from the registry


def perform(command: Command, channel: grpc.Channel) -> str:
    """Make the call a command asks for; return the version that ResolveVersion found, else nothing.

    Raises:
        HeadraceError: What the other service said.
    """
    match command:
        case CreateStore() | Assign() | SetMembers() | Reshard() | DeleteStore():
            _change_store(command, channel)
        case StartTask():
            _start(command, channel)
        case SetRanks():
            stub = workers_pb2_grpc.WorkersStub(channel)
            stub.SetMembers(set_members_request(command), timeout=SHORT_S)
        case StopTask():
            _tasks(command.kind, channel).StopTask(StopTaskRequest(name=command.task), timeout=SHORT_S)
        case ResolveVersion():
            return _resolve(command, channel)
        case LoadModel():
            _load(command, channel)
        case UnloadModel():
            metadata, model = _in_project(command.model)
            unload = repository_pb2.RepositoryModelUnloadRequest(model_name=model)
            _inference(channel).RepositoryModelUnload(unload, metadata=metadata, timeout=SHORT_S)
    return ""


def _change_store(
    command: CreateStore | Assign | SetMembers | Reshard | DeleteStore, channel: grpc.Channel
) -> None:
    stores = stores_pb2_grpc.StoresStub(channel)
    match command:
        case CreateStore():
            stores.CreateStore(create_store_request(command), timeout=TRANSFER_S)
        case Assign():
            replication_stub(channel).Assign(assign_request(command), timeout=SHORT_S)
        case SetMembers():
            members = members_pb2.SetMembersRequest(
                name=command.store, epoch=command.epoch, generation=command.generation, workers=command.ranks
            )
            stores.SetMembers(members, timeout=TRANSFER_S)
        case Reshard():
            _reshard(command, channel)
        case DeleteStore():
            delete = stores_pb2.DeleteStoreRequest(name=command.store, epoch=command.epoch)
            stores.DeleteStore(delete, timeout=SHORT_S)


def _tasks(
    kind: JobKind, channel: grpc.Channel
) -> workers_pb2_grpc.WorkersStub | optimizer_pb2_grpc.OptimizerStub:
    if kind is JobKind.TRAIN:
        return workers_pb2_grpc.WorkersStub(channel)
    return optimizer_pb2_grpc.OptimizerStub(channel)


def _inference(channel: grpc.Channel) -> inference_pb2_grpc.GRPCInferenceServiceStub:
    return inference_pb2_grpc.GRPCInferenceServiceStub(channel)


def create_store_request(command: CreateStore) -> stores_pb2.CreateStoreRequest:
    """Say which shard the process is to hold."""
    train = Job.FromString(command.spec).train
    return stores_pb2.CreateStoreRequest(
        name=command.store,
        epoch=command.epoch,
        shard_index=command.index,
        shard_count=command.shards,
        worker_count=command.workers,
        consistency=train.consistency,
        optimizer=train.optimizer,
        snapshots=command.snapshots,
        joins=command.joins,
        staleness_bound=train.staleness_bound,
        backup_workers=train.backup_workers,
        durability=train.durability,
        compression=train.compression if train.HasField("compression") else None,
        assignment=_assignment(command.assignment) if command.assignment else None,
    )


def assign_request(command: Assign) -> replication_pb2.AssignRequest:
    """Say what the process is to its shard."""
    return replication_pb2.AssignRequest(
        store=command.store, epoch=command.epoch, assignment=_assignment(command.assignment)
    )


def _assignment(assignment: Assignment) -> assignment_pb2.Assignment:
    role = assignment_pb2.STORE_ROLE_PRIMARY if assignment.primary else assignment_pb2.STORE_ROLE_REPLICA
    return assignment_pb2.Assignment(term=assignment.term, role=role, replica=assignment.replica)


def _reshard(command: Reshard, channel: grpc.Channel) -> None:
    request = resharding_pb2.ReshardRequest(
        store=command.store,
        epoch=command.epoch,
        map_epoch=command.map_epoch,
        shards=command.shards,
        add=command.add,
        remove=command.remove,
        next=command.next,
    )
    made = resharding_pb2_grpc.ReshardingStub(channel).Reshard(request, timeout=MOVE_S).shard_map
    found = sorted(shard.shard for shard in made.shards)
    if found != list(command.next):  # what it did before for processes that were at these addresses then
        raise DataLoss(f"the shards of {command.store} are {found}, and not {list(command.next)}")


def _start(command: StartTask, channel: grpc.Channel) -> None:
    if command.kind is JobKind.TRAIN:
        workers_pb2_grpc.WorkersStub(channel).StartTask(start_training_request(command), timeout=START_S)
    else:
        optimizer_pb2_grpc.OptimizerStub(channel).StartTask(
            start_optimization_request(command), timeout=START_S
        )


def start_training_request(command: StartTask) -> workers_pb2.StartTaskRequest:
    """Describe one rank completely."""
    train = Job.FromString(command.spec).train
    storeless = not command.shards  # a store has its optimizer and its snapshot
    lead = workers_pb2.Lead(address=command.lead.address, task=command.lead_task)
    return workers_pb2.StartTaskRequest(
        name=command.task,
        epoch=command.epoch,
        rank=command.rank,
        world_size=command.workers,
        program=train.program,
        store=command.store,
        shards=command.shards,
        replicas=command.replicas,
        options=train.options,
        start_step=command.start_step,
        model=train.model,
        job=command.job,
        strategy=train.strategy,
        optimizer=train.optimizer if storeless else None,
        snapshot=command.snapshot,
        lead=lead if command.lead_task else None,
        elastic=train.min_workers > 0,
        best=best_message(command.best) if command.best else None,
    )


def set_members_request(command: SetRanks) -> workers_pb2.SetMembersRequest:
    """Say who the members are."""
    return workers_pb2.SetMembersRequest(
        name=command.task,
        epoch=command.epoch,
        generation=command.generation,
        members=command.ranks,
        lead=workers_pb2.Lead(address=command.lead.address, task=command.lead_task),
    )


def start_optimization_request(command: StartTask) -> optimizer_pb2.StartTaskRequest:
    """Describe one pipeline completely."""
    return optimizer_pb2.StartTaskRequest(
        name=command.task,
        epoch=command.epoch,
        version=command.version,
        options=Job.FromString(command.spec).optimize.options,
        job=command.job,
    )


def _resolve(command: ResolveVersion, channel: grpc.Channel) -> str:
    wished = Job.FromString(command.spec).optimize.version
    request = models_pb2.GetVersionRequest(name=wished)
    return models_pb2_grpc.ModelsStub(channel).GetVersion(request, timeout=SHORT_S).name


def _load(command: LoadModel, channel: grpc.Channel) -> None:
    metadata, model = _in_project(command.model)
    load = repository_pb2.RepositoryModelLoadRequest(model_name=model)
    load.parameters["version"].string_param = command.version
    load.parameters["file"].string_param = command.file
    _inference(channel).RepositoryModelLoad(load, metadata=metadata, timeout=TRANSFER_S)


def _in_project(model: str) -> tuple[tuple[tuple[str, str]], str]:
    """Split `{project}/{model_name}`: the protocol has no place for the project but the caller's identity."""
    project, _, name = model.partition("/")
    return ((PROJECT_METADATA, project),), name


def resolve_file(channel: grpc.Channel | None, wished: str, file: str) -> tuple[str, str]:
    """Find out which version and which of its files a deployment means.

    Raises:
        FailedPrecondition: There is no registry, or the version has nothing to serve, or not that file.
        NotFound: There is no such version.
        Unavailable: The registry does not answer.
    """
    if channel is None:
        raise FailedPrecondition(
            "the scheduler was started without a registry, so it cannot find versions; set HEADRACE_SCHEDULER_REGISTRY_ADDRESS"
        )
    request = models_pb2.GetVersionRequest(name=wished)
    version = models_pb2_grpc.ModelsStub(channel).GetVersion(request, timeout=SHORT_S)
    found = file or version.serving_file
    servable = [entry.path for entry in version.files if entry.role in SERVABLE]
    if found not in servable:
        wanted = f"no file {file!r} that can be served" if file else "no file to serve"
        remedy = f"name one of {', '.join(servable)}" if servable else "optimize the model first"
        raise FailedPrecondition(f"{version.name} has {wanted}; {remedy}", field="deployment.file")
    return version.name, found
