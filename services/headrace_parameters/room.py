"""The memory that the stores of a process have reserved, and whether there is more: in the process, and in what a project may have of it."""

from collections.abc import Callable, Mapping

from headrace.errors import QuotaExceeded
from headrace.names import StoreName
from headrace_parameters.row_bytes import RowBytes


class Room:
    """Bytes of all stores: those of values and optimizer state, and those of rows. Not thread-safe.

    What somebody sends first values for is reserved from the moment that begins until the store is gone.

    Args:
        most: How many there are.
        of_project: How many of them the stores of a project may take; 0: all.
    """

    def __init__(self, most: int, of_project: Callable[[str], int]) -> None:
        self._most, self._of_project = most, of_project
        self._values: dict[StoreName, int] = {}
        self._rows = RowBytes()

    def check(self, name: StoreName, needed: int) -> None:
        """Raise QuotaExceeded if the others leave less than a store needs for values and optimizer state."""
        taken = sum(size for other, size in self._values.items() if other != name) + self._rows.total()
        _check_process(name, needed, taken, self._most)
        _check_project(name, needed, self._free_of_project(name.project, store=name))

    def keep(self, name: StoreName, values: int) -> None:
        """Keep so much for values and optimizer state of a store, whether it is there or not."""
        self._values[name] = values

    def keep_rows(self, name: StoreName, sizes: Mapping[str, int]) -> None:
        """Keep so much for the tables of a store, by name, whether it is there or not; nothing for others of it."""
        self._rows.replace(name, sizes)

    def reserve_rows(self, name: StoreName, table: str, needed: int) -> None:
        """Keep so much for all rows of a table; QuotaExceeded if it is not there."""
        taken = sum(self._values.values()) + self._rows.total(other_than=(name, table))
        of_project = self._free_of_project(name.project, table=(name, table))
        self._rows.reserve(name, table, needed, free=min(self._most - taken, of_project))

    def forget(self, name: StoreName) -> None:
        """Keep nothing more for values of a store."""
        self._values.pop(name, None)

    def _free_of_project(
        self, project: str, *, store: StoreName | None = None, table: tuple[StoreName, str] | None = None
    ) -> int:
        """Return what a project may still take, if this store or table had nothing."""
        allowed = self._of_project(project) or self._most
        values = sum(size for name, size in self._values.items() if name.project == project and name != store)
        return allowed - values - self._rows.total(other_than=table, project=project)


def _check_process(name: StoreName, needed: int, taken: int, most: int) -> None:
    if taken + needed > most:
        raise QuotaExceeded(
            f"{name} needs {needed} bytes, the other stores have {taken} of {most}; use more shards, "
            "delete a store or raise HEADRACE_PARAMETERS_MAX_BYTES",
            metadata={"needed_bytes": needed, "free_bytes": most - taken},
        )


def _check_project(name: StoreName, needed: int, free: int) -> None:
    if needed > free:
        raise QuotaExceeded(
            f"{name} needs {needed} bytes, and project {name.project!r} has {free} left in this process; use more shards, delete "
            "a store of the project, or ask the operator for more (HEADRACE_PARAMETERS_PROJECT_QUOTAS)",
            metadata={
                "subject": f"projects/{name.project}",
                "quota": "max_bytes",
                "needed_bytes": needed,
                "free_bytes": free,
            },
        )
