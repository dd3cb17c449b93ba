"""Messages to the core's terms and back."""

from headrace.errors import InvalidArgument
from headrace.names import ArtifactName, StoreName
from headrace.parameters.v1 import stores_pb2
from headrace.parameters.wire import layout_to_proto
from headrace_optimizers.wire import optimizer_from_proto, optimizer_to_proto, schedule_from_proto
from headrace_parameters.core.config import Consistency, StoreConfig
from headrace_parameters.live import LiveStore

_CONSISTENCY = {
    stores_pb2.CONSISTENCY_BSP: Consistency.BSP,
    stores_pb2.CONSISTENCY_SSP: Consistency.SSP,
    stores_pb2.CONSISTENCY_ASYNC: Consistency.ASYNC,
}
_CONSISTENCY_OF = {ours: theirs for theirs, ours in _CONSISTENCY.items()}


def config_from_proto(request: stores_pb2.CreateStoreRequest) -> StoreConfig:
    """Read a request; InvalidArgument names the field that cannot be."""
    consistency = _CONSISTENCY.get(request.consistency)
    if consistency is None:
        raise InvalidArgument(
            f"consistency is {request.consistency}; use CONSISTENCY_BSP, CONSISTENCY_SSP or CONSISTENCY_ASYNC",
            field="consistency",
        )
    name = StoreName.parse(request.name)
    if request.snapshot:
        check_snapshot(request.snapshot, name, "snapshot")
    return StoreConfig(
        name=name,
        epoch=request.epoch,
        shard_index=request.shard_index,
        shard_count=request.shard_count,
        worker_count=request.worker_count,
        consistency=consistency,
        optimizer=optimizer_from_proto(request.optimizer),
        snapshot=request.snapshot,
        schedule=schedule_from_proto(request.optimizer.schedule),
        staleness_bound=request.staleness_bound,
        backup_workers=request.backup_workers,
        maximum_gradient_norm=request.optimizer.maximum_gradient_norm,
    )


def check_snapshot(artifact: str, store: StoreName, field: str) -> None:
    """Raise InvalidArgument unless `artifact` is of the store's project, the only one the caller was let into."""
    if ArtifactName.parse(artifact, field=field).project != store.project:
        raise InvalidArgument(
            f"{field} {artifact} is not of project {store.project!r}, as the store is; restore within one project",
            field=field,
        )


def store_to_proto(store: LiveStore) -> stores_pb2.Store:
    """Write a store as it is now."""
    config = store.config
    message = stores_pb2.Store(
        name=str(config.name),
        epoch=config.epoch,
        shard_index=config.shard_index,
        shard_count=config.shard_count,
        worker_count=config.worker_count,
        consistency=_CONSISTENCY_OF[config.consistency],
        optimizer=optimizer_to_proto(config.optimizer, config.schedule, config.maximum_gradient_norm),
        staleness_bound=config.staleness_bound,
        backup_workers=config.backup_workers,
        size_bytes=store.size_bytes,
    )
    message.create_time.FromDatetime(store.create_time)
    published, layout = store.published, store.layout
    if published and layout:
        held = store.held(layout)
        message.initialized = True
        message.version = published.version
        message.tensors.extend(layout_to_proto(layout))
        message.offset, message.length = held.start, len(held)
    return message
