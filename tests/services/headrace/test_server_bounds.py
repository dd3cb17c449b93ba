"""What a server does at its limits, when it leaves, and what it says of itself."""

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from headrace import errors
from headrace.registry.v1 import models_pb2, models_pb2_grpc
from headrace.rpc.layers import current_call
from headrace.rpc.server import SPARE_THREADS, AddressUnavailable, Server
from headrace.testing import handler, serve, until
from headrace.training.v1 import workers_pb2_grpc
from headrace.types.v1 import task_pb2

REQUEST = models_pb2.GetModelRequest(name="projects/default/models/digits")
GET_MODEL = "headrace.registry.v1.Models/GetModel"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Gate:
    """A handler that stays inside until it is let out."""

    def __init__(self) -> None:
        self.inside = threading.Semaphore(0)
        self.out = threading.Event()

    def __call__(self, request: object, context: grpc.ServicerContext) -> models_pb2.Model:
        self.inside.release()
        assert self.out.wait(20)
        return models_pb2.Model()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.out.set()


def get(channel: grpc.Channel) -> models_pb2.Model:
    return models_pb2_grpc.ModelsStub(channel).GetModel(REQUEST)


def check(channel: grpc.Channel, service: str = "") -> health_pb2.HealthCheckResponse:
    response: health_pb2.HealthCheckResponse = health_pb2_grpc.HealthStub(channel).Check(
        health_pb2.HealthCheckRequest(service=service)
    )
    return response


def test_one_call_more_than_admitted_is_refused_at_once_and_health_still_answers(gate: Gate) -> None:
    with serve(handler(GET_MODEL, gate), max_concurrent_rpcs=2) as channel, ThreadPoolExecutor() as callers:
        calls = [callers.submit(get, channel) for _ in range(2)]
        for _ in calls:
            assert gate.inside.acquire(timeout=10)
        with pytest.raises(errors.TooManyCalls, match="runs 2 calls already") as caught:
            get(channel)
        assert caught.value.retry_after_s is not None
        assert check(channel).status == SERVING
        gate.out.set()
        for call in calls:
            call.result(10)
        get(channel)


def test_a_health_watch_hears_every_change_and_ends_with_the_server() -> None:
    with serve(handler(GET_MODEL, lambda *_: models_pb2.Model())) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="later"))
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        channel.server.set_serving("later", serving=True)
        assert next(watch).status == SERVING
        assert channel.server.drain(5)
        assert [change.status for change in watch] == [NOT_SERVING]


def test_health_watchers_that_come_and_go_never_stop_the_server() -> None:
    """The servicer that comes with gRPC deadlocks here within a few rounds."""

    def come_and_go(channel: grpc.Channel) -> None:
        for _ in range(50):
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            with contextlib.suppress(errors.TooManyCalls):  # a cancelled one may not have left yet
                next(watch)
            watch.cancel()

    with serve() as channel, ThreadPoolExecutor() as callers:
        for watcher in [callers.submit(come_and_go, channel) for _ in range(4)]:
            watcher.result(20)
        assert check(channel).status == SERVING


