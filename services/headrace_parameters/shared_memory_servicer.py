"""The SharedMemory service on the wire: the Parameters service, but for where values lie."""

from collections.abc import Callable
from contextlib import closing

from grpc import ServicerContext

from headrace.errors import ShapeMismatch, SharedMemoryUnavailable
from headrace.names import StoreName
from headrace.parameters.v1 import parameters_pb2, shared_memory_pb2, shared_memory_pb2_grpc
from headrace.rpc.lanes.server import Lanes
from headrace_parameters.bringing import Bring, Brought
from headrace_parameters.core.config import Consistency
from headrace_parameters.gradient_segments import GradientSegments
from headrace_parameters.live import LiveStore
from headrace_parameters.parameters_servicer import ParametersServicer


class SharedMemoryServicer(shared_memory_pb2_grpc.SharedMemoryServicer):
    """Hands gradients to a `ParametersServicer` as its streams do, so that the same rules hold.

    Args:
        find: Returns the store of a name, or raises NotFound.
        gradients: None: this process shares no memory, and refuses every call.
        lanes: The server's.
    """

    def __init__(
        self,
        parameters: ParametersServicer,
        find: Callable[[StoreName], LiveStore],
        gradients: GradientSegments | None,
        lanes: Lanes,
    ) -> None:
        self._parameters = parameters
        self._find = find
        self._gradients = gradients
        self._lanes = lanes

    def OpenLane(
        self, request: shared_memory_pb2.OpenLaneRequest, context: ServicerContext
    ) -> shared_memory_pb2.OpenLaneResponse:
        """Let the caller come by a lane."""
        self._segments()
        self._find(StoreName.parse(request.store, field="store"))
        return shared_memory_pb2.OpenLaneResponse(lane=self._lanes.invite(context))

    def PushShared(
        self, request: shared_memory_pb2.PushSharedRequest, context: ServicerContext
    ) -> shared_memory_pb2.PushSharedResponse:
        """Take a gradient."""
        store = self._find(StoreName.parse(request.store, field="store"))
        applied = store.config.consistency is not Consistency.BSP  # before it is answered
        bring = self._bring(request.header.worker, request.gradient, waits=applied)
        pushed = self._parameters.pushed(request.store, request.header, bring)
        return shared_memory_pb2.PushSharedResponse(response=pushed)

    def PullShared(
        self, request: shared_memory_pb2.PullSharedRequest, context: ServicerContext
    ) -> shared_memory_pb2.PullSharedResponse:
        """Say where values lie."""
        self._segments()
        asked = parameters_pb2.PullRequest(
            store=request.store,
            epoch=request.epoch,
            map_epoch=request.map_epoch,
            min_version=request.min_version,
            step=request.step if request.HasField("step") else None,
            pushed_step=request.pushed_step if request.HasField("pushed_step") else None,
            known=request.known if request.HasField("known") else None,
        )
        response, store, published = self._parameters.pulled(asked, context)
        with closing(published.readers):
            if response.not_modified:
                return shared_memory_pb2.PullSharedResponse(response=response)
            values = store.memory.locate(published.values)
        self._parameters.count_sent(store, response, published.values.nbytes)
        return shared_memory_pb2.PullSharedResponse(response=response, values=values)

    def PushPullShared(
        self, request: shared_memory_pb2.PushPullSharedRequest, context: ServicerContext
    ) -> shared_memory_pb2.PushPullSharedResponse:
        """Take a gradient, then say where the values lie that hold it."""
        bring = self._bring(request.header.worker, request.gradient, waits=True)
        response, store, published = self._parameters.push_pulled(
            request.store, request.header, bring, context
        )
        with closing(published.readers):
            values = store.memory.locate(published.values)
        self._parameters.count_sent(store, response, published.values.nbytes)
        return shared_memory_pb2.PushPullSharedResponse(response=response, values=values)

    def TakeBackShared(
        self, request: shared_memory_pb2.TakeBackSharedRequest, context: ServicerContext
    ) -> shared_memory_pb2.TakeBackSharedResponse:
        """Read a loan no more."""
        store = self._find(StoreName.parse(request.store, field="store"))
        self._segments().take_back(store, request.worker, request.nonce, request.sequence)
        return shared_memory_pb2.TakeBackSharedResponse()

    def ReleaseShared(
        self, request: shared_memory_pb2.ReleaseSharedRequest, context: ServicerContext
    ) -> shared_memory_pb2.ReleaseSharedResponse:
        """Let go of a worker's segment."""
        self._segments().release(StoreName.parse(request.store, field="store"), request.worker, request.nonce)
        return shared_memory_pb2.ReleaseSharedResponse()

    def _bring(self, worker: int, where: shared_memory_pb2.SharedValues, *, waits: bool) -> Bring:
        """Bring a gradient from its segment, which is not mapped for one that is refused or known.

        Args:
            waits: The call lasts until the gradient is applied: until then it may stay where it is.
        """
        gradients = self._segments()

        def bring(store: LiveStore, size: int) -> Brought:
            count = where.count + sum(span.count for span in where.further)
            if count != size:
                raise ShapeMismatch(f"the gradient has {count} values; it must have {size} here")
            if store.takes_loans and waits and not where.further:
                gradient, loan = gradients.lend(store, worker, where)
                return Brought(gradient, gradient.nbytes, loan)
            gradient, offset = store.new_memory(size), 0
            for part in gradients.read(store, worker, where):
                gradient[offset : offset + part.size] = part
                offset += part.size
            return Brought(gradient, gradient.nbytes)

        return bring

    def _segments(self) -> GradientSegments:
        if self._gradients is None:
            raise SharedMemoryUnavailable("shared memory is turned off: HEADRACE_PARAMETERS_SHARED_MEMORY")
        return self._gradients
