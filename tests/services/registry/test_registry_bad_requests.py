"""What the rpcs of Models refuse, through a real server, over every database."""

import base64
import json
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from headrace.errors import (
    AlreadyExists,
    EtagMismatch,
    HeadraceError,
    InvalidArgument,
    NonFiniteValues,
    NotFound,
)
from headrace.registry.client import RegistryClient
from headrace.registry.v1 import models_pb2 as pb
from headrace.registry.v1.models_pb2_grpc import ModelsStub
from headrace.types.v1.program_pb2 import Archive, Program
from tests.services.registry.registry_server import EVERY_DATABASE

PROJECT = "projects/default"
DIGITS = f"{PROJECT}/models/digits"

pytestmark = EVERY_DATABASE


@pytest.mark.parametrize("key", [[1], ["a", "b"], ["\0"], [1.5], [None], []])
def test_a_token_that_somebody_made_up_is_refused(models: ModelsStub, key: list[object]) -> None:
    for model_id in ("a", "b"):
        models.CreateModel(pb.CreateModelRequest(parent=PROJECT, model_id=model_id))
    token = models.ListModels(pb.ListModelsRequest(parent=PROJECT, page_size=1)).next_page_token
    digest = json.loads(base64.urlsafe_b64decode(token))[0]
    forged = base64.urlsafe_b64encode(json.dumps([digest, *key]).encode()).decode()

    with pytest.raises(InvalidArgument) as refusal:
        models.ListModels(pb.ListModelsRequest(parent=PROJECT, page_token=forged))
    assert refusal.value.field == "page_token"


@pytest.mark.parametrize("key", ["a", -1, 10**30])
def test_a_number_that_somebody_made_up_is_refused(
    client: RegistryClient, models: ModelsStub, onnx: pb.Version, key: object
) -> None:
    for _ in range(2):
        client.create_version(DIGITS, onnx)
    token = models.ListVersions(pb.ListVersionsRequest(parent=DIGITS, page_size=1)).next_page_token
    digest = json.loads(base64.urlsafe_b64decode(token))[0]
    forged = base64.urlsafe_b64encode(json.dumps([digest, key]).encode()).decode()

    with pytest.raises(InvalidArgument):
        models.ListVersions(pb.ListVersionsRequest(parent=DIGITS, page_token=forged))


@pytest.mark.parametrize(
    ("error", "field", "method", "message"),
    [
        (AlreadyExists, None, "CreateModel", pb.CreateModelRequest(parent=PROJECT, model_id="digits")),
        (
            InvalidArgument,
            "model_id",
            "CreateModel",
            pb.CreateModelRequest(parent=PROJECT, model_id="../etc"),
        ),
        (InvalidArgument, "parent", "CreateModel", pb.CreateModelRequest(parent="x", model_id="a")),
        (
            InvalidArgument,
            "model.etag",
            "CreateModel",
            pb.CreateModelRequest(parent=PROJECT, model_id="a", model=pb.Model(etag="x")),
        ),
        (
            InvalidArgument,
            "model.description",
            "UpdateModel",
            pb.UpdateModelRequest(name=DIGITS, model=pb.Model(description="\0")),
        ),
        (
            InvalidArgument,
            "update_mask",
            "UpdateModel",
            pb.UpdateModelRequest(name=DIGITS, update_mask=FieldMask(paths=["name"])),
        ),
        (
            EtagMismatch,
            None,
            "UpdateModel",
            pb.UpdateModelRequest(name=DIGITS, model=pb.Model(etag="stale")),
        ),
        (
            InvalidArgument,
            "request_id",
            "DeleteModel",
            pb.DeleteModelRequest(name=DIGITS, request_id="x" * 129),
        ),
        (InvalidArgument, "alias", "SetAlias", pb.SetAliasRequest(name=DIGITS, alias="latest")),
        (
            NotFound,
            "version",
            "SetAlias",
            pb.SetAliasRequest(name=DIGITS, alias="a", version=f"{DIGITS}/versions/1"),
        ),
        (InvalidArgument, "name", "GetVersion", pb.GetVersionRequest(name=DIGITS)),
        (NotFound, None, "GetVersion", pb.GetVersionRequest(name=f"{DIGITS}@stable")),
        (NotFound, None, "GetVersion", pb.GetVersionRequest(name=f"{DIGITS}@latest")),
        (NotFound, None, "DeleteVersion", pb.DeleteVersionRequest(name=f"{DIGITS}/versions/1")),
        (
            NotFound,
            None,
            "DeleteVersion",
            pb.DeleteVersionRequest(name=f"{DIGITS}/versions/{10**18 - 1}"),
        ),
        (
            InvalidArgument,
            "page_size",
            "ListModels",
            pb.ListModelsRequest(parent=PROJECT, page_size=-1),
        ),
        (
            InvalidArgument,
            "page_token",
            "ListModels",
            pb.ListModelsRequest(parent=PROJECT, page_token="x"),
        ),
    ],
)
def test_a_bad_request_gets_its_error(
    models: ModelsStub, error: type[HeadraceError], field: str | None, method: str, message: Any
) -> None:
    models.CreateModel(pb.CreateModelRequest(parent=PROJECT, model_id="digits"))
    with pytest.raises(error) as refusal:
        getattr(models, method)(message)
    assert (type(refusal.value), refusal.value.field) == (error, field)


@pytest.mark.parametrize("name", ["", "digits", "projects/default"])
def test_a_short_name_is_refused_with_the_whole_form_of_the_one_that_is_wanted(
    models: ModelsStub, name: str
) -> None:
    with pytest.raises(
        InvalidArgument, match=r"not of the form projects/\{project\}/models/\{model\}, such as"
    ):
        models.GetModel(pb.GetModelRequest(name=name))


@pytest.mark.parametrize(
    ("error", "field", "change"),
    [
        (InvalidArgument, "version.files", pb.Version()),
        (
            InvalidArgument,
            "version.files[0].role",
            pb.Version(files=[pb.File(artifact=f"{PROJECT}/artifacts/{'a' * 64}")]),
        ),
        (
            InvalidArgument,
            "version.files[0].artifact",
            pb.Version(files=[pb.File(artifact="../../etc/passwd")]),
        ),
        (InvalidArgument, "version.program", pb.Version(program=Program())),
        (InvalidArgument, "version.program.archive.artifact", pb.Version(program=Program(archive=Archive()))),
        (InvalidArgument, "version.job", pb.Version(job="job")),
        (InvalidArgument, "version.source_version", pb.Version(source_version=DIGITS)),
    ],
)
def test_a_bad_version_gets_its_error(
    client: RegistryClient, error: type[HeadraceError], field: str, change: pb.Version
) -> None:
    with pytest.raises(error) as refusal:
        client.create_version(DIGITS, change)
    assert refusal.value.field == field


def test_numbers_that_are_none_are_refused(client: RegistryClient, onnx: pb.Version) -> None:
    onnx.program.module = "a:b"
    onnx.program.config["rate"] = float("inf")
    with pytest.raises(InvalidArgument, match="JSON"):
        client.create_version(DIGITS, onnx)

    onnx.ClearField("program")
    onnx.metrics["accuracy"] = float("nan")
    with pytest.raises(NonFiniteValues):
        client.create_version(DIGITS, onnx)
