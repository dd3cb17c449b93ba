"""Models, versions and aliases: the rules over what is there."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from headrace.errors import AlreadyExists, EtagMismatch, FailedPrecondition, InvalidArgument, NotFound
from headrace.names import ArtifactName, JobName, ModelName
from headrace_registry.core import models, versions
from headrace_registry.core.resources import Artifact, Draft, File, FileRole, Program, Version
from headrace_registry.repository import SqlRepository

DIGITS = ModelName("default", "digits")
ARTIFACT = ArtifactName("default", "a" * 64)
DRAFT = Draft([File("model.onnx", ARTIFACT, FileRole.ONNX)])


def create(repository: SqlRepository, now: datetime, draft: Draft = DRAFT) -> Version:
    repository.add_artifact(Artifact(ARTIFACT, 7, now))
    return versions.create_version(repository, DIGITS, draft, now, create_model=True)


def test_versions_count_from_one(repository: SqlRepository, now: datetime) -> None:
    assert [create(repository, now).name.number for _ in range(3)] == [1, 2, 3]


def test_a_version_reads_back_as_it_was_made(repository: SqlRepository, now: datetime) -> None:
    source = create(repository, now).name
    draft = Draft(
        files=[File(f"{role.name}.bin", ARTIFACT, role) for role in FileRole],
        serving_file="ONNX.bin",
        program=Program('{"archive": {}}', ARTIFACT),
        source_version=source,
        job=JobName("default", "optimize-1"),
        metrics={"accuracy": 0.1 + 0.2, "tiny": 5e-324, "large": 1.7e308},
        labels={"é": "\0🎉", "empty": ""},
    )

    made = create(repository, now, draft)

    assert versions.get_version(repository, made.name) == made
    assert made.draft == replace(draft, files=[replace(file, size_bytes=7) for file in draft.files])
    assert made.create_time == now


@pytest.mark.parametrize(
    ("draft", "field"),
    [
        (Draft([File("m", ArtifactName("default", "b" * 64), FileRole.ONNX)]), "version.files[0].artifact"),
        (replace(DRAFT, source_version=DIGITS.version(9)), "version.source_version"),
        (
            replace(DRAFT, program=Program("{}", ArtifactName("default", "b" * 64))),
            "version.program.archive.artifact",
        ),
    ],
)
def test_what_a_version_is_made_of_must_exist(
    repository: SqlRepository, now: datetime, draft: Draft, field: str
) -> None:
    with pytest.raises(NotFound) as refusal:
        create(repository, now, draft)
    assert refusal.value.field == field


def test_a_version_of_an_unknown_model_is_refused_unless_it_may_be_made(
    repository: SqlRepository, now: datetime
) -> None:
    repository.add_artifact(Artifact(ARTIFACT, 7, now))
    with pytest.raises(NotFound):
        versions.create_version(repository, DIGITS, DRAFT, now)


def test_a_number_is_never_given_again(repository: SqlRepository, now: datetime) -> None:
    """Not even after the model itself was deleted: a name always means the same bytes."""
    versions.delete_version(repository, create(repository, now).name)
    assert create(repository, now).name.number == 2

    versions.delete_version(repository, DIGITS.version(2))
    models.delete_model(repository, DIGITS, etag="")
    assert create(repository, now).name.number == 3


def test_latest_is_the_highest_number(repository: SqlRepository, now: datetime) -> None:
    create(repository, now)
    second = create(repository, now)

    assert versions.get_version(repository, DIGITS.alias("latest")) == second


def test_an_alias_leads_to_its_version(repository: SqlRepository, now: datetime) -> None:
    first = create(repository, now)
    create(repository, now)
    models.set_alias(repository, DIGITS, "stable", first.name, "", now)

    assert versions.get_version(repository, DIGITS.alias("stable")) == first
    assert models.get_model(repository, DIGITS).aliases == {"stable": 1}


def test_an_alias_moves_and_goes(repository: SqlRepository, now: datetime) -> None:
    for _ in range(2):
        create(repository, now)
    models.set_alias(repository, DIGITS, "stable", DIGITS.version(1), "", now)

    assert models.set_alias(repository, DIGITS, "stable", DIGITS.version(2), "", now).aliases == {"stable": 2}
    assert models.set_alias(repository, DIGITS, "stable", None, "", now).aliases == {}


def test_an_alias_needs_a_version_of_its_own_model(repository: SqlRepository, now: datetime) -> None:
    create(repository, now)
    with pytest.raises(NotFound):
        models.set_alias(repository, DIGITS, "stable", DIGITS.version(9), "", now)
    with pytest.raises(InvalidArgument):
        models.set_alias(repository, DIGITS, "stable", ModelName("default", "other").version(1), "", now)


def test_a_version_with_an_alias_stays(repository: SqlRepository, now: datetime) -> None:
    version = create(repository, now).name
    models.set_alias(repository, DIGITS, "stable", version, "", now)

    with pytest.raises(FailedPrecondition, match="stable"):
        versions.delete_version(repository, version)

    models.set_alias(repository, DIGITS, "stable", None, "", now)
    versions.delete_version(repository, version)


def test_an_etag_changes_with_every_change(repository: SqlRepository, now: datetime) -> None:
    made = models.create_model(repository, DIGITS, "", now)
    described = models.update_model(repository, DIGITS, "Handwritten digits.", made.etag, now)
    version = create(repository, now).name
    aliased = models.set_alias(repository, DIGITS, "stable", version, described.etag, now)

    assert len({made.etag, described.etag, aliased.etag}) == 3
    assert models.get_model(repository, DIGITS) == aliased


def test_setting_an_alias_again_changes_nothing(repository: SqlRepository, now: datetime) -> None:
    version = create(repository, now).name
    first = models.set_alias(repository, DIGITS, "stable", version, "", now)

    assert models.set_alias(repository, DIGITS, "stable", version, "", now + timedelta(1)) == first


def test_a_stale_etag_is_refused(repository: SqlRepository, now: datetime) -> None:
    stale = models.create_model(repository, DIGITS, "", now).etag
    version = create(repository, now).name
    models.update_model(repository, DIGITS, "changed", "", now)

    with pytest.raises(EtagMismatch):
        models.update_model(repository, DIGITS, "mine", stale, now)
    with pytest.raises(EtagMismatch):
        models.set_alias(repository, DIGITS, "stable", version, stale, now)
    with pytest.raises(EtagMismatch):
        models.delete_model(repository, DIGITS, stale)


def test_a_model_made_anew_has_another_etag(repository: SqlRepository, now: datetime) -> None:
    before = models.create_model(repository, DIGITS, "", now).etag
    models.delete_model(repository, DIGITS, before)

    assert models.create_model(repository, DIGITS, "", now + timedelta(seconds=1)).etag != before


def test_a_name_is_taken_once_in_a_project(repository: SqlRepository, now: datetime) -> None:
    models.create_model(repository, DIGITS, "", now)
    models.create_model(repository, ModelName("other", "digits"), "", now)

    with pytest.raises(AlreadyExists):
        models.create_model(repository, DIGITS, "", now)


def test_a_model_with_versions_stays(repository: SqlRepository, now: datetime) -> None:
    create(repository, now)

    with pytest.raises(FailedPrecondition, match="versions/1"):
        models.delete_model(repository, DIGITS, etag="")
