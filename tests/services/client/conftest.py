"""One front door for all tests of a process; each test has a project of its own in it."""

import itertools
from collections.abc import Iterator

import pytest

import headrace
from headrace.client import Client
from tests.services.client.front_door import FrontDoor, open_front_door

_projects = itertools.count(1)


@pytest.fixture(scope="session")
def front_door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrontDoor]:
    with open_front_door(tmp_path_factory.mktemp("front-door")) as door:
        yield door


@pytest.fixture
def project() -> str:
    return f"test-{next(_projects)}"


@pytest.fixture
def client(front_door: FrontDoor, project: str) -> Iterator[Client]:
    with headrace.connect(front_door.address, project) as client:
        yield client
