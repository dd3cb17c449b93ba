"""The memory that the tables of all stores of a process have reserved."""

from collections.abc import Callable, Mapping

from headrace.errors import QuotaExceeded
from headrace.names import StoreName

_Table = tuple[StoreName, str]


class RowBytes:
    """Bytes by store and table. Not thread-safe."""

    def __init__(self) -> None:
        self._sizes: dict[_Table, int] = {}

    def total(self, other_than: _Table | None = None, project: str | None = None) -> int:
        """Return the sum, of one table less; of one project's alone, or of all."""
        return sum(
            size
            for table, size in self._sizes.items()
            if table != other_than and project in (None, table[0].project)
        )

    def reserve(self, store: StoreName, table: str, needed: int, *, free: int) -> None:
        """Let a table have `needed` bytes in all; QuotaExceeded if `free` is less, and so is what it has."""
        if needed > max(free, self._sizes.get((store, table), 0)):
            raise QuotaExceeded(
                f"table {table!r} of {store} needs {needed} bytes, and the process has {free} for it; nothing was applied: let it evict "
                "by max_rows, use more shards or raise HEADRACE_PARAMETERS_MAX_BYTES",
                metadata={"needed_bytes": needed, "free_bytes": free},
            )
        self._sizes[store, table] = needed

    def replace(self, store: StoreName, sizes: Mapping[str, int]) -> None:
        """Remember what the tables of a store have, by name, and no others of it."""
        self.forget(store)
        self._sizes |= {(store, table): size for table, size in sizes.items()}

    def forget(self, store: StoreName) -> None:
        """Free what the tables of a store had."""
        for table in [table for table in self._sizes if table[0] == store]:
            del self._sizes[table]


class RoomBeside:
    """Reserves memory for tables that are put together beside those whose place they take: as much as the larger of the two has.

    Args:
        reserve: Told a table's name and the memory it needs in all; raises if there is none.
        beside: What the tables have whose place they take.
    """

    def __init__(self, reserve: Callable[[str, int], None], beside: Mapping[str, int]) -> None:
        self._reserve, self._beside = reserve, beside

    def __call__(self, table: str, needed: int) -> None:
        """Keep room for all rows of a table."""
        self._reserve(table, max(needed, self._beside.get(table, 0)))

    def alone(self) -> None:
        """Reserve what the new tables need from now on: they have taken the place of the others."""
        self._beside = {}
