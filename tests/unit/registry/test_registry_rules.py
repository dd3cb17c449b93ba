"""What a version may say of itself."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import InvalidArgument, NonFiniteValues
from headrace.names import ArtifactName, JobName, VersionName
from headrace_registry.core.resources import Draft, File, FileRole, Program
from headrace_registry.core.rules import check_alias, check_description, check_draft

DIGEST = "a" * 64


def file(path: str = "model.onnx", role: FileRole = FileRole.ONNX, project: str = "default") -> File:
    return File(path, ArtifactName(project, DIGEST), role)


@given(st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", fullmatch=True))
def test_a_file_name_is_a_path(path: str) -> None:
    check_draft(Draft([file(path)]), "default")


@pytest.mark.parametrize("path", ["", ".", "..", "...", "a/b", "/a", "a\\b", "a b", "a\n", "é", "a" * 101])
def test_what_could_lead_elsewhere_is_no_path(path: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        check_draft(Draft([file(path)]), "default")
    assert refusal.value.field == "version.files[0].path"


@pytest.mark.parametrize("files", [[], [file(f"{i}.onnx") for i in range(65)], [file(), file()]])
def test_a_version_has_some_files_with_paths_of_their_own(files: Sequence[File]) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        check_draft(Draft(files), "default")
    assert refusal.value.field == "version.files"


@pytest.mark.parametrize("serving_file", ["weights", "other.onnx"])
def test_what_is_served_is_one_of_the_files_that_can_be(serving_file: str) -> None:
    files = [file("model.onnx"), file("weights", FileRole.WEIGHTS)]
    check_draft(Draft(files, serving_file="model.onnx"), "default")

    with pytest.raises(InvalidArgument, match=r"model\.onnx"):
        check_draft(Draft(files, serving_file=serving_file), "default")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_metric_is_finite(value: float) -> None:
    with pytest.raises(NonFiniteValues, match="accuracy"):
        check_draft(Draft([file()], metrics={"accuracy": value}), "default")


@pytest.mark.parametrize("name", ["", "x" * 257])
def test_a_metric_has_a_name_of_sensible_length(name: str) -> None:
    with pytest.raises(InvalidArgument):
        check_draft(Draft([file()], metrics={name: 0.5}), "default")


@pytest.mark.parametrize(
    "labels", [{str(i): "" for i in range(65)}, {"": "x"}, {"k" * 257: "x"}, {"k": "x" * 257}]
)
def test_labels_are_bounded(labels: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        check_draft(Draft([file()], labels=labels), "default")
    assert refusal.value.field == "version.labels"


@pytest.mark.parametrize(
    ("draft", "field"),
    [
        (Draft([file(project="other")]), "version.files[0].artifact"),
        (Draft([file()], source_version=VersionName("other", "m", 1)), "version.source_version"),
        (Draft([file()], job=JobName("other", "j")), "version.job"),
        (
            Draft([file()], program=Program("{}", ArtifactName("other", DIGEST))),
            "version.program.archive.artifact",
        ),
    ],
)
def test_nothing_points_into_another_project(draft: Draft, field: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        check_draft(draft, "default")
    assert refusal.value.field == field


@pytest.mark.parametrize("alias", ["latest", "", "Stable", "a/b", "@", "7", "007"])
def test_some_words_are_no_alias(alias: str) -> None:
    with pytest.raises(InvalidArgument):
        check_alias(alias)


def test_texts_are_bounded_and_hold_no_nul() -> None:
    check_description("é" * 4096)
    for check, text in (
        (check_description, "x" * 4097),
        (check_description, "a\0b"),
    ):
        with pytest.raises(InvalidArgument):
            check(text)
