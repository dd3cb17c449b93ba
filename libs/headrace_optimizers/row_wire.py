"""Optimizers of rows on the wire."""

from headrace.errors import InvalidArgument
from headrace.parameters.v1 import tables_pb2
from headrace_optimizers.row_config import RowAdagrad, RowAdam, RowOptimizer, RowSgd, RowWiseAdagrad
from headrace_optimizers.schedule import CONSTANT, Schedule
from headrace_optimizers.wire import write_schedule


def row_optimizer_from_proto(optimizer: tables_pb2.RowOptimizer) -> RowOptimizer:
    """Read an optimizer, with its defaults; InvalidArgument names the field that cannot be."""
    match optimizer.WhichOneof("kind"):
        case "sgd":
            return RowSgd(optimizer.sgd.learning_rate)
        case "row_wise_adagrad":
            rows = optimizer.row_wise_adagrad
            epsilon = rows.epsilon or RowWiseAdagrad.epsilon
            return RowWiseAdagrad(rows.learning_rate, rows.initial_accumulator, epsilon)
        case "adagrad":
            ada = optimizer.adagrad
            return RowAdagrad(ada.learning_rate, ada.initial_accumulator, ada.epsilon or RowAdagrad.epsilon)
        case "adam":
            adam = optimizer.adam
            return RowAdam(
                adam.learning_rate,
                adam.beta1 or RowAdam.beta1,
                adam.beta2 or RowAdam.beta2,
                adam.epsilon or RowAdam.epsilon,
            )
        case _:
            raise InvalidArgument(
                "a table has no optimizer; give it `sgd`, `row_wise_adagrad`, `adagrad` or `adam`",
                field="tables.optimizer",
            )


def row_optimizer_to_proto(
    optimizer: RowOptimizer, schedule: Schedule, message: tables_pb2.RowOptimizer
) -> None:
    """Write an optimizer, and its schedule unless that is constant."""
    match optimizer:
        case RowSgd():
            message.sgd.learning_rate = optimizer.learning_rate
        case RowWiseAdagrad():
            _write_accumulating(optimizer, message.row_wise_adagrad)
        case RowAdagrad():
            _write_accumulating(optimizer, message.adagrad)
        case RowAdam():
            adam = message.adam
            adam.learning_rate, adam.epsilon = optimizer.learning_rate, optimizer.epsilon
            adam.beta1, adam.beta2 = optimizer.beta1, optimizer.beta2
    if schedule != CONSTANT:
        write_schedule(schedule, message.schedule)


def _write_accumulating(
    optimizer: RowAdagrad | RowWiseAdagrad, message: tables_pb2.RowAdagrad | tables_pb2.RowWiseAdagrad
) -> None:
    message.learning_rate = optimizer.learning_rate
    message.initial_accumulator, message.epsilon = optimizer.initial_accumulator, optimizer.epsilon
