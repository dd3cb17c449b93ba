"""From a request of the protocol to its answer: read, run, answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from headrace.errors import HeadraceError, InvalidArgument
from headrace.inference.messages import inputs_of
from headrace.inference.oip.v2 import inference_pb2 as pb
from headrace.rpc.deferred import Answer
from headrace_inference.core.batching import Arrays, Terms
from headrace_inference.core.catalog import Key
from headrace_inference.decoupled import DecoupledEngine
from headrace_inference.engine import EngineClosed, Watch
from headrace_inference.loader import Model
from headrace_inference.models import Models
from headrace_inference.shared_memory import Region, Regions
from headrace_inference.streaming import Place
from headrace_inference.tracing import COMPUTE_END, QUEUE_START, Trace, Tracer
from headrace_inference.wire.outputs import Wish, fill_response, wishes_of
from headrace_inference.wire.parameters import Options, options_of, place_of


class Ask(NamedTuple):
    """A request that was read: its arrays are views of its message, or were fetched from shared memory."""

    key: Key
    version: str
    id: str
    inputs: Arrays
    wishes: Sequence[Wish]
    options: Options
    raw: bool


@dataclass(frozen=True)
class Caller:
    """Who asks: in which project, and by which name he has his part of a queue."""

    project: str
    name: str


class Inference:
    """Answers requests of all projects."""

    def __init__(self, models: Models, regions: Regions, tracer: Tracer) -> None:
        self._models = models
        self._regions = regions
        self._tracer = tracer

    def enter(
        self, caller: Caller, request: pb.ModelInferRequest, timeout_s: float | None, watch: Watch
    ) -> Answer[pb.ModelInferResponse]:
        """Have a model run once; whoever is given the answer must call its `wait` or its `then`.

        Args:
            timeout_s: When the caller stops waiting; None: never.
            watch: As `Models.enter`.
        Raises:
            NotFound: The model, this version of it, or a region of shared memory is not there.
            InvalidArgument: What the request holds is not what the protocol or the model takes.
            ResourceExhausted, DeadlineExceeded, Cancelled: As `Models.enter`; here, or by the answer.
        """
        key = Key(caller.project, request.model_name)
        trace = self._tracer.begin(key)
        ask = self._read(key, request)
        _refuse_sequence(ask)
        if trace:
            trace.mark(QUEUE_START)
        answer = self._models.enter(
            ask.key,
            ask.version,
            ask.inputs,
            tuple([wish.name for wish in ask.wishes]),
            timeout_s=timeout_s,
            watch=watch,
            terms=Terms(caller.name, ask.options.priority, ask.options.timeout_s or 0.0),
        )
        return answer.map(partial(_respond, ask, trace))

    def begin(
        self, caller: Caller, place: Place, timeout_s: float | None
    ) -> Answer[pb.ModelInferResponse] | None:
        """Begin a request on a stream; return its answer, or None if its model gives any number of them, which go to the place.

        Raises:
            HeadraceError: As `enter`.
        """
        request = place.request
        while True:
            model = self._models.find(Key(caller.project, request.model_name), request.model_version)
            if not isinstance(model.engine, DecoupledEngine):
                return self.enter(caller, request, timeout_s, place.watch)
            try:
                self._answer_often(model, model.engine, self._read(model.key, request), place, timeout_s)
            except EngineClosed:
                continue  # replaced or unloaded in this very moment: ask again who answers
            except HeadraceError as error:
                model.engine.statistics.failed(error.reason, 0.0)
                raise
            return None

    @staticmethod
    def _answer_often(
        model: Model, engine: DecoupledEngine, ask: Ask, place: Place, timeout_s: float | None
    ) -> None:
        _refuse_sequence(ask)
        model.signature.check_inputs(ask.inputs)
        outputs = model.signature.choose_outputs(wish.name for wish in ask.wishes)
        place.free()
        bound_s = _shorter(timeout_s, ask.options.timeout_s)
        engine.enter(ask.inputs, outputs, bound_s, place.watch, _Answers(model, ask, place))

    def _read(self, key: Key, request: pb.ModelInferRequest) -> Ask:
        find = partial(self._regions.find, key.project)
        return Ask(
            key,
            request.model_version,
            request.id,
            inputs_of(request, partial(_read_shared, find)),
            wishes_of(request.outputs, find),
            options_of(request.parameters),
            # Who writes typed contents, by hand perhaps, wants to read them too.
            raw=not (request.inputs and request.inputs[0].HasField("contents")),
        )


class _Answers:
    """Passes the answers of a model that gives any number of them on to their stream."""

    def __init__(self, model: Model, ask: Ask, place: Place) -> None:
        self._model = model
        self._ask = ask
        self._place = place

    def give(self, outputs: Arrays) -> None:
        """Send the next answer, when the caller has room for it."""
        self._place.wait_for_room()
        self._place.give(_answer(self._ask, self._model, outputs), final=False)

    def finish(self) -> None:
        """Say that no more follow: with an empty answer if that is wished, else without a word."""
        if self._ask.options.wants_final:
            self._place.give(_answer(self._ask, self._model, {}), final=True)
        else:
            self._place.finish()

    def fail(self, error: Exception) -> None:
        """Send an error instead of more answers."""
        self._place.fail(error)


def _read_shared(find: Callable[[str], Region], tensor: pb.ModelInferRequest.InferInputTensor) -> bytes:
    place = place_of(tensor.parameters)
    return find(place.region).read(place.offset, place.size_bytes)


def _refuse_sequence(ask: Ask) -> None:
    if ask.options.sequence:
        raise InvalidArgument(
            f"model {ask.key.model!r} keeps nothing from one request to the next; leave 'sequence_id' out",
            field="parameters",
        )


def _respond(ask: Ask, trace: Trace | None, answered: tuple[Model, Arrays]) -> pb.ModelInferResponse:
    model, outputs = answered
    if trace:
        trace.mark(COMPUTE_END)
    response = _answer(ask, model, outputs)
    if trace:
        trace.end(model.source.number)
    return response


def _answer(ask: Ask, model: Model, outputs: Arrays) -> pb.ModelInferResponse:
    response = pb.ModelInferResponse(model_name=model.key.model, model_version=model.source.number, id=ask.id)
    fill_response(
        response, outputs, ask.wishes, raw=ask.raw, batched=model.signature.may_batch, labels=model.labels
    )
    return response


def _shorter(one: float | None, other: float | None) -> float | None:
    """Return the shorter of two times; None is without end."""
    return min((time for time in (one, other) if time is not None), default=None)
