"""The command line against one front door; each test has a project of its own in it."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

import headrace
from headrace.client import Client
from tests.services.cli.command import Headrace
from tests.services.client.front_door import FrontDoor, open_front_door

_projects = itertools.count(1)


@pytest.fixture(scope="session")
def front_door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrontDoor]:
    with open_front_door(tmp_path_factory.mktemp("front-door")) as door:
        yield door


@pytest.fixture
def run(front_door: FrontDoor, tmp_path: Path) -> Headrace:
    return Headrace(front_door.address, f"cli-{next(_projects)}", tmp_path)


@pytest.fixture
def client(run: Headrace) -> Iterator[Client]:
    with headrace.connect(run.address, run.project) as client:
        yield client
