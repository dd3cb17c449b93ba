"""What every test of the scheduler starts from."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.scheduler.fake_nodes import Nodes, fake_nodes, fake_registry
from tests.services.scheduler.scheduler_server import Scheduler, scheduler_server


@pytest.fixture
def registry() -> Iterator[str]:
    with fake_registry() as address:
        yield address


@pytest.fixture
def scheduler(tmp_path: Path, registry: str) -> Iterator[Scheduler]:
    with scheduler_server(tmp_path, registry) as served:
        yield served


@pytest.fixture
def nodes(scheduler: Scheduler) -> Iterator[Nodes]:
    with fake_nodes(scheduler.address) as started:
        yield started
