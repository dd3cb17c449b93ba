"""Every rpc of Models through a real server, over every database."""

import base64
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct

from headrace.errors import (
    AlreadyExists,
    EtagMismatch,
    FailedPrecondition,
    HeadraceError,
    InvalidArgument,
    NonFiniteValues,
    NotFound,
    RequestIdReused,
)
from headrace.registry.client import RegistryClient
from headrace.registry.v1 import models_pb2 as pb
from headrace.registry.v1.models_pb2_grpc import ModelsStub
from headrace.testing.server import ServedChannel
from headrace.types.v1.program_pb2 import Archive, Program
from tests.services.registry.registry_server import serve_registry

PROJECT = "projects/default"
DIGITS = f"{PROJECT}/models/digits"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def channel(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServedChannel]:
    url = request.getfixturevalue("postgres").new_database() if request.param == "postgresql" else ""
    with serve_registry(tmp_path, url) as channel:
        yield channel


@pytest.fixture
def models(channel: ServedChannel) -> ModelsStub:
    return ModelsStub(channel)


@pytest.fixture
def onnx(client: RegistryClient) -> pb.Version:
    """A version that can be created."""
    artifact = client.upload_bytes("default", b"a model")
    file = pb.File(path="model.onnx", artifact=artifact, role=pb.FILE_ROLE_ONNX)
    return pb.Version(files=[file], serving_file="model.onnx")


def create_model(models: ModelsStub, model_id: str = "digits", **fields: Any) -> pb.Model:
    return models.CreateModel(pb.CreateModelRequest(parent=PROJECT, model_id=model_id, **fields))


def test_a_model_is_made_found_changed_and_deleted(models: ModelsStub) -> None:
    made = create_model(models, model=pb.Model(description="old"))
    changed = models.UpdateModel(
        pb.UpdateModelRequest(
            name=DIGITS,
            model=pb.Model(description="new", etag=made.etag),
            update_mask=FieldMask(paths=["description"]),
        )
    )

    assert (made.name, made.description, changed.description) == (DIGITS, "old", "new")
    assert made.create_time == changed.create_time
    assert models.GetModel(pb.GetModelRequest(name=DIGITS)) == changed

    models.DeleteModel(pb.DeleteModelRequest(name=DIGITS, etag=changed.etag))
    with pytest.raises(NotFound):
        models.GetModel(pb.GetModelRequest(name=DIGITS))


def test_a_version_reads_back_as_it_was_made(client: RegistryClient, onnx: pb.Version) -> None:
    config = Struct()
    config.update({"layers": 3, "name": "\0é", "deep": {"list": [1.5, None, True]}})
    onnx.program.CopyFrom(Program(module="package.module:Model", config=config))
    onnx.job = f"{PROJECT}/jobs/train-1"
    onnx.metrics["accuracy"] = 0.1 + 0.2
    onnx.labels["torch"] = "2.13.0"

    made = client.create_version(DIGITS, onnx)

    expected = pb.Version()
    expected.CopyFrom(onnx)
    expected.name, expected.files[0].size_bytes = f"{DIGITS}/versions/1", 7
    expected.create_time.CopyFrom(made.create_time)
    assert made == expected
    assert client.get_version(made.name) == expected


def test_lineage_leads_from_version_to_version_and_to_the_archive(
    client: RegistryClient, onnx: pb.Version
) -> None:
    archive = client.upload_bytes("default", b"sources")
    onnx.program.archive.CopyFrom(Archive(artifact=archive, object="model:Model"))
    first = client.create_version(DIGITS, onnx)
    onnx.source_version = first.name

    second = client.create_version(DIGITS, onnx)

    assert (second.source_version, second.program.archive.artifact) == (first.name, archive)


def test_versions_are_found_by_alias_and_deleted_when_none_points_to_them(
    client: RegistryClient, models: ModelsStub, onnx: pb.Version
) -> None:
    first, second = client.create_version(DIGITS, onnx), client.create_version(DIGITS, onnx)
    model = client.set_alias(DIGITS, "stable", first.name)

    assert client.get_version(f"{DIGITS}@stable") == first
    assert client.get_version(f"{DIGITS}@latest") == second
    assert client.get_model(DIGITS) == model
    assert model.aliases == {"stable": first.name}
    with pytest.raises(FailedPrecondition):
        models.DeleteVersion(pb.DeleteVersionRequest(name=first.name))

    client.set_alias(DIGITS, "stable", "")
    models.DeleteVersion(pb.DeleteVersionRequest(name=first.name))

    assert [version.name for version in client.list_versions(DIGITS)] == [second.name]
    with pytest.raises(NotFound):
        client.get_version(first.name)


