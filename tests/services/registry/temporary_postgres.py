"""A real PostgreSQL for the time of a test run, in a folder of its own, reached by a socket in that folder."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psycopg

ACCOUNT = "postgres"  # PostgreSQL refuses to run as root; its package makes this account
MISSING = "PostgreSQL is not installed (on Debian: apt-get install postgresql)"


def find_program(name: str) -> str | None:
    """Find a program of PostgreSQL, which Debian keeps off the PATH; the newest version first."""
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    return str(versions[-1]) if versions else shutil.which(name)


class TemporaryPostgres:
    """A running server."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count(1)

    def new_database(self) -> str:
        """Make an empty database and return its URL."""
        name = f"test_{next(self._numbers)}"
        with psycopg.connect(
            f"host={self._folder} user={ACCOUNT} dbname=postgres", autocommit=True
        ) as server:
            server.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
        return f"postgresql+psycopg://{ACCOUNT}@/{name}?host={self._folder}"


@contextmanager
def temporary_postgres() -> Iterator[TemporaryPostgres]:
    """Run a server on fast and forgetful settings; its files are gone afterwards.

    Raises:
        FileNotFoundError: PostgreSQL is not installed.
    """
    initdb, pg_ctl = find_program("initdb"), find_program("pg_ctl")
    if initdb is None or pg_ctl is None:
        raise FileNotFoundError(MISSING)
    with tempfile.TemporaryDirectory(prefix="headrace-postgres-") as name:
        folder, data = Path(name), f"{name}/data"
        if os.getuid() == 0:
            shutil.chown(folder, ACCOUNT)
        _run(initdb, "-D", data, "-U", ACCOUNT, "--auth=trust", "--no-sync", "-E", "UTF8")
        options = f"-c listen_addresses='' -c unix_socket_directories={name} -c fsync=off"
        _run(pg_ctl, "-D", data, "-w", "-l", f"{name}/log", "-o", options, "start")
        try:
            yield TemporaryPostgres(folder)
        finally:
            _run(pg_ctl, "-D", data, "-w", "-m", "immediate", "stop")


def _run(*command: str) -> None:
    # By `setpriv`, not by `run(user=...)`: with that Python forks, and what libraries do in a forked process may crash it; else it calls vfork.
    become = (
        ("setpriv", f"--reuid={ACCOUNT}", f"--regid={ACCOUNT}", "--init-groups") if os.getuid() == 0 else ()
    )
    # Not into a pipe: the server inherits it, and `run` would wait for the server to close it.
    subprocess.run((*become, *command), check=True, cwd="/", stdout=subprocess.DEVNULL, timeout=60)
