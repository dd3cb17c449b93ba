"""The database of a service: SQLite in a file by default, PostgreSQL by URL.

process.holding(claimed_by("registry", settings.database_url, "choose another folder with ..."))
engine = open_engine(settings.database_url)
migrate(engine, "headrace_registry")
with writing(engine) as connection:        # or reading(engine)
    connection.execute(insert(models).values(...))
with writing(engine) as connection, Session(connection) as session: ...
"""

from headrace.database.engine import claimed_by, open_engine, reading, writing
from headrace.database.migrations import migrate
from headrace.database.requests import RememberedRequests

__all__ = ["RememberedRequests", "claimed_by", "migrate", "open_engine", "reading", "writing"]
