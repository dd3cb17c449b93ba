"""What the scheduler writes: it reads back the same, and an event that cannot be written has not happened."""

import math
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import Connection, event, inspect
from sqlalchemy import Engine as Database

from headrace.database import migrate, open_engine, writing
from headrace.errors import NotFound, StorageFull
from headrace.scheduler.v1 import jobs_pb2
from headrace_scheduler import metrics, schema
from headrace_scheduler.core.events import JobSubmitted, NodeDrained
from headrace_scheduler.core.jobs import JobState, Progress
from headrace_scheduler.core.machine import REVISION_GAP, Changes, Machine
from headrace_scheduler.core.nodes import NodeKind
from headrace_scheduler.engine import Engine
from headrace_scheduler.specs import new_job
from headrace_scheduler.store import Store
from tests.services.registry.temporary_postgres import TemporaryPostgres, temporary_postgres
from tests.services.scheduler.scheduler_server import LEASE_S, PROJECT, train_spec
from tests.unit.scheduler.world import World


@pytest.fixture(scope="module")
def postgres() -> Iterator[TemporaryPostgres]:
    try:
        with temporary_postgres() as server:
            yield server
    except FileNotFoundError as missing:
        pytest.skip(str(missing))


@pytest.fixture
def database(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Database]:
    """SQLite, unless the test asks for `EVERY_DATABASE`."""
    url = f"sqlite:///{tmp_path / 'scheduler.db'}"
    if getattr(request, "param", "sqlite") == "postgresql":
        server: TemporaryPostgres = request.getfixturevalue("postgres")
        url = server.new_database()
    opened = open_engine(url)
    migrate(opened, "headrace_scheduler")
    yield opened
    opened.dispose()


EVERY_DATABASE = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)


class WrittenWorld(World):
    """A world whose rows go through the real store."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.database = database
        self.store = Store(database)

    def _write(self, changes: Changes) -> None:
        super()._write(changes)
        with writing(self.database) as connection:
            self.store.write(connection, changes)

    def reread(self) -> Machine:
        machine = Machine(self.machine.lease_s, self.now)
        self.store.restore(machine, self.now)
        return machine


@EVERY_DATABASE
def test_a_busy_cluster_reads_back_as_it_was(database: Database) -> None:
    world = WrittenWorld(database)
    world.start("t0", NodeKind.TRAINING)
    world.start("t1", NodeKind.TRAINING)
    world.start("p0", NodeKind.PARAMETERS, slots=3)
    world.start("o0", NodeKind.OPTIMIZATION)
    world.start("i0", NodeKind.INFERENCE, slots=2)
    world.running("a", workers=2)
    world.checkpoint("a-1-train-0", step=40, shards=1)
    world.fail("a-1-train-1", "TASK_CRASHED")
    world.submit("waits", workers=2)
    world.optimize("o")
    world.deploy("digits")
    world.deploy("broken", version=13)
    world.deliver()
    world.fail("o-1-optimize-0", "GATE_FAILED")
    world.handle(NodeDrained("nodes/t0", drained=True))
    again = world.reread()
    assert world._state(again) == world._state(world.machine)
    assert again.tables.jobs[f"{PROJECT}/jobs/a"].revision > REVISION_GAP
    assert world.store.list_jobs("default", None, 10)[0].state is JobState.FAILED
    assert world.store.find_job(f"{PROJECT}/jobs/none") is None


@EVERY_DATABASE
def test_metrics_that_are_not_numbers_are_kept(database: Database) -> None:
    world = WrittenWorld(database)
    world.start("t0", NodeKind.TRAINING)
    world.start("p0", NodeKind.PARAMETERS)
    world.running("a")
    world.change("a-1-train-0", progress=Progress(1, 100, "training", {"loss": float("nan")}))
    world.succeed("a-1-train-0")
    job = world.store.find_job(f"{PROJECT}/jobs/a")
    assert job is not None
    assert job.progress is not None
    assert math.isnan(job.progress.metrics["loss"])


@EVERY_DATABASE
def test_the_schema_is_what_the_migrations_make(database: Database) -> None:
    found = inspect(database)
    for table in schema.metadata.sorted_tables:
        columns = {column["name"]: str(column["type"]) for column in found.get_columns(table.name)}
        assert columns == {
            column.name: str(column.type.compile(database.dialect)) for column in table.columns
        }


@pytest.fixture
def engine(database: Database) -> Engine:
    return Engine(database, lease_s=LEASE_S, registry_address="", now=time.time)


def test_an_event_that_cannot_be_written_has_not_happened(database: Database, engine: Engine) -> None:
    pages = [1]  # SQLite takes it for: no more than there are now

    @event.listens_for(database, "begin")
    def limit_the_disk(connection: Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages[0]}")

    spec = jobs_pb2.Job(train=train_spec())
    spec.train.program.config["notes"] = "long" * 50_000
    submitted = JobSubmitted(new_job("default", "a", spec, time.time()))
    with pytest.raises(StorageFull):
        engine.submit(submitted)
    with pytest.raises(NotFound):
        engine.job(f"{PROJECT}/jobs/a")
    pages[0] = 1 << 30
    engine.submit(submitted)
    assert engine.job(f"{PROJECT}/jobs/a").state is JobState.QUEUED


def test_jobs_are_counted_by_state_for_prometheus(engine: Engine) -> None:
    registry = CollectorRegistry()
    metrics.register(registry, engine)
    for name in ("a", "b"):
        engine.submit(JobSubmitted(new_job("default", name, jobs_pb2.Job(train=train_spec()), time.time())))
    labels = {"kind": "train", "state": "QUEUED"}
    assert registry.get_sample_value("headrace_scheduler_jobs", labels) == 2
