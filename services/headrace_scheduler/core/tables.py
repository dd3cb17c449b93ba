"""The state of the scheduler: five tables of immutable rows, with a journal of the event at hand.

The journal says what must be written to the database before anyone is answered, and undoes the event if that fails.
"""

from collections.abc import Callable, Iterator, Mapping, ValuesView
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from headrace_scheduler.core.deployments import Deployment, Hosted, durable_deployment
from headrace_scheduler.core.jobs import Job, durable_job
from headrace_scheduler.core.nodes import Node, Pool, durable_node

Row = TypeVar("Row")


@dataclass(frozen=True)
class Change(Generic[Row]):
    """One row before and after an event; None where there is none."""

    key: str
    old: Row | None
    new: Row | None


class Table(Mapping[str, Row]):
    """Rows by name. `durable` projects a row to the part that is written to the database."""

    def __init__(self, durable: Callable[[Row], object] = lambda row: row) -> None:
        self._rows: dict[str, Row] = {}
        self._journal: dict[str, Row | None] = {}
        self._durable = durable

    def __getitem__(self, key: str) -> Row:
        return self._rows[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def values(self) -> ValuesView[Row]:
        """Return a view of the rows: the dictionary's own, which every event walks through, and not the Mapping's slow one."""
        return self._rows.values()

    def put(self, key: str, row: Row) -> None:
        """Add or replace a row."""
        self._journal.setdefault(key, self._rows.get(key))
        self._rows[key] = row

    def remove(self, key: str) -> None:
        """Remove a row."""
        self._journal.setdefault(key, self._rows[key])
        del self._rows[key]

    def begin(self) -> None:
        """Forget the journal: what came before is agreed."""
        self._journal.clear()

    def drop(self, superfluous: Callable[[Row], bool]) -> None:
        """Drop rows that were changed in this journal and need no more thought; the database keeps them."""
        for key in self._journal:
            row = self._rows.get(key)
            if row is not None and superfluous(row):
                del self._rows[key]

    def undo(self) -> None:
        """Go back to where `begin` was."""
        for key, old in self._journal.items():
            if old is None:
                self._rows.pop(key, None)
            else:
                self._rows[key] = old
        self._journal.clear()

    def changes(self) -> list[Change[Row]]:
        """List the rows that differ from what they were at `begin`."""
        pairs = [Change(key, old, self._rows.get(key)) for key, old in self._journal.items()]
        return [change for change in pairs if change.old != change.new]

    def durable_changes(self) -> list[Change[Row]]:
        """List those whose durable part differs."""
        return [change for change in self.changes() if self._part(change.old) != self._part(change.new)]

    def _part(self, row: Row | None) -> object:
        return None if row is None else self._durable(row)


class Tables:
    """Everything the scheduler decides from. Jobs leave their table when they are settled."""

    def __init__(self) -> None:
        self.pools: Table[Pool] = Table()
        self.nodes: Table[Node] = Table(durable_node)
        self.jobs: Table[Job] = Table(durable_job)
        self.deployments: Table[Deployment] = Table(durable_deployment)
        self.hosted: Table[Hosted] = Table()

    @property
    def all(self) -> tuple[Table[Pool], Table[Node], Table[Job], Table[Deployment], Table[Hosted]]:
        """Every table."""
        return self.pools, self.nodes, self.jobs, self.deployments, self.hosted

    def begin(self) -> None:
        """Start an event."""
        for table in self.all:
            table.begin()

    def commit(self) -> None:
        """Agree to the event; settled jobs are from now on in the database only."""
        self.jobs.drop(lambda job: job.settled)
        self.begin()

    def undo(self) -> None:
        """Take the event back."""
        for table in self.all:
            table.undo()

    def put_job(self, job: Job) -> None:
        """Store a job; a change gets the next revision."""
        old = self.jobs.get(job.name)
        if old != job:
            self.jobs.put(job.name, replace(job, revision=old.revision + 1) if old else job)

    def put_deployment(self, deployment: Deployment) -> None:
        """Store a deployment; a change gets the next revision."""
        old = self.deployments.get(deployment.name)
        if old != deployment:
            revised = replace(deployment, revision=old.revision + 1) if old else deployment
            self.deployments.put(deployment.name, revised)

    def process_is_there(self, node: str, incarnation: str) -> bool:
        """Tell whether this very process holds a lease."""
        found = self.nodes.get(node)
        return found is not None and found.incarnation == incarnation and not found.lost
