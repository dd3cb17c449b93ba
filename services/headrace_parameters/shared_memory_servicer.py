"""The SharedMemory service on the wire: the Parameters service, but for where values lie."""

from collections.abc import Callable, Iterator
from typing import TypeVar

from grpc import ServicerContext

from headrace.errors import SharedMemoryUnavailable
from headrace.names import StoreName
from headrace.parameters import codec
from headrace.parameters.v1 import parameters_pb2, shared_memory_pb2, shared_memory_pb2_grpc
from headrace.rpc.lanes.server import Lanes
from headrace_parameters.gradient_segments import GradientSegments
from headrace_parameters.live import LiveStore
from headrace_parameters.parameters_servicer import ParametersServicer

Message = TypeVar("Message", parameters_pb2.PushRequest, parameters_pb2.PushPullRequest)


class SharedMemoryServicer(shared_memory_pb2_grpc.SharedMemoryServicer):
    """Hands gradients to a `ParametersServicer` as if they had come by a stream, so that the same rules hold.

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
        first = parameters_pb2.PushRequest(store=request.store, header=request.header)
        messages = self._messages(first, request.gradient)
        return shared_memory_pb2.PushSharedResponse(response=self._parameters.Push(messages, context))

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
        if response.not_modified:
            return shared_memory_pb2.PullSharedResponse(response=response)
        values = store.memory.locate(published.values)
        self._parameters.count_sent(store, response, published.values.nbytes)
        return shared_memory_pb2.PullSharedResponse(response=response, values=values)

    def PushPullShared(
        self, request: shared_memory_pb2.PushPullSharedRequest, context: ServicerContext
    ) -> shared_memory_pb2.PushPullSharedResponse:
        """Take a gradient, then say where the values lie that hold it."""
        first = parameters_pb2.PushPullRequest(store=request.store, header=request.header)
        messages = self._messages(first, request.gradient)
        response, store, published = self._parameters.push_pulled(messages, context)
        values = store.memory.locate(published.values)
        self._parameters.count_sent(store, response, published.values.nbytes)
        return shared_memory_pb2.PushPullSharedResponse(response=response, values=values)

    def ReleaseShared(
        self, request: shared_memory_pb2.ReleaseSharedRequest, context: ServicerContext
    ) -> shared_memory_pb2.ReleaseSharedResponse:
        """Let go of a worker's segment."""
        self._segments().release(StoreName.parse(request.store, field="store"), request.worker, request.nonce)
        return shared_memory_pb2.ReleaseSharedResponse()

    def _messages(self, first: Message, where: shared_memory_pb2.SharedValues) -> Iterator[Message]:
        """Yield a push, then its gradient, which nobody takes, nor is mapped, if the push is refused or known."""
        gradients = self._segments()
        return self._read(gradients, first, where)

    def _read(
        self, gradients: GradientSegments, first: Message, where: shared_memory_pb2.SharedValues
    ) -> Iterator[Message]:
        yield first
        store = self._find(StoreName.parse(first.store, field="store"))
        offset = 0
        for part in gradients.read(store, first.header.worker, where):
            yield codec.carried(type(first)(), offset, part.data)
            offset += part.size

    def _segments(self) -> GradientSegments:
        if self._gradients is None:
            raise SharedMemoryUnavailable("shared memory is turned off: HEADRACE_PARAMETERS_SHARED_MEMORY")
        return self._gradients
