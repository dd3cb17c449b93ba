"""Where a shard is in a run, for whoever brings all shards of a store to one cut so that values can move between them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from headrace.parameters.cut import Cut


@dataclass(frozen=True)
class Pending:
    """Whose gradients, for the step that is not complete, are there (BSP).

    Args:
        dense: Workers whose dense gradients are.
        rows: By table, workers whose gradients of rows are.
    """

    dense: frozenset[int] = frozenset()
    rows: Mapping[str, frozenset[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Standing:
    """Where a shard is.

    Args:
        cut: As far as it goes by what it has taken: a complete step that waits for norms of the whole model counts.
        record: The last one that it has, of a replicated store.
    """

    cut: Cut
    pending: Pending = Pending()
    record: int = 0


@dataclass(frozen=True)
class Point:
    """The point of a run at which values move.

    Args:
        kept: Gradients for the step that is not complete that go along.
        records: The last record of each shard of a replicated store.
    """

    kept: Pending
    records: Mapping[int, int] = field(default_factory=dict)


def complete_gradients(standings: Sequence[Standing]) -> Pending:
    """Return which gradients for the step that is not complete every one of the shards has.

    Only these are kept: a gradient that some shard lacks was not answered by all, and so its worker sends it again, to all.
    """
    found = [standing.pending for standing in standings]
    return Pending(
        frozenset.intersection(*(pending.dense for pending in found)),
        {table: frozenset.intersection(*(each.rows[table] for each in found)) for table in found[0].rows},
    )
