"""Many requests on one stream: they run at the same time, and their answers leave as `core.ordering` says."""

import queue
import threading
from collections.abc import Callable, Iterator
from enum import Enum
from typing import TypeAlias

import grpc

from headrace.errors import HeadraceError, ServerDraining
from headrace.inference.oip.v2 import inference_pb2 as pb
from headrace.rpc.deferred import Answer
from headrace.rpc.errors import hidden
from headrace.rpc.layers import Call
from headrace_inference.core import ordering
from headrace_inference.wire.parameters import IS_FINAL

# Requests of one stream that run or whose answers are not sent; the next one waits with the caller, by gRPC's flow control.
MAX_IN_FLIGHT = 64
# Answers of one stream that are not sent yet: a model that gives many is kept waiting by a caller who reads slowly.
MAX_UNSENT = 64

Item: TypeAlias = "pb.ModelStreamInferResponse | HeadraceError | Later"  # what leaves the line


class _News(Enum):
    """What the call's thread is told beside answers."""

    DONE = "one more request is done"
    END = "all requests are done, and no more will come"
    DRAINING = "the server is about to stop"


class Place:
    """One request's place on a stream: takes its answers, from any thread."""

    def __init__(self, stream: "Stream", request: pb.ModelInferRequest) -> None:
        self.request = request
        self._stream = stream
        self._place = stream.enter(self)
        self._callbacks: list[Callable[[], object]] = []

    def watch(self, callback: Callable[[], object]) -> None:
        """Call `callback` when the caller is gone, if the request is not done by then."""
        self._callbacks.append(callback)
        if self._stream.is_over:
            callback()

    def abandon(self) -> None:
        """Take note that the caller is gone."""
        for callback in self._callbacks:
            callback()

    def free(self) -> None:
        """Let the answers leave as they come, in no order with those of other requests; call it before there is one."""
        self._stream.pass_on(lambda line: line.free(self._place))

    def wait_for_room(self) -> None:
        """Wait until the caller has read enough of what was given before, or is gone."""
        self._stream.wait_for_room()

    def give(self, response: pb.ModelInferResponse, *, final: bool) -> None:
        """Send an answer; `final` says that no more follow."""
        response.parameters[IS_FINAL].bool_param = final
        self._give(pb.ModelStreamInferResponse(infer_response=response), done=final)

    def settle(self, answer: Answer[pb.ModelInferResponse]) -> None:
        """Send the only answer, which has been settled: the call's own thread takes it out, in its turn."""
        self._give(Later(self, answer), done=True)

    def finish(self) -> None:
        """Say that no more answers follow."""
        self._give(done=True)

    def fail(self, error: Exception) -> None:
        """Send an error instead of more answers."""
        self._give(self.refusal(error), done=True)

    def refusal(self, error: Exception) -> pb.ModelStreamInferResponse | HeadraceError:
        """Return an error as the stream sends it."""
        known = error if isinstance(error, HeadraceError) else hidden(error)
        return known if self._stream.strict else _refused(self.request, known)

    def _give(self, *answers: "Item", done: bool) -> None:
        self._stream.pass_on(lambda line: line.give(self._place, *answers, done=done))
        if done:
            self._stream.leave(self)


class Later:
    """An answer that has been settled, and is not yet a response."""

    def __init__(self, place: Place, answer: Answer[pb.ModelInferResponse]) -> None:
        self._place = place
        self._answer = answer

    def response(self) -> pb.ModelStreamInferResponse | HeadraceError:
        """Make the response."""
        try:
            response = self._answer.wait()
        except Exception as error:  # noqa: BLE001 - the top of a request: its caller gets it
            return self._place.refusal(error)
        response.parameters[IS_FINAL].bool_param = True
        return pb.ModelStreamInferResponse(infer_response=response)


