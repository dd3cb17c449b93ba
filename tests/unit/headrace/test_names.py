import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace import names
from headrace.errors import InvalidArgument

KINDS: list[type[names.Name]] = [
    names.ProjectName,
    names.ModelName,
    names.VersionName,
    names.AliasName,
    names.ArtifactName,
    names.StoreName,
    names.JobName,
    names.TaskName,
    names.DeploymentName,
    names.PoolName,
    names.NodeName,
]
ids = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?", fullmatch=True)


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_of_every_kind_is_a_name_of_that_kind_alone(kind: type[names.Name]) -> None:
    assert str(kind.parse(kind.example)) == kind.example
    for other in KINDS:
        if other is not kind:
            with pytest.raises(InvalidArgument):
                other.parse(kind.example)


@given(ids, ids, st.integers(1, 10**18 - 1))
def test_names_read_back_as_they_were_written(project: str, model: str, number: int) -> None:
    name = names.ModelName(project, model)
    assert names.ModelName.parse(str(name)) == name
    for child in (name.version(number), name.alias(project)):
        assert names.parse_model_reference(str(child)) == child
        assert child.parent == name
        assert names.project_of(str(child)) == project


@given(st.text(max_size=80).filter(lambda text: not text.startswith("projects/")))
def test_any_other_text_is_one_clear_error(text: str) -> None:
    with pytest.raises(InvalidArgument, match=f"such as {names.JobName.example}") as caught:
        names.JobName.parse(text, field="job")
    assert caught.value.field == "job"


@pytest.mark.parametrize("bad", ["", "a/b", "../x", "A", "-a", "a-", "a" * 64, "a\n", "a b", "ü"])
def test_an_id_with_other_characters_names_nothing(bad: str) -> None:
    with pytest.raises(InvalidArgument):
        names.ModelName("default", bad)
    with pytest.raises(InvalidArgument):
        names.check_id(bad, "model_id")
    with pytest.raises(InvalidArgument):
        names.ModelName.parse(f"projects/default/models/{bad}")


@pytest.mark.parametrize("number", ["0", "-1", "01", "1" * 19, "x"])
def test_a_version_is_a_positive_number_without_leading_zeros(number: str) -> None:
    with pytest.raises(InvalidArgument, match="such as projects/default/models/digits/versions/7"):
        names.VersionName.parse(f"projects/default/models/digits/versions/{number}")


def test_a_digest_is_lower_case_hex() -> None:
    assert names.ArtifactName("default", "ab" * 32).digest == "ab" * 32
    with pytest.raises(InvalidArgument):
        names.ArtifactName("default", "AB" * 32)


def test_the_project_is_read_off_any_name_below_one() -> None:
    assert names.project_of("projects/a") == "a"
    assert names.project_of("projects/a/whatever/comes") == "a"
    for bad in ("nodes/a", "projects/", "projects/A/x", "xprojects/a", "projects/a\n"):
        with pytest.raises(InvalidArgument):
            names.project_of(bad, field="parent")


def test_garbage_is_not_echoed_in_full() -> None:
    with pytest.raises(InvalidArgument) as caught:
        names.ModelName.parse("x" * 1_000_000)
    assert len(str(caught.value)) < 600
