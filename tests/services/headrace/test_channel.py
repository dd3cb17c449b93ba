"""What a channel adds to every call: deadline, retries, errors that say what to check."""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterable, Callable, Iterator

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty

from headrace import errors
from headrace.registry.v1 import models_pb2, models_pb2_grpc
from headrace.rpc.authorization import Role, Rule, current_principal
from headrace.rpc.channel import open_aio_channel, open_channel
from headrace.rpc.layers import current_call
from headrace.rpc.server import Server
from headrace.testing import free_port, handler, serve
from headrace.training.v1 import workers_pb2_grpc
from headrace.types.v1 import task_pb2

MODEL = "projects/default/models/digits"
TASK = "projects/default/tasks/t"


def models(get: Callable[[grpc.ServicerContext], models_pb2.Model]) -> Callable[[Server], object]:
    return handler("headrace.registry.v1.Models/GetModel", lambda _, context: get(context))


def get_model(channel: grpc.Channel, timeout: float | None = None) -> models_pb2.Model:
    return models_pb2_grpc.ModelsStub(channel).GetModel(
        models_pb2.GetModelRequest(name=MODEL), timeout=timeout
    )


def remaining(context: grpc.ServicerContext) -> models_pb2.Model:
    return models_pb2.Model(description=str(context.time_remaining()))


def test_a_unary_call_without_a_deadline_gets_the_channels() -> None:
    with serve(models(remaining), timeout_s=20) as channel:
        assert 15 < float(get_model(channel).description) < 20.5
        assert 5 < float(get_model(channel, timeout=9).description) < 9.5


def test_a_call_past_its_deadline_says_how_long_it_waited() -> None:
    answer = threading.Event()

    def hang(_: grpc.ServicerContext) -> models_pb2.Model:
        answer.wait(10)
        return models_pb2.Model()

    with serve(models(hang), timeout_s=0.2) as channel:
        with pytest.raises(
            errors.DeadlineExceeded, match=r"GetModel at 127.0.0.1:\d+ did not answer within 0.2 s"
        ):
            get_model(channel)
        answer.set()


def test_a_call_its_own_caller_cancels_ends_with_an_error_of_ours() -> None:
    """Grpc raises FutureCancelledError there, which is no RpcError."""
    answer = threading.Event()

    def hang(_: grpc.ServicerContext) -> models_pb2.Model:
        answer.wait(10)
        return models_pb2.Model()

    with serve(models(hang), timeout_s=20) as channel:
        request = models_pb2.GetModelRequest(name=MODEL)
        call = models_pb2_grpc.ModelsStub(channel).GetModel.future(request)
        call.cancel()
        with pytest.raises(errors.Cancelled, match="GetModel was cancelled"):
            call.result()
        assert isinstance(call.exception(), errors.Cancelled)
        answer.set()


def test_an_unreachable_service_is_named_with_what_to_check() -> None:
    address = f"127.0.0.1:{free_port()}"
    with (
        open_channel(address) as channel,
        pytest.raises(errors.Unavailable, match=f"cannot reach {address} .*; check"),
    ):
        get_model(channel, timeout=5)


def unavailable_twice() -> tuple[Callable[[grpc.ServicerContext], models_pb2.Model], "itertools.count[int]"]:
    calls = itertools.count(1)

    def get(_: grpc.ServicerContext) -> models_pb2.Model:
        if next(calls) <= 2:
            raise errors.Unavailable("starting")
        return models_pb2.Model(name=MODEL)

    return get, calls


def test_an_rpc_that_declares_idempotency_is_repeated_while_unavailable() -> None:
    get, calls = unavailable_twice()
    with serve(models(get)) as channel:
        assert get_model(channel).name == MODEL
    assert next(calls) == 4


def test_an_rpc_that_declares_none_is_not_repeated() -> None:
    calls = itertools.count(1)

    def mutate(request: bytes, context: grpc.ServicerContext) -> bytes:
        next(calls)
        raise errors.Unavailable("starting")

    mutating: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "Mutate": grpc.unary_unary_rpc_method_handler(mutate)
    }

    def register(server: Server) -> None:
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("probe.Probe", mutating)])

    with serve(register, rules={"/probe.Probe/Mutate": Rule(Role.EDITOR)}) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/probe.Probe/Mutate")
        with pytest.raises(errors.Unavailable, match="starting"):
            call(b"")
    assert next(calls) == 2


def test_other_errors_are_not_repeated() -> None:
    calls = itertools.count(1)

    def get(_: grpc.ServicerContext) -> models_pb2.Model:
        next(calls)
        raise errors.ResourceExhausted("no room")

    with serve(models(get)) as channel, pytest.raises(errors.ResourceExhausted):
        get_model(channel)
    assert next(calls) == 2


