"""The Replication service on the wire."""

from collections.abc import Iterator

from grpc import ServicerContext

from headrace.errors import FailedPrecondition, InvalidArgument
from headrace.names import StoreName
from headrace.parameters.v1 import replication_pb2, replication_pb2_grpc, stores_pb2
from headrace_parameters.replicated_store import ReplicatedStore
from headrace_parameters.replication.follower import Follower
from headrace_parameters.table import StoreTable
from headrace_parameters.wire import assignment_from_proto, store_to_proto


class ReplicationServicer(replication_pb2_grpc.ReplicationServicer):
    """Translates; `ReplicatedStore` and `Follower` do the work.

    Args:
        share: Whether this process reads memory of others on its machine.
    """

    def __init__(self, table: StoreTable, *, share: bool) -> None:
        self._table = table
        self._share = share

    def Assign(self, request: replication_pb2.AssignRequest, context: ServicerContext) -> stores_pb2.Store:
        """Give the store another role."""
        store = self._replicated(request.store, request.epoch)
        store.assign(assignment_from_proto(request.assignment))
        return store_to_proto(store)

    def Replicate(
        self, request_iterator: Iterator[replication_pb2.ReplicateRequest], context: ServicerContext
    ) -> Iterator[replication_pb2.ReplicateResponse]:
        """Follow a primary."""
        first = next(request_iterator, None)
        if first is None:
            raise InvalidArgument("the stream ended without a message; the first one names the store")
        store = self._replicated(first.store, first.epoch)
        store.replicated.tenure.check_follows(first.term, first.store)
        store.check_changed_with(first.map_epoch)
        follower = Follower(store, first, self._table.reserve_bytes, share=self._share)
        context.add_callback(follower.close)
        yield from follower.answers(request_iterator)

    def _replicated(self, name: str, epoch: int) -> ReplicatedStore:
        store = self._table.get(StoreName.parse(name, field="store"))
        store.config.fence(epoch)
        if not isinstance(store, ReplicatedStore):
            raise FailedPrecondition(
                f"{name} is of durability {store.config.durability.value} and has no replica; make it of another one"
            )
        return store
