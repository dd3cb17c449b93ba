"""Settings of optimizers to and from messages."""

from headrace.errors import InvalidArgument
from headrace.parameters.v1 import stores_pb2
from headrace_optimizers.config import AdamW, Optimizer, Sgd


def optimizer_from_proto(optimizer: stores_pb2.Optimizer) -> Optimizer:
    """Read what to use; InvalidArgument names what cannot be."""
    match optimizer.WhichOneof("kind"):
        case "sgd":
            sgd = optimizer.sgd
            return Sgd(sgd.learning_rate, sgd.momentum, sgd.weight_decay)
        case "adamw":
            adamw = optimizer.adamw
            return AdamW(
                adamw.learning_rate,
                adamw.beta1 or AdamW.beta1,
                adamw.beta2 or AdamW.beta2,
                adamw.epsilon or AdamW.epsilon,
                adamw.weight_decay,
            )
        case _:
            raise InvalidArgument("optimizer is missing; give it `sgd` or `adamw`", field="optimizer")


def optimizer_to_proto(optimizer: Optimizer) -> stores_pb2.Optimizer:
    """Write what is used."""
    if isinstance(optimizer, Sgd):
        sgd = stores_pb2.Sgd(
            learning_rate=optimizer.learning_rate,
            momentum=optimizer.momentum,
            weight_decay=optimizer.weight_decay,
        )
        return stores_pb2.Optimizer(sgd=sgd)
    adamw = stores_pb2.AdamW(
        learning_rate=optimizer.learning_rate,
        beta1=optimizer.beta1,
        beta2=optimizer.beta2,
        epsilon=optimizer.epsilon,
        weight_decay=optimizer.weight_decay,
    )
    return stores_pb2.Optimizer(adamw=adamw)
