"""Messages to the core's terms and back."""

from headrace.errors import InvalidArgument
from headrace.names import ArtifactName, StoreName
from headrace.parameters.encoded import compression_from_proto, compression_to_proto
from headrace.parameters.ranges import shared
from headrace.parameters.v1 import assignment_pb2, parameters_pb2, stores_pb2
from headrace.parameters.wire import layout_to_proto, map_to_proto
from headrace.scheduler.v1 import nodes_pb2
from headrace_optimizers.loading import Load, refuse
from headrace_optimizers.table_wire import tables_from_proto
from headrace_optimizers.wire import optimizer_from_proto, optimizer_to_proto, schedule_from_proto
from headrace_parameters.core.config import Consistency, Durability, Norms, StoreConfig
from headrace_parameters.core.tenure import Assignment, Role
from headrace_parameters.live import LiveStore
from headrace_parameters.replicated_store import ReplicatedStore
from headrace_parameters.table_wire import tables_to_proto

_CONSISTENCY = {
    stores_pb2.CONSISTENCY_BSP: Consistency.BSP,
    stores_pb2.CONSISTENCY_SSP: Consistency.SSP,
    stores_pb2.CONSISTENCY_ASYNC: Consistency.ASYNC,
}
_DURABILITY = {
    stores_pb2.DURABILITY_UNSPECIFIED: Durability.MEMORY,
    stores_pb2.DURABILITY_MEMORY: Durability.MEMORY,
    stores_pb2.DURABILITY_PROCESS: Durability.PROCESS,
    stores_pb2.DURABILITY_DISK: Durability.DISK,
    stores_pb2.DURABILITY_REPLICA: Durability.REPLICA,
    stores_pb2.DURABILITY_REPLICA_DISK: Durability.REPLICA_DISK,
}
_ROLE = {
    assignment_pb2.STORE_ROLE_PRIMARY: Role.PRIMARY,
    assignment_pb2.STORE_ROLE_REPLICA: Role.REPLICA,
    assignment_pb2.STORE_ROLE_STANDBY: Role.STANDBY,
}
_ROLE_OF = {ours: theirs for theirs, ours in _ROLE.items()}
_DURABILITY_OF = {ours: theirs for theirs, ours in _DURABILITY.items()}
_NORMS = {
    parameters_pb2.NORMS_UNSPECIFIED: Norms.GRADIENT,
    parameters_pb2.NORMS_GRADIENT: Norms.GRADIENT,
    parameters_pb2.NORMS_TENSORS: Norms.TENSORS,
}
_CONSISTENCY_OF = {ours: theirs for theirs, ours in _CONSISTENCY.items()}


def config_from_proto(request: stores_pb2.CreateStoreRequest, load: Load = refuse) -> StoreConfig:
    """Read a request; `load` finds a user's own update.

    Raises:
        InvalidArgument: A field cannot be; the error names it.
        ProgramNotAllowed: A user's own update may not run here.
    """
    consistency = _CONSISTENCY.get(request.consistency)
    if consistency is None:
        raise InvalidArgument(
            f"consistency is {request.consistency}; use CONSISTENCY_BSP, CONSISTENCY_SSP or CONSISTENCY_ASYNC",
            field="consistency",
        )
    name = StoreName.parse(request.name)
    durability = _DURABILITY.get(request.durability)
    if durability is None:
        raise InvalidArgument(
            f"durability is {request.durability}; use DURABILITY_MEMORY, _PROCESS, _DISK, _REPLICA or _REPLICA_DISK",
            field="durability",
        )
    for snapshot in request.snapshots:
        check_snapshot(snapshot, name, "snapshots")
    return StoreConfig(
        name=name,
        epoch=request.epoch,
        shard_index=request.shard_index,
        shard_count=request.shard_count,
        worker_count=request.worker_count,
        consistency=consistency,
        optimizer=optimizer_from_proto(request.optimizer, load),
        snapshots=tuple(request.snapshots),
        schedule=schedule_from_proto(request.optimizer.schedule),
        staleness_bound=request.staleness_bound,
        backup_workers=request.backup_workers,
        maximum_gradient_norm=request.optimizer.maximum_gradient_norm,
        durability=durability,
        compression=compression_from_proto(request.compression),
        tables=tables_from_proto(request.tables),
        assignment=assignment_from_proto(request.assignment) if request.HasField("assignment") else None,
        joins=request.joins,
    )


