"""Tables as they are to messages."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from headrace.parameters.v1 import tables_pb2
from headrace_optimizers.table_wire import table_to_proto

if TYPE_CHECKING:
    from headrace_parameters.live_table import LiveTable


def tables_to_proto(tables: "Iterable[LiveTable]") -> Iterator[tables_pb2.Table]:
    """Write tables as they are now."""
    for table in tables:
        facts = table.facts()
        message = table_to_proto(table.config)
        message.rows, message.size_bytes, message.version = facts.rows, facts.size_bytes, facts.version
        message.created_rows, message.evicted_rows = facts.counts.created, facts.counts.evicted
        yield message