def test_lists_come_in_pages_and_in_order(
    client: RegistryClient, models: ModelsStub, onnx: pb.Version
) -> None:
    for model_id in ("b-b", "a", "b_a", "b.a", "ba", "c"):
        create_model(models, model_id)
    for _ in range(5):
        client.create_version(DIGITS, onnx)

    names = [model.name.rpartition("/")[2] for model in client.list_models("default")]
    assert names == sorted(names) == ["a", "b-b", "b.a", "b_a", "ba", "c", "digits"]
    pages = list(_pages(models.ListModels, pb.ListModelsRequest(parent=PROJECT, page_size=3)))
    assert [len(page.models) for page in pages] == [3, 3, 1]
    assert [model.name.rpartition("/")[2] for page in pages for model in page.models] == names

    pages = list(_pages(models.ListVersions, pb.ListVersionsRequest(parent=DIGITS, page_size=2)))
    numbers = [version.name.rpartition("/")[2] for page in pages for version in page.versions]
    assert numbers == ["5", "4", "3", "2", "1"]


def _pages(call: Callable[[Any], Any], request: Any) -> Iterator[Any]:
    while True:
        yield (page := call(request))
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


@pytest.mark.parametrize("key", [[1], ["a", "b"], ["\0"], [1.5], [None], []])
def test_a_token_that_somebody_made_up_is_refused(models: ModelsStub, key: list[object]) -> None:
    for model_id in ("a", "b"):
        create_model(models, model_id)
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


def test_a_repeated_request_gets_the_first_answer(client: RegistryClient, onnx: pb.Version) -> None:
    first = client.create_version(DIGITS, onnx, request_id="once")

    assert client.create_version(DIGITS, onnx, request_id="once") == first
    assert len(list(client.list_versions(DIGITS))) == 1


def test_every_mutation_may_be_repeated(client: RegistryClient, models: ModelsStub, onnx: pb.Version) -> None:
    version = client.create_version(DIGITS, onnx).name
    other = f"{PROJECT}/models/other"
    steps: list[tuple[Any, Any]] = [
        (models.CreateModel, pb.CreateModelRequest(parent=PROJECT, model_id="other")),
        (models.UpdateModel, pb.UpdateModelRequest(name=other, model=pb.Model(description="x"))),
        (models.DeleteModel, pb.DeleteModelRequest(name=other)),
        (models.SetAlias, pb.SetAliasRequest(name=DIGITS, alias="stable", version=version)),
        (models.SetAlias, pb.SetAliasRequest(name=DIGITS, alias="stable")),
        (models.DeleteVersion, pb.DeleteVersionRequest(name=version)),
    ]
    for number, (call, request) in enumerate(steps):
        request.request_id = f"request-{number}"
        assert call(request) == call(request)


def test_a_request_id_with_another_body_is_refused(client: RegistryClient, onnx: pb.Version) -> None:
    client.create_version(DIGITS, onnx, request_id="once")
    onnx.labels["another"] = "body"

    with pytest.raises(RequestIdReused):
        client.create_version(DIGITS, onnx, request_id="once")


def test_a_request_that_failed_is_not_remembered(client: RegistryClient, onnx: pb.Version) -> None:
    with pytest.raises(NotFound):
        client.create_version(DIGITS, onnx, request_id="once", create_model=False)
    client.create_version(DIGITS, onnx)

    made = client.create_version(DIGITS, onnx, request_id="once", create_model=False)
    assert made.name == f"{DIGITS}/versions/2"


def test_a_failed_mutation_leaves_nothing_behind(client: RegistryClient, onnx: pb.Version) -> None:
    """Not even the model that `create_model` made on the way."""
    onnx.source_version = f"{DIGITS}/versions/9"
    with pytest.raises(NotFound):
        client.create_version(DIGITS, onnx)

    assert list(client.list_models("default")) == []


def test_versions_made_at_once_get_numbers_of_their_own(client: RegistryClient, onnx: pb.Version) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: client.create_version(DIGITS, onnx), range(16)))

    assert sorted(version.name for version in made) == sorted(f"{DIGITS}/versions/{n}" for n in range(1, 17))


def test_a_request_that_comes_twice_at_once_is_done_once(client: RegistryClient, onnx: pb.Version) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: client.create_version(DIGITS, onnx, request_id="once"), range(8)))

    assert {version.name for version in made} == {f"{DIGITS}/versions/1"}


def test_a_project_does_not_see_what_is_in_another(
    client: RegistryClient, models: ModelsStub, onnx: pb.Version
) -> None:
    client.create_version(DIGITS, onnx)
    other = DIGITS.replace("default", "other")

    assert list(client.list_models("other")) == []
    for call in (
        lambda: client.get_model(other),
        lambda: client.get_version(f"{other}/versions/1"),
        lambda: client.get_version(f"{other}@latest"),
        lambda: list(client.list_versions(other)),
        lambda: models.DeleteModel(pb.DeleteModelRequest(name=other)),
    ):
        with pytest.raises(NotFound):
            call()


def test_the_bytes_of_another_project_cannot_be_used(client: RegistryClient, onnx: pb.Version) -> None:
    """Whoever knows a digest does not have the bytes yet."""
    onnx.files[0].artifact = onnx.files[0].artifact.replace("default", "other")
    with pytest.raises(NotFound):
        client.create_version(DIGITS.replace("default", "other"), onnx)
    with pytest.raises(InvalidArgument):
        client.create_version(DIGITS, onnx)


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
    create_model(models)
    with pytest.raises(error) as refusal:
        getattr(models, method)(message)
    assert (type(refusal.value), refusal.value.field) == (error, field)


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
