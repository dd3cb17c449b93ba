import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import Column, Engine, ForeignKey, Integer, MetaData, Table, create_engine, inspect, text
from sqlalchemy.exc import IntegrityError, OperationalError

from headrace.database import migrate, open_engine, reading, writing
from headrace.errors import FailedPrecondition, InvalidArgument, StorageFull, Unavailable

metadata = MetaData()
parents = Table("parents", metadata, Column("id", Integer, primary_key=True))
children = Table("children", metadata, Column("parent", ForeignKey("parents.id"), nullable=False))

FIRST = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = "0001", None
def upgrade() -> None:
    op.create_table("models", sa.Column("name", sa.String, primary_key=True))
def downgrade() -> None:
    op.drop_table("models")
"""
SECOND = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = "0002", "0001"
def upgrade() -> None:
    op.add_column("models", sa.Column("size", sa.Integer))
    {then}
def downgrade() -> None:
    op.drop_column("models", "size")
"""


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    engine = open_engine(f"sqlite:///{tmp_path}/below/test.db")
    metadata.create_all(engine)
    return engine


def count(engine: Engine) -> int:
    with reading(engine) as connection:
        return int(connection.execute(text("SELECT count(*) FROM parents")).scalar_one())


def test_sqlite_is_set_up_to_keep_what_it_acknowledged(engine: Engine) -> None:
    with reading(engine) as connection:
        settings = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10_000}


def test_foreign_keys_hold(engine: Engine) -> None:
    with pytest.raises(IntegrityError), writing(engine) as connection:
        connection.execute(children.insert().values(parent=7))


def test_a_transaction_that_fails_leaves_nothing(engine: Engine) -> None:
    with pytest.raises(IntegrityError), writing(engine) as connection:
        connection.execute(parents.insert(), [{"id": 1}, {"id": 1}])
    assert count(engine) == 0


def test_a_reader_is_not_held_up_by_a_writer_and_sees_one_moment(engine: Engine) -> None:
    with writing(engine) as connection:
        connection.execute(parents.insert().values(id=1))
        assert count(engine) == 0
    assert count(engine) == 1


def test_writers_wait_for_each_other(engine: Engine) -> None:
    """Each reads and then writes; begun as readers, all but one would fail."""

    def add() -> None:
        for _ in range(10):
            with writing(engine) as connection:
                highest = connection.execute(text("SELECT coalesce(max(id), 0) FROM parents")).scalar_one()
                connection.execute(parents.insert().values(id=highest + 1))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert count(engine) == 40


def test_a_database_that_stays_busy_is_unavailable(engine: Engine, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "below" / "test.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with engine.connect() as connection:
        connection.exec_driver_sql(
            "PRAGMA busy_timeout=50"
        )  # the pool gives this connection to `writing` again
    with pytest.raises(Unavailable, match="busy with another writer"), writing(engine):
        pass
    other.close()


def test_a_full_disk_is_storage_full_and_changes_nothing(engine: Engine) -> None:
    with engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    with pytest.raises(StorageFull), writing(engine) as connection:
        connection.execute(parents.insert(), [{"id": number} for number in range(10_000)])
    assert count(engine) == 0


def test_a_mistake_of_ours_is_not_blamed_on_the_database(engine: Engine) -> None:
    with pytest.raises(OperationalError, match="no such table"), reading(engine) as connection:
        connection.execute(text("SELECT * FROM missing"))


@pytest.mark.parametrize("url", ["", "registry.db", "mysql://root:secret@host/x", "sqlite3:/x"])
def test_another_url_is_refused_without_repeating_its_password(url: str) -> None:
    with pytest.raises(InvalidArgument, match="sqlite:///FILE") as caught:
        open_engine(url)
    assert "secret" not in str(caught.value)


def test_a_postgresql_url_gets_the_driver_we_have() -> None:
    for url in ("postgresql://user@host/db", "postgresql+psycopg://user@host/db"):
        assert open_engine(url).dialect.driver == "psycopg"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    versions = tmp_path / "probe_service" / "migrations" / "versions"
    versions.mkdir(parents=True)
    (tmp_path / "probe_service" / "__init__.py").touch()
    (versions / "v0001_models.py").write_text(FIRST)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "probe_service", raising=False)  # of another test, in another folder
    return "probe_service"


def add_second(tmp_path: Path, then: str = "") -> Path:
    path = tmp_path / "probe_service" / "migrations" / "versions" / "v0002_size.py"
    path.write_text(SECOND.format(then=then))
    return path


def columns(engine: Engine) -> list[str]:
    return [column["name"] for column in inspect(engine).get_columns("models")]


def test_migrating_runs_what_is_new_and_only_that(package: str, tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/new.db")
    assert migrate(engine, package) == "0001"
    assert migrate(engine, package) == "0001"
    assert columns(engine) == ["name"]
    add_second(tmp_path)
    assert migrate(engine, package) == "0002"
    assert columns(engine) == ["name", "size"]


def test_a_migration_that_fails_leaves_the_database_as_it_was(package: str, tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/new.db")
    migrate(engine, package)
    add_second(tmp_path, then="raise RuntimeError('half way')")
    with pytest.raises(RuntimeError, match="half way"):
        migrate(engine, package)
    assert columns(engine) == ["name"]


def test_a_database_of_a_newer_release_is_refused(package: str, tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/new.db")
    second = add_second(tmp_path)
    migrate(engine, package)
    second.unlink()
    with pytest.raises(FailedPrecondition, match="does not fit this release of probe_service"):
        migrate(engine, package)


def test_processes_that_start_together_migrate_once(package: str, tmp_path: Path) -> None:
    add_second(tmp_path)
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from headrace.database import migrate, open_engine
print(migrate(open_engine("sqlite:///{tmp_path}/new.db"), "{package}"))
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    results = [(*process.communicate(timeout=60), process.returncode) for process in processes]
    assert [(out, status) for out, _, status in results] == [("0002\n", 0)] * 3, results
    assert columns(create_engine(f"sqlite:///{tmp_path}/new.db")) == ["name", "size"]
