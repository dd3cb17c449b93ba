"""The processes that the tests of this folder share: starting them takes longer than most tests."""

from collections.abc import Iterator

import pytest

from tests.services.training.training_world import World, world


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("world")) as started:
        yield started