def test_a_service_that_comes_back_is_found_again() -> None:
    address = f"127.0.0.1:{free_port()}"
    with open_channel(address) as channel:
        with pytest.raises(errors.Unavailable):
            get_model(channel, timeout=5)
        server = serve_models(address)
        models_pb2_grpc.ModelsStub(channel).GetModel(
            models_pb2.GetModelRequest(name=MODEL), wait_for_ready=True
        )
        server.stop(0).wait()


def test_a_patient_channel_waits_out_a_restart_of_a_server_that_has_answered() -> None:
    address = f"127.0.0.1:{free_port()}"
    with open_channel(address) as hasty, open_channel(address, patient=True) as patient:
        with pytest.raises(errors.Unavailable):  # nobody has answered yet: a wrong address is told at once
            get_model(patient, timeout=20)
        first = serve_models(address)
        get_model(patient, timeout=20)
        first.stop(0).wait()
        request = models_pb2.GetModelRequest(name=MODEL)
        waiting = models_pb2_grpc.ModelsStub(patient).GetModel.future(request, timeout=20)
        with pytest.raises(errors.Unavailable):
            get_model(hasty, timeout=20)
        assert not waiting.done()
        second = serve_models(address)
        waiting.result()
        second.stop(0).wait()


def serve_models(address: str) -> Server:
    server = Server(address)
    models(remaining)(server)
    server.start()
    return server


def test_messages_beyond_the_cap_are_refused_on_both_sides() -> None:
    large = models_pb2.Model(description="x" * (3 << 20))
    creating = handler("headrace.registry.v1.Models/CreateModel", lambda request, _: request.model)
    with serve(models(lambda _: large), creating, max_message_bytes=2 << 20) as channel:
        stub = models_pb2_grpc.ModelsStub(channel)
        with pytest.raises(errors.ResourceExhausted, match="larger than max"):
            stub.CreateModel(models_pb2.CreateModelRequest(parent="projects/default", model=large))
        with pytest.raises(errors.ResourceExhausted, match="larger than max"):
            get_model(channel)


def test_the_project_of_the_channel_reaches_the_server() -> None:
    def who(_: grpc.ServicerContext) -> models_pb2.Model:
        return models_pb2.Model(description=current_principal().project)

    with serve(models(who), project="team-a") as channel:
        assert get_model(channel).description == "team-a"


def test_calls_a_handler_makes_carry_its_request_id() -> None:
    def own_id(context: grpc.ServicerContext) -> models_pb2.Model:
        return models_pb2.Model(description=current_call().metadata("headrace-request-id"))

    with serve(models(own_id)) as inner, serve(models(lambda _: get_model(inner))) as outer:
        assert get_model(outer).description != ""


def watch(request: object, context: grpc.ServicerContext) -> Iterator[task_pb2.WatchTaskResponse]:
    for revision in (1, 2):
        yield task_pb2.WatchTaskResponse(task=task_pb2.Task(revision=revision))
    raise errors.NodeLost("gone")


def delete(request: object, context: grpc.ServicerContext) -> Empty:
    raise errors.EtagMismatch("changed")


async def collect(watching: AsyncIterable[task_pb2.WatchTaskResponse], revisions: list[int]) -> None:
    async for message in watching:
        revisions.append(message.task.revision)  # noqa: PERF401 - what came before the error counts


def test_the_asyncio_channel_behaves_the_same() -> None:
    get, calls = unavailable_twice()

    async def talk(address: str) -> list[int]:
        async with open_aio_channel(address, timeout_s=5) as channel:
            stub = models_pb2_grpc.ModelsStub(channel)
            assert (await stub.GetModel(models_pb2.GetModelRequest(name=MODEL))).name == MODEL
            with pytest.raises(errors.EtagMismatch):
                await stub.DeleteModel(models_pb2.DeleteModelRequest(name=MODEL))
            revisions: list[int] = []
            watching = workers_pb2_grpc.WorkersStub(channel).WatchTask(task_pb2.WatchTaskRequest(name=TASK))
            with pytest.raises(errors.NodeLost):
                await collect(watching, revisions)
            return revisions

    watching = handler("headrace.training.v1.Workers/WatchTask", watch)
    deleting = handler("headrace.registry.v1.Models/DeleteModel", delete)
    with serve(models(get), watching, deleting) as channel:
        assert asyncio.run(talk(channel.address)) == [1, 2]
    assert next(calls) == 4


def test_the_asyncio_channel_has_a_default_deadline() -> None:
    async def ask(address: str) -> str:
        async with open_aio_channel(address, timeout_s=20) as channel:
            stub = models_pb2_grpc.ModelsStub(channel)
            return (await stub.GetModel(models_pb2.GetModelRequest(name=MODEL))).description

    with serve(models(remaining)) as channel:
        assert 15 < float(asyncio.run(ask(channel.address))) < 20.5
