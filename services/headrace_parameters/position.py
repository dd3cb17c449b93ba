"""How far a store is with everything it has: the dense values, and each table."""

from headrace.parameters.cut import Cut
from headrace_parameters.live import LiveStore


def cuts(store: LiveStore) -> list[Cut]:
    """Say where the dense values are, and each table: workers push rows first, so a table may be ahead of them."""
    return [store.shard.cut(), *store.tables.cuts()]


def behind_all(store: LiveStore) -> Cut:
    """Say how far everything is."""
    found = cuts(store)
    return {worker: min(cut[worker] for cut in found) for worker in found[0]}
