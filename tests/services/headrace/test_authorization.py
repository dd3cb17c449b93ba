"""The one authorization point, through a real server."""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

import headrace
from headrace import errors
from headrace.registry.v1 import artifacts_pb2, artifacts_pb2_grpc, models_pb2, models_pb2_grpc
from headrace.rpc.authorization import Principal, Role, Rule, current_principal, undeclared_methods
from headrace.rpc.layers import Call
from headrace.rpc.server import Server
from headrace.scheduler.v1 import nodes_pb2, nodes_pb2_grpc
from headrace.testing import handler, serve

DIGEST = "0" * 64


def model(request: object, context: grpc.ServicerContext) -> models_pb2.Model:
    return models_pb2.Model(description=current_principal().name)


def upload(
    requests: Iterator[artifacts_pb2.UploadRequest], context: grpc.ServicerContext
) -> artifacts_pb2.Artifact:
    return artifacts_pb2.Artifact(size_bytes=len(list(requests)))


def attach(requests: Iterator[object], context: grpc.ServicerContext) -> Iterator[nodes_pb2.AttachResponse]:
    yield nodes_pb2.AttachResponse()


HANDLERS = (
    handler("headrace.registry.v1.Models/GetModel", model),
    handler("headrace.registry.v1.Models/DeleteModel", lambda *_: errors),
    handler("headrace.registry.v1.Artifacts/Upload", upload),
    handler("headrace.scheduler.v1.Nodes/Attach", attach),
)


def by_metadata(call: Call) -> Principal:
    """Believe what the caller says of itself; a real one will check a key."""
    if not call.metadata("role"):
        raise errors.Unauthenticated("say who you are")
    return Principal("tester", "own", frozenset({Role[call.metadata("role")]}))


def get(channel: grpc.Channel, role: str, project: str = "own") -> models_pb2.Model:
    request = models_pb2.GetModelRequest(name=f"projects/{project}/models/m")
    return models_pb2_grpc.ModelsStub(channel).GetModel(request, metadata=(("role", role),))


def test_a_role_counts_in_its_own_project_only() -> None:
    with serve(*HANDLERS, authenticate=by_metadata) as channel:
        assert get(channel, "VIEWER").description == "tester"
        with pytest.raises(errors.PermissionDenied, match="tester has no role in projects/other"):
            get(channel, "ADMIN", project="other")


@pytest.mark.parametrize(
    ("role", "may"), [(Role.VIEWER, {"get"}), (Role.EDITOR, {"get", "upload"}), (Role.NODE, {"attach"})]
)
def test_a_role_includes_the_lesser_ones_but_node_stands_alone(role: Role, may: set[str]) -> None:
    metadata = (("role", role.name),)
    with serve(*HANDLERS, authenticate=by_metadata) as channel:
        calls: dict[str, Any] = {
            "get": lambda: get(channel, role.name),
            "upload": lambda: artifacts_pb2_grpc.ArtifactsStub(channel).Upload(
                iter([artifacts_pb2.UploadRequest(name=f"projects/own/artifacts/{DIGEST}")]),
                metadata=metadata,
            ),
            "attach": lambda: list(
                nodes_pb2_grpc.NodesStub(channel).Attach(iter([nodes_pb2.AttachRequest()]), metadata=metadata)
            ),
        }
        for name, call in calls.items():
            if name in may:
                call()
            else:
                with pytest.raises(
                    errors.PermissionDenied, match=f"lacks the role .* {role.name}|lacks the role"
                ):
                    call()


def test_a_stranger_is_unauthenticated() -> None:
    with serve(*HANDLERS, authenticate=by_metadata) as channel, pytest.raises(errors.Unauthenticated):
        get(channel, "")


def test_a_streams_project_is_read_off_its_first_message_which_the_handler_still_gets() -> None:
    def requests(project: str) -> Iterator[artifacts_pb2.UploadRequest]:
        yield artifacts_pb2.UploadRequest(name=f"projects/{project}/artifacts/{DIGEST}")
        yield artifacts_pb2.UploadRequest(data=b"more")

    with serve(*HANDLERS, authenticate=by_metadata) as channel:
        stub = artifacts_pb2_grpc.ArtifactsStub(channel)
        assert stub.Upload(requests("own"), metadata=(("role", "EDITOR"),)).size_bytes == 2
        with pytest.raises(errors.PermissionDenied):
            stub.Upload(requests("other"), metadata=(("role", "EDITOR"),))
        assert stub.Upload(iter([]), metadata=(("role", "EDITOR"),)).size_bytes == 0


def test_the_local_user_may_do_everything_in_every_project() -> None:
    with serve(*HANDLERS) as channel:
        assert get(channel, "", project="any").description == "local"
        list(nodes_pb2_grpc.NodesStub(channel).Attach(iter([nodes_pb2.AttachRequest()])))


def test_a_name_without_a_project_is_refused_with_the_field() -> None:
    with serve(*HANDLERS, authenticate=by_metadata) as channel:
        with pytest.raises(errors.InvalidArgument, match="projects/default") as caught:
            models_pb2_grpc.ModelsStub(channel).GetModel(
                models_pb2.GetModelRequest(name="digits"), metadata=(("role", "ADMIN"),)
            )
        assert caught.value.field == "name"


def test_whoever_may_enter_every_project_hears_of_a_name_from_the_handler_that_wants_it() -> None:
    """It says the whole form, `projects/{project}/models/{model}`; this layer knows no more than its beginning."""
    with serve(*HANDLERS) as channel:
        models_pb2_grpc.ModelsStub(channel).GetModel(models_pb2.GetModelRequest(name="digits"))


def raw(method: str) -> Any:
    service, _, name = method.partition("/")
    rpc: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(lambda request, _: request)

    def register(server: Server) -> None:
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {name: rpc})])

    return register


def call_raw(channel: grpc.Channel, method: str) -> bytes:
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{method}")
    return call(b"echo")


def test_an_rpc_without_a_rule_is_refused_to_everyone() -> None:
    with (
        serve(raw("foreign.Service/Do")) as channel,
        pytest.raises(errors.PermissionDenied, match="declares no access"),
    ):
        call_raw(channel, "foreign.Service/Do")


def test_a_table_gives_rules_to_foreign_protos() -> None:
    with serve(raw("foreign.Service/Do"), rules={"/foreign.Service/Do": Rule(Role.VIEWER)}) as channel:
        assert call_raw(channel, "foreign.Service/Do") == b"echo"


def test_undeclared_methods_are_found() -> None:
    pool = DescriptorPool()
    file = FileDescriptorProto(name="bare.proto", package="bare", syntax="proto3")
    file.message_type.add(name="Empty")
    file.service.add(name="Bare").method.add(name="Do", input_type=".bare.Empty", output_type=".bare.Empty")
    pool.Add(file)
    assert undeclared_methods([pool.FindServiceByName("bare.Bare")]) == ["bare.Bare.Do"]


def test_every_rpc_of_ours_declares_who_may_call_it() -> None:
    stubs = [
        name for _, name, _ in pkgutil.walk_packages(headrace.__path__, "headrace.") if name.endswith("_pb2")
    ]
    files = [importlib.import_module(name).DESCRIPTOR for name in stubs]
    services = [service for file in files for service in file.services_by_name.values()]
    ours = [service for service in services if service.full_name.startswith("headrace.")]
    assert len(ours) >= 10
    assert undeclared_methods(ours) == []
