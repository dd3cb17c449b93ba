"""Declarations of tables on the wire."""

from collections.abc import Iterable

from headrace.parameters.v1 import tables_pb2
from headrace_optimizers.row_initializer import Constant, Initializer, Normal, Uniform
from headrace_optimizers.row_wire import row_optimizer_from_proto, row_optimizer_to_proto
from headrace_optimizers.table_config import TableConfig
from headrace_optimizers.wire import schedule_from_proto


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


def table_to_proto(table: TableConfig) -> tables_pb2.Table:
    """Write a declaration."""
    message = tables_pb2.Table(
        name=table.name,
        dim=table.dim,
        max_rows=table.max_rows,
        max_idle_steps=table.max_idle_steps,
        max_bytes=table.max_bytes,
    )
    _write_initializer(table.initializer, message.initializer)
    row_optimizer_to_proto(table.optimizer, table.schedule, message.optimizer)
    return message


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
