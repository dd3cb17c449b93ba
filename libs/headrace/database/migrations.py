"""Bringing a database up to date when its service starts.

The scripts lie in `<package>/migrations/versions/*.py`, in alembic's form (`revision`, `down_revision`, `upgrade()`,
`downgrade()`); neither `alembic.ini` nor `env.py` is needed.
"""

from importlib.resources import as_file, files
from typing import Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Engine, text

from headrace.database.engine import writing
from headrace.errors import FailedPrecondition

MIGRATION_LOCK = 0x68656164  # "head": any number that nobody else locks in the same PostgreSQL database


def migrate(engine: Engine, package: str) -> str:
    """Run the scripts of `package` that this database has not seen, all or none, and return its revision.

    Two processes may start at the same time: the second waits and finds nothing left to do.

    Raises:
        FailedPrecondition: The database has a revision that the package does not know: a newer release made it.
        Unavailable: The database cannot be reached.
    """
    with as_file(files(package) / "migrations") as folder, writing(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        config = Config()
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        scripts = ScriptDirectory.from_config(config)

        def pending(revision: Any, _: Any) -> Any:
            return scripts._upgrade_revs("head", revision)  # noqa: SLF001 - what `alembic upgrade` itself calls

        with EnvironmentContext(config, scripts, fn=pending) as environment:
            environment.configure(connection=connection)
            try:
                environment.run_migrations()
            except CommandError as error:
                raise FailedPrecondition(
                    f"the database does not fit this release of {package} ({error}); use the release that made it"
                ) from error
        return str(scripts.get_current_head())
