"""Declarations of tables to the core's terms, and tables as they are to messages."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from headrace.parameters.v1 import tables_pb2
from headrace_optimizers.row_wire import row_optimizer_from_proto, row_optimizer_to_proto
from headrace_optimizers.wire import schedule_from_proto
from headrace_parameters.core.rows.config import TableConfig
from headrace_parameters.core.rows.initializer import Constant, Initializer, Normal, Uniform

if TYPE_CHECKING:
    from headrace_parameters.live_table import LiveTable


def tables_from_proto(tables: Iterable[tables_pb2.Table]) -> tuple[TableConfig, ...]:
    """Read declarations; InvalidArgument names the field that cannot be."""
    return tuple(
        TableConfig(
            name=table.name,
            dim=table.dim,
            initializer=_initializer(table.initializer),
            optimizer=row_optimizer_from_proto(table.optimizer),
            schedule=schedule_from_proto(table.optimizer.schedule),
            max_rows=table.max_rows,
            max_idle_steps=table.max_idle_steps,
            max_bytes=table.max_bytes,
        )
        for table in tables
    )


def _initializer(initializer: tables_pb2.RowInitializer) -> Initializer:
    match initializer.WhichOneof("kind"):
        case "uniform":
            return Uniform(initializer.uniform.low, initializer.uniform.high, initializer.uniform.seed)
        case "normal":
            return Normal(initializer.normal.mean, initializer.normal.deviation, initializer.normal.seed)
        case _:
            return Constant(initializer.constant.value)


def tables_to_proto(tables: "Iterable[LiveTable]") -> Iterator[tables_pb2.Table]:
    """Write tables as they are now."""
    for table in tables:
        facts = table.facts()
        message = tables_pb2.Table(
            name=table.config.name,
            dim=table.config.dim,
            max_rows=table.config.max_rows,
            max_idle_steps=table.config.max_idle_steps,
            max_bytes=table.config.max_bytes,
            rows=facts.rows,
            size_bytes=facts.size_bytes,
            version=facts.version,
            created_rows=facts.counts.created,
            evicted_rows=facts.counts.evicted,
        )
        _write_initializer(table.config.initializer, message.initializer)
        row_optimizer_to_proto(table.config.optimizer, table.config.schedule, message.optimizer)
        yield message


def _write_initializer(initializer: Initializer, message: tables_pb2.RowInitializer) -> None:
    match initializer:
        case Constant():
            message.constant.value = initializer.value
        case Uniform():
            message.uniform.low, message.uniform.high = initializer.low, initializer.high
            message.uniform.seed = initializer.seed
        case Normal():
            message.normal.mean, message.normal.deviation = initializer.mean, initializer.deviation
            message.normal.seed = initializer.seed
