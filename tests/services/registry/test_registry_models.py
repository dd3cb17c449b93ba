"""What the rpcs of Models do, through a real server, over every database."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct

from headrace.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    RequestIdReused,
)
from headrace.registry.client import RegistryClient
from headrace.registry.v1 import models_pb2 as pb
from headrace.registry.v1.models_pb2_grpc import ModelsStub
from headrace.types.v1.program_pb2 import Archive, Program
from tests.services.registry.registry_server import EVERY_DATABASE

PROJECT = "projects/default"
DIGITS = f"{PROJECT}/models/digits"

pytestmark = EVERY_DATABASE


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