def test_health_watchers_beyond_their_number_are_refused() -> None:
    with serve() as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(SPARE_THREADS // 2)]
        for watch in watches:
            assert next(watch).status == SERVING
        with pytest.raises(errors.TooManyCalls):
            next(stub.Watch(health_pb2.HealthCheckRequest()))
        assert check(channel).status == SERVING


def test_draining_finishes_what_runs_and_refuses_what_comes(gate: Gate) -> None:
    with serve(handler(GET_MODEL, gate)) as channel, ThreadPoolExecutor() as threads:
        running = threads.submit(get, channel)
        assert gate.inside.acquire(timeout=10)
        drained = threads.submit(channel.server.drain, 15)
        until(lambda: check(channel, "headrace.registry.v1.Models").status == NOT_SERVING)
        with pytest.raises(errors.ServerDraining) as caught:
            get_until_refused(channel)
        assert caught.value.retry_after_s is not None
        gate.out.set()
        assert running.result(10) == models_pb2.Model()
        assert drained.result(10) is True


def get_until_refused(channel: grpc.Channel) -> None:
    """The door closes right after health has said so; a call that slips through waits inside for its deadline."""
    try:
        models_pb2_grpc.ModelsStub(channel).GetModel(REQUEST, timeout=2)
    except errors.DeadlineExceeded:
        get(channel)


def test_draining_leaves_within_its_bound_although_a_handler_hangs(gate: Gate) -> None:
    with serve(handler(GET_MODEL, gate)) as channel, ThreadPoolExecutor() as threads:
        running = threads.submit(get, channel)
        assert gate.inside.acquire(timeout=10)
        started = time.monotonic()
        assert channel.server.drain(0.3) is False
        assert time.monotonic() - started < 20, "and not for as long as the handler hangs"
        with pytest.raises(errors.HeadraceError):
            running.result(10)
        gate.out.set()


def test_draining_ends_a_stream_that_listens_for_it() -> None:
    def watch(request: object, context: grpc.ServicerContext) -> Iterator[task_pb2.WatchTaskResponse]:
        over = threading.Event()
        current_call().on_end(over.set)
        yield task_pb2.WatchTaskResponse()
        assert over.wait(20)
        assert current_call().ended

    with serve(handler("headrace.training.v1.Workers/WatchTask", watch)) as channel:
        stream = workers_pb2_grpc.WorkersStub(channel).WatchTask(
            task_pb2.WatchTaskRequest(name="projects/default/tasks/t")
        )
        next(stream)
        assert channel.server.drain(15) is True
        assert list(stream) == []


def test_a_port_in_use_is_one_clear_error() -> None:
    with (
        serve() as channel,
        pytest.raises(
            AddressUnavailable, match=f"cannot listen on {channel.address}: Address already in use"
        ),
    ):
        Server(channel.address).start()


def test_health_knows_every_service_by_name() -> None:
    with serve(handler(GET_MODEL, lambda *_: models_pb2.Model())) as channel:
        assert check(channel).status == SERVING
        assert check(channel, "headrace.registry.v1.Models").status == SERVING
        channel.server.set_serving("headrace.registry.v1.Models", serving=False)
        assert check(channel, "headrace.registry.v1.Models").status == NOT_SERVING
        assert check(channel).status == SERVING
        with pytest.raises(errors.NotFound):
            check(channel, "no.Such")


def test_channelz_answers() -> None:
    """It is grpcio's own: of turbo's process it knows the channels to others, not the server."""
    with serve(turbo=False) as channel:
        answer = channelz_pb2_grpc.ChannelzStub(channel).GetServers(
            channelz_pb2.GetServersRequest(start_server_id=0)
        )
        assert len(answer.server) >= 1


def reflect(
    channel: grpc.Channel, *requests: reflection_pb2.ServerReflectionRequest
) -> list[reflection_pb2.ServerReflectionResponse]:
    return list(reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter(requests)))


def files_in(response: reflection_pb2.ServerReflectionResponse) -> set[str]:
    files = response.file_descriptor_response.file_descriptor_proto
    return {descriptor_pb2.FileDescriptorProto.FromString(file).name for file in files}


def test_reflection_lists_services_and_finds_their_types_and_options_and_error_details() -> None:
    symbol = reflection_pb2.ServerReflectionRequest
    with serve(handler(GET_MODEL, lambda *_: models_pb2.Model())) as channel:
        listed, models, details = reflect(
            channel,
            symbol(list_services=""),
            symbol(file_containing_symbol=GET_MODEL.replace("/", ".")),
            symbol(file_containing_symbol="google.rpc.ErrorInfo"),
        )
    assert {service.name for service in listed.list_services_response.service} == {
        "headrace.registry.v1.Models",
        "grpc.health.v1.Health",
        "grpc.channelz.v1.Channelz",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert {"headrace/registry/v1/models.proto", "headrace/types/v1/access.proto"} <= files_in(models)
    assert "google/rpc/error_details.proto" in files_in(details)


def test_reflection_looks_into_private_pools_too() -> None:
    pool = DescriptorPool()
    file = descriptor_pb2.FileDescriptorProto(name="private.proto", package="private", syntax="proto3")
    file.message_type.add(name="Thing")
    pool.Add(file)
    ask = reflection_pb2.ServerReflectionRequest
    with serve(pools=[pool]) as channel:
        by_symbol, by_name, extensions, unknown, options = reflect(
            channel,
            ask(file_containing_symbol="private.Thing"),
            ask(file_by_filename="private.proto"),
            ask(all_extension_numbers_of_type="private.Thing"),
            ask(file_containing_symbol="private.Nothing"),
            ask(all_extension_numbers_of_type="google.protobuf.MethodOptions"),
        )
    assert files_in(by_symbol) == files_in(by_name) == {"private.proto"}
    assert list(extensions.all_extension_numbers_response.extension_number) == []
    assert unknown.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    assert 50470 in options.all_extension_numbers_response.extension_number
