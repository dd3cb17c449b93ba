"""Short names become resource names."""

import pytest

from headrace.client.naming import (
    deployment_name,
    job_name,
    model_name,
    node_name,
    pool_name,
    short,
    version_name,
)
from headrace.errors import InvalidArgument


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("digits", "projects/a/models/digits@latest"),
        ("digits@stable", "projects/a/models/digits@stable"),
        ("digits/3", "projects/a/models/digits/versions/3"),
        ("projects/b/models/digits/versions/3", "projects/b/models/digits/versions/3"),
    ],
)
def test_a_version_is_said_short_or_in_full(said: str, meant: str) -> None:
    assert version_name("a", said) == meant


@pytest.mark.parametrize(
    "said", ["digits/x", "digits/0", "digits@stable/3", "digits/", "Digits", "digits@", ""]
)
def test_what_is_no_version_is_refused(said: str) -> None:
    with pytest.raises(InvalidArgument):
        version_name("a", said)


def test_other_resources_are_said_short_or_in_full() -> None:
    assert model_name("a", "digits") == "projects/a/models/digits"
    assert model_name("a", "projects/b/models/digits") == "projects/b/models/digits"
    assert job_name("a", "run-1") == "projects/a/jobs/run-1"
    assert deployment_name("a", "digits") == "projects/a/deployments/digits"
    assert node_name("training-0") == node_name("nodes/training-0") == "nodes/training-0"
    assert pool_name("gpu") == pool_name("pools/gpu") == "pools/gpu"
    assert pool_name("") == ""


def test_a_name_of_another_kind_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="is not of the form projects/"):
        job_name("a", "projects/a/models/digits")


def test_resource_names_are_shown_as_people_say_them() -> None:
    assert short("projects/a/models/digits/versions/3") == "digits/3"
    assert short("projects/a/models/digits@stable") == "digits@stable"
    assert short("projects/a/jobs/run-1") == "run-1"
    assert short("nodes/training-0") == "training-0"
    assert short("") == ""
