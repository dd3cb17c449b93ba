"""The memory that the tables of all stores of a process have reserved."""

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
        """Let a table have `needed` bytes in all; QuotaExceeded if `free` is less."""
        if needed > free:
            raise QuotaExceeded(
                f"table {table!r} of {store} needs {needed} bytes, and the process has {free} for it; nothing was applied: let it evict "
                "by max_rows, use more shards or raise HEADRACE_PARAMETERS_MAX_BYTES",
                metadata={"needed_bytes": needed, "free_bytes": free},
            )
        self.keep(store, table, needed)

    def keep(self, store: StoreName, table: str, size_bytes: int) -> None:
        """Remember what a table has."""
        self._sizes[store, table] = size_bytes

    def forget(self, store: StoreName) -> None:
        """Free what the tables of a store had."""
        for table in [table for table in self._sizes if table[0] == store]:
            del self._sizes[table]
