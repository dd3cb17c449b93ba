"""A handler that answers later is served by both front ends, and its call lasts until the answer is there."""

import threading
from collections.abc import Iterator

import grpc
import pytest
from prometheus_client import CollectorRegistry

from headrace import errors
from headrace.registry.v1 import models_pb2, models_pb2_grpc
from headrace.rpc.context import current_request_id
from headrace.rpc.deferred import Answer, Deferred, answers_later
from headrace.testing import handler, serve, until

REQUEST = models_pb2.GetModelRequest(name="projects/default/models/digits")
METHOD = "headrace.registry.v1.Models/GetModel"


@pytest.fixture(params=[False, True], ids=["grpcio", "turbo"])
def turbo(request: pytest.FixtureRequest) -> bool:
    chosen: bool = request.param
    return chosen


class Later:
    """Answers when the test says so; knows its calls' threads, ids and ends."""

    def __init__(self) -> None:
        self.began = threading.Semaphore(0)
        self.waiting: list[Deferred[str]] = []
        self.threads: set[str] = set()
        self.ids: list[str] = []
        self.left = threading.Event()

    @answers_later
    def get(
        self, request: models_pb2.GetModelRequest, context: grpc.ServicerContext
    ) -> Answer[models_pb2.Model]:
        deferred = Deferred[str]()
        context.add_callback(self.left.set)
        self.waiting.append(deferred)
        self.threads.add(threading.current_thread().name)
        self.began.release()
        return deferred.map(self._model)

    def _model(self, name: str) -> models_pb2.Model:
        self.ids.append(current_request_id())
        return models_pb2.Model(name=name)


@pytest.fixture
def later() -> Iterator[Later]:
    later = Later()
    yield later
    for deferred in later.waiting:
        deferred.fail(errors.Cancelled("the test is over"))


def test_many_calls_wait_and_each_gets_its_answer(turbo: bool, later: Later) -> None:
    with serve(handler(METHOD, later.get), turbo=turbo) as channel:
        stub = models_pb2_grpc.ModelsStub(channel)
        calls = [stub.GetModel.future(REQUEST, metadata=(("headrace-request-id", "r7"),)) for _ in range(20)]
        for _ in calls:
            assert later.began.acquire(timeout=20)
        for number, deferred in enumerate(later.waiting):
            deferred.settle(str(number))
        assert {call.result().name for call in calls} == {str(number) for number in range(20)}
    assert set(later.ids) == {"r7"}
    assert later.left.is_set()
    if turbo:
        assert later.threads == {"turbo"}


def test_an_error_that_comes_later_is_told_as_one_that_is_raised(turbo: bool, later: Later) -> None:
    with serve(handler(METHOD, later.get), turbo=turbo) as channel:
        call = models_pb2_grpc.ModelsStub(channel).GetModel.future(REQUEST)
        assert later.began.acquire(timeout=20)
        later.waiting[0].fail(errors.NotFound("no such model", field="name"))
        with pytest.raises(errors.NotFound, match="no such model") as raised:
            call.result()
    assert raised.value.field == "name"


def test_a_call_is_counted_and_keeps_its_place_until_its_answer_is_there(turbo: bool, later: Later) -> None:
    metrics = CollectorRegistry()
    labels = {"method": METHOD}
    with serve(handler(METHOD, later.get), turbo=turbo, max_concurrent_rpcs=1, metrics=metrics) as channel:
        stub = models_pb2_grpc.ModelsStub(channel)
        call = stub.GetModel.future(REQUEST)
        assert later.began.acquire(timeout=20)
        assert metrics.get_sample_value("headrace_rpc_in_flight", labels) == 1
        with pytest.raises(errors.TooManyCalls):
            stub.GetModel(REQUEST)
        later.waiting[0].settle("digits")
        assert call.result().name == "digits"
        until(lambda: metrics.get_sample_value("headrace_rpc_in_flight", labels) == 0)


def test_a_caller_who_waits_no_longer_is_told_to_who_would_answer(turbo: bool, later: Later) -> None:
    with serve(handler(METHOD, later.get), turbo=turbo) as channel:
        call = models_pb2_grpc.ModelsStub(channel).GetModel.future(REQUEST)
        assert later.began.acquire(timeout=20)
        call.cancel()
        assert later.left.wait(20)
        later.waiting[0].settle("too late")
        again = models_pb2_grpc.ModelsStub(channel).GetModel.future(REQUEST)
        assert later.began.acquire(timeout=20)
        later.waiting[1].settle("in time")
        assert again.result().name == "in time"


def test_a_deadline_is_kept_while_nobody_answers(turbo: bool, later: Later) -> None:
    with serve(handler(METHOD, later.get), turbo=turbo) as channel:
        with pytest.raises(errors.DeadlineExceeded):
            models_pb2_grpc.ModelsStub(channel).GetModel(REQUEST, timeout=0.2)
        assert later.left.wait(20)
