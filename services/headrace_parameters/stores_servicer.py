"""The Stores service on the wire."""

from functools import partial

from google.protobuf import empty_pb2
from grpc import ServicerContext

from headrace.names import ProjectName, StoreName
from headrace.paging import PageRequest
from headrace.parameters.v1 import members_pb2, stores_pb2, stores_pb2_grpc
from headrace_optimizers.loading import Load, refuse
from headrace_parameters import save_point
from headrace_parameters.live import LiveStore
from headrace_parameters.snapshots import Snapshots
from headrace_parameters.table import StoreTable
from headrace_parameters.wire import check_snapshot, config_from_proto, store_to_proto


class StoresServicer(stores_pb2_grpc.StoresServicer):
    """Translates; `StoreTable` and `Snapshots` do the work.

    Args:
        load: Finds users' own updates.
    """

    def __init__(self, table: StoreTable, snapshots: Snapshots, load: Load = refuse) -> None:
        self._load = load
        self._table = table
        self._snapshots = snapshots

    def CreateStore(
        self, request: stores_pb2.CreateStoreRequest, context: ServicerContext
    ) -> stores_pb2.Store:
        """Make a shard, empty or from snapshots."""

        def begin_with_snapshots(store: LiveStore) -> None:
            if request.snapshots:
                save_point.begin(store, self._snapshots.cut_out(request.snapshots, store.config))

        config = config_from_proto(request, self._load)
        return store_to_proto(self._table.create(config, request, begin_with_snapshots))

    def GetStore(self, request: stores_pb2.GetStoreRequest, context: ServicerContext) -> stores_pb2.Store:
        """Return one store."""
        return store_to_proto(self._table.get(StoreName.parse(request.name)))

    def ListStores(
        self, request: stores_pb2.ListStoresRequest, context: ServicerContext
    ) -> stores_pb2.ListStoresResponse:
        """List the stores of a project."""
        project = ProjectName.parse(request.parent, field="parent").project
        asked = PageRequest.parse(request.page_size, request.page_token, "ListStores", request.parent)
        page = asked.page_of_all(self._table.of_project(project), lambda store: (str(store.config.name),))
        return stores_pb2.ListStoresResponse(
            stores=map(store_to_proto, page.items), next_page_token=page.next_page_token
        )

    def DeleteStore(
        self, request: stores_pb2.DeleteStoreRequest, context: ServicerContext
    ) -> empty_pb2.Empty:
        """Forget a store."""
        self._table.delete(StoreName.parse(request.name), request.epoch)
        return empty_pb2.Empty()

    def FinishRun(self, request: stores_pb2.FinishRunRequest, context: ServicerContext) -> empty_pb2.Empty:
        """Let no worker wait for another any more."""
        store = self._fenced(request.name, request.epoch)
        store.members.check_generation(request.generation)
        store.finish()
        return empty_pb2.Empty()

    def SetMembers(
        self, request: members_pb2.SetMembersRequest, context: ServicerContext
    ) -> stores_pb2.Store:
        """Change whose gradients count."""
        store = self._fenced(request.name, request.epoch)
        store.change_members(request.generation, tuple(request.workers))
        return store_to_proto(store)

    def PrepareSnapshot(
        self, request: stores_pb2.PrepareSnapshotRequest, context: ServicerContext
    ) -> stores_pb2.PrepareSnapshotResponse:
        """Let the shards of a store come to one moment."""
        return stores_pb2.PrepareSnapshotResponse(
            next_steps=save_point.hold(self._fenced(request.name, request.epoch))
        )

    def Snapshot(
        self, request: stores_pb2.SnapshotRequest, context: ServicerContext
    ) -> stores_pb2.SnapshotResponse:
        """Save a shard in the registry."""
        store = self._fenced(request.name, request.epoch)
        store.check_map(request.map_epoch)
        state = partial(save_point.saved, store, dict(request.next_steps))
        artifact, version = self._snapshots.save(store.config.name.project, state)
        return stores_pb2.SnapshotResponse(artifact=artifact, version=version)

    def Restore(self, request: stores_pb2.RestoreRequest, context: ServicerContext) -> stores_pb2.Store:
        """Put a snapshot back."""
        store = self._fenced(request.name, request.epoch)
        check_snapshot(request.artifact, store.config.name, "artifact")
        state = self._snapshots.load(request.artifact)
        self._table.reserve_bytes(store, store.needed_bytes(state.layout))
        save_point.restore(store, state)
        return store_to_proto(store)

    def _fenced(self, name: str, epoch: int) -> LiveStore:
        store = self._table.get(StoreName.parse(name))
        store.config.fence(epoch)
        return store
