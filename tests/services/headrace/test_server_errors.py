"""What a handler raises, and what the caller gets: for all four kinds of call."""

import threading
from collections.abc import Callable, Iterator

import grpc
import pytest
from structlog.testing import capture_logs

from headrace import errors
from headrace.registry.v1 import artifacts_pb2, artifacts_pb2_grpc
from headrace.rpc.layers import current_call
from headrace.scheduler.v1 import nodes_pb2, nodes_pb2_grpc
from headrace.testing import handler, serve
from headrace.testing.server import ServedChannel

NAME = f"projects/default/artifacts/{'0' * 64}"


class Service:
    """Fails as told; a stream fails after its first message. `attach` sends until it is closed."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.closed = threading.Event()
        self.woken = threading.Event()

    def get(self, request: object, context: grpc.ServicerContext) -> artifacts_pb2.Artifact:
        self._fail()
        return artifacts_pb2.Artifact()

    def download(
        self, request: object, context: grpc.ServicerContext
    ) -> Iterator[artifacts_pb2.DownloadResponse]:
        yield artifacts_pb2.DownloadResponse(data=b"first")
        self._fail()

    def upload(self, requests: Iterator[object], context: grpc.ServicerContext) -> artifacts_pb2.Artifact:
        next(requests)
        self._fail()
        return artifacts_pb2.Artifact()

    def attach(
        self, requests: Iterator[object], context: grpc.ServicerContext
    ) -> Iterator[nodes_pb2.AttachResponse]:
        current_call().on_end(self.woken.set)
        try:
            for _ in requests:
                self._fail()
                yield nodes_pb2.AttachResponse()
        finally:
            self.closed.set()

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def channel(service: Service) -> Iterator[ServedChannel]:
    with serve(
        handler("headrace.registry.v1.Artifacts/GetArtifact", service.get),
        handler("headrace.registry.v1.Artifacts/Download", service.download),
        handler("headrace.registry.v1.Artifacts/Upload", service.upload),
        handler("headrace.scheduler.v1.Nodes/Attach", service.attach),
    ) as channel:
        yield channel


def unary(channel: grpc.Channel) -> None:
    artifacts_pb2_grpc.ArtifactsStub(channel).GetArtifact(artifacts_pb2.GetArtifactRequest(name=NAME))


def response_stream(channel: grpc.Channel) -> None:
    list(artifacts_pb2_grpc.ArtifactsStub(channel).Download(artifacts_pb2.DownloadRequest(name=NAME)))


def request_stream(channel: grpc.Channel) -> None:
    requests = iter([artifacts_pb2.UploadRequest(name=NAME), artifacts_pb2.UploadRequest()])
    artifacts_pb2_grpc.ArtifactsStub(channel).Upload(requests)


def future(channel: grpc.Channel) -> None:
    call = artifacts_pb2_grpc.ArtifactsStub(channel).GetArtifact.future(
        artifacts_pb2.GetArtifactRequest(name=NAME)
    )
    assert isinstance(call.exception(), errors.HeadraceError)
    call.result()


def raw_unary(channel: grpc.Channel, method: str) -> None:
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
    call(b"")


Call = Callable[[grpc.Channel], None]
KINDS = [unary, response_stream, request_stream, future]


@pytest.mark.parametrize("call", KINDS)
def test_an_error_arrives_as_the_class_that_was_raised(
    call: Call, channel: ServedChannel, service: Service
) -> None:
    service.failure = errors.UploadOffsetMismatch(
        "begin at 7", metadata={"offset": 7}, field="offset", retry_after_s=0.5
    )
    with pytest.raises(errors.UploadOffsetMismatch, match="begin at 7") as caught:
        call(channel)
    assert (caught.value.metadata, caught.value.field, caught.value.retry_after_s) == (
        {"offset": "7"},
        "offset",
        0.5,
    )


@pytest.mark.parametrize("call", KINDS)
def test_an_unknown_exception_leaks_nothing_but_an_id_that_is_in_the_log(
    call: Call, channel: ServedChannel, service: Service
) -> None:
    service.failure = ValueError("the password is swordfish")
    with capture_logs() as logs, pytest.raises(errors.Internal) as caught:
        call(channel)
    assert "swordfish" not in repr(caught.value.__cause__)
    (line,) = [line for line in logs if line["log_level"] == "error"]
    assert line["error_id"] == caught.value.metadata["error_id"]
    assert line["exc_info"] is service.failure


def test_an_error_in_the_middle_of_a_bidirectional_stream_arrives(
    channel: ServedChannel, service: Service
) -> None:
    service.failure = errors.StaleEpoch("epoch 1 was replaced by 2")
    with pytest.raises(errors.StaleEpoch):
        list(nodes_pb2_grpc.NodesStub(channel).Attach(iter([nodes_pb2.AttachRequest()])))


def test_a_raw_rpc_error_of_another_service_is_not_passed_on(
    channel: ServedChannel, service: Service
) -> None:
    class ForeignError(grpc.RpcError):
        pass

    service.failure = ForeignError("secret")
    with pytest.raises(errors.Internal):
        unary(channel)


def test_a_method_that_is_not_served_says_where_it_was_looked_for(channel: ServedChannel) -> None:
    with pytest.raises(errors.Unimplemented, match=rf"{channel.address} does not serve no.Such/Method"):
        raw_unary(channel, "/no.Such/Method")


def test_a_stream_whose_caller_leaves_is_woken_and_closed(channel: ServedChannel, service: Service) -> None:
    hold = threading.Event()

    def requests() -> Iterator[nodes_pb2.AttachRequest]:
        yield nodes_pb2.AttachRequest()
        hold.wait(10)

    call = nodes_pb2_grpc.NodesStub(channel).Attach(requests())
    next(call)
    assert not service.woken.is_set()
    call.cancel()
    assert service.woken.wait(10)
    assert service.closed.wait(10)
    hold.set()
    with pytest.raises(errors.Cancelled):
        next(call)


def test_an_endless_stream_ends_when_its_caller_leaves() -> None:
    closed = threading.Event()

    def endless(request: object, context: grpc.ServicerContext) -> Iterator[artifacts_pb2.DownloadResponse]:
        try:
            while True:
                yield artifacts_pb2.DownloadResponse(data=b"more")
        finally:
            closed.set()

    with serve(handler("headrace.registry.v1.Artifacts/Download", endless)) as flooded:
        call = artifacts_pb2_grpc.ArtifactsStub(flooded).Download(artifacts_pb2.DownloadRequest(name=NAME))
        next(call)
        call.cancel()
        assert closed.wait(10)