def norms_from_proto(norms: parameters_pb2.Norms.ValueType) -> Norms:
    """Read what a step waits for; InvalidArgument if there is no such thing."""
    found = _NORMS.get(norms)
    if found is None:
        raise InvalidArgument(f"norms is {norms}; use NORMS_GRADIENT or NORMS_TENSORS", field="norms")
    return found


def assignment_from_proto(message: assignment_pb2.Assignment) -> Assignment:
    """Read an assignment; InvalidArgument names the field that cannot be."""
    role = _ROLE.get(message.role)
    if role is None:
        raise InvalidArgument(
            f"assignment.role is {message.role}; use STORE_ROLE_PRIMARY or STORE_ROLE_REPLICA",
            field="assignment.role",
        )
    return Assignment(message.term, role, message.replica)


def covered(store: LiveStore, header: parameters_pb2.PushHeader) -> tuple[range, ...] | None:
    """Say which of the values held here a push is for, counted from the first one held; None: all.

    Raises:
        InvalidArgument: There are no such tensors or ranges.
    """
    if not header.HasField("coverage"):
        return None
    assert store.layout is not None, "who knows that the push is no duplicate has seen values"
    ranges = [range(part.start, part.stop) for part in header.coverage.ranges]
    chosen = store.layout.select(header.coverage.tensors, ranges)
    places = shared(chosen, store.held(store.layout)) if not header.coverage.nothing else ()
    return tuple(range(place.second, place.second + len(place.values)) for place in places)


def check_snapshot(artifact: str, store: StoreName, field: str) -> None:
    """Raise InvalidArgument unless `artifact` is of the store's project, the only one the caller was let into."""
    if ArtifactName.parse(artifact, field=field).project != store.project:
        raise InvalidArgument(
            f"{field} {artifact} is not of project {store.project!r}, as the store is; restore within one project",
            field=field,
        )


def store_to_proto(store: LiveStore) -> stores_pb2.Store:
    """Write a store as it is now."""
    config, members = store.config, store.members
    message = stores_pb2.Store(
        name=str(config.name),
        epoch=config.epoch,
        shard_index=config.shard_index,
        shard_count=store.shard_count,
        worker_count=config.worker_count,
        consistency=_CONSISTENCY_OF[config.consistency],
        optimizer=optimizer_to_proto(config.optimizer, config.schedule, config.maximum_gradient_norm),
        staleness_bound=config.staleness_bound,
        backup_workers=config.backup_workers,
        size_bytes=store.size_bytes,
        durability=_DURABILITY_OF[config.durability],
        compression=compression_to_proto(config.compression),
        tables=tables_to_proto(store.tables.values()),
        generation=members.generation,
        workers=members.workers,
    )
    if isinstance(store, ReplicatedStore):
        tenure = store.replicated.tenure
        replica = tenure.replica or store.replicated.successor
        message.assignment.MergeFrom(
            assignment_pb2.Assignment(term=tenure.term, role=_ROLE_OF[tenure.role], replica=replica)
        )
        message.replica_synced = tenure.synced
    message.create_time.FromDatetime(store.create_time)
    message.next_map_epoch = store.next_map.epoch if store.next_map else 0
    message.next_map_agreed = store.next_map_agreed
    published, layout, shard_map = store.published, store.layout, store.map
    if layout and shard_map:
        message.tensors.extend(layout_to_proto(layout))
        message.length = shard_map.length(config.shard_index)
        message.shard_map.CopyFrom(map_to_proto(shard_map))
    if published:
        message.initialized = True
        message.version = published.version
    return message


def recovered_to_proto(store: LiveStore) -> nodes_pb2.RecoveredStore:
    """Tell the scheduler of a store that outlived its process."""
    return nodes_pb2.RecoveredStore(
        name=str(store.config.name),
        epoch=store.config.epoch,
        shard_index=store.config.shard_index,
        version=store.published.version if store.published else 0,
    )