class Stream:
    """One call of ModelStreamInfer.

    Args:
        begin: Begins a request without waiting for its answer, and returns that, or None if answers go to the place by themselves;
            may raise what `Place.fail` takes.
        strict: Whether an error ends the stream with its status; else it is an answer, and the stream goes on.
    """

    def __init__(
        self, begin: Callable[[Place], Answer[pb.ModelInferResponse] | None], *, strict: bool
    ) -> None:
        self._begin = begin
        self.strict = strict
        self._line: ordering.Line[Item] = ordering.Line()
        self._open: set[Place] = set()  # those that are not done
        self._reading = True
        self._draining = False
        self.is_over = False
        self._unsent = 0
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._slots = threading.Semaphore(MAX_IN_FLIGHT)
        self._out: queue.SimpleQueue[Item | _News] = queue.SimpleQueue()

    def serve(
        self, requests: Iterator[pb.ModelInferRequest], call: Call
    ) -> Iterator[pb.ModelStreamInferResponse]:
        """Yield answers until all requests are answered; for the call's own thread.

        Raises:
            ServerDraining: The server is about to stop, and what came before is answered.
            HeadraceError: In a strict stream, what was wrong with a request.
        """
        call.on_end(lambda: self._out.put(_News.DRAINING))
        call.context.add_callback(self._abandon)
        threading.Thread(target=self._read, args=(requests,), name="stream-requests", daemon=True).start()
        try:
            while (news := self._out.get()) is not _News.END:
                if news is _News.DRAINING:
                    self._drain()
                elif news is _News.DONE:
                    self._slots.release()
                elif not isinstance(news, _News):
                    yield self._response(news)
                    self._sent()
            if self._draining:
                raise _draining()
        finally:
            self._end()
            self._slots.release()  # for the reader, who may wait for one

    @staticmethod
    def _response(item: "Item") -> pb.ModelStreamInferResponse:
        response = item.response() if isinstance(item, Later) else item
        if isinstance(response, HeadraceError):
            raise response
        return response

    def enter(self, place: Place) -> ordering.Place[Item]:
        """Take in the next request."""
        with self._lock:
            self._open.add(place)
            return self._line.enter()

    def pass_on(self, change: "Callable[[ordering.Line[Item]], list[Item | None]]") -> None:
        """Change the line, and send what leaves it."""
        with self._lock:
            for answer in change(self._line):
                self._out.put(_News.DONE if answer is None else answer)
                self._unsent += answer is not None

    def wait_for_room(self) -> None:
        """Wait until less than `MAX_UNSENT` answers are on their way, or the call is over."""
        with self._room:
            self._room.wait_for(lambda: self._unsent < MAX_UNSENT or self.is_over)

    def _sent(self) -> None:
        with self._room:
            self._unsent -= 1
            self._room.notify_all()

    def leave(self, place: Place) -> None:
        """Take note that all answers to a request are passed on."""
        with self._lock:
            self._open.discard(place)
            self._end_if_done()

    def _drain(self) -> None:
        """Take no more requests; the call ends when those inside are answered."""
        with self._lock:
            self._draining = True
            self._end_if_done()

    def _end(self) -> None:
        with self._room:
            self.is_over = True
            self._room.notify_all()

    def _abandon(self) -> None:
        self._end()
        with self._lock:
            places = [*self._open]
        for place in places:
            place.abandon()

    def _end_if_done(self) -> None:
        if (self._draining or not self._reading) and not self._open:
            self._out.put(_News.END)

    def _read(self, requests: Iterator[pb.ModelInferRequest]) -> None:
        """Begin the requests as they come; in a thread of its own."""
        try:
            for request in requests:
                self._slots.acquire()
                if self.is_over:
                    return
                place = Place(self, request)
                if self._draining:
                    place.fail(_draining())
                else:
                    self._begin_one(place)
        except grpc.RpcError:
            return  # the call is over, which its own thread knows as well
        except Exception as error:  # noqa: BLE001 - the top of a thread: what came is no request
            self._out.put(error if isinstance(error, HeadraceError) else hidden(error))
            return
        with self._lock:
            self._reading = False
            self._end_if_done()

    def _begin_one(self, place: Place) -> None:
        try:
            answer = self._begin(place)
        except Exception as error:  # noqa: BLE001 - the top of a request: its caller gets it
            place.fail(error)
            return
        if answer is not None:
            answer.then(lambda: place.settle(answer))


def _draining() -> ServerDraining:
    return ServerDraining("the server is about to stop; open the stream again elsewhere")


def _refused(request: pb.ModelInferRequest, error: HeadraceError) -> pb.ModelStreamInferResponse:
    """Say on a stream what is wrong with a request."""
    named = pb.ModelInferResponse(
        id=request.id, model_name=request.model_name, model_version=request.model_version
    )
    return pb.ModelStreamInferResponse(error_message=error.message, infer_response=named)
