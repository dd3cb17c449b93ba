"""Steps that are applied with norms of the whole model, which workers carry from each shard to all."""

from collections.abc import Sequence

from headrace.parameters.known_shards import DenseShards
from headrace.parameters.v1 import parameters_pb2


def awaited_norms(shards: DenseShards) -> Sequence[parameters_pb2.Norms.ValueType]:
    """Say which norms the store's steps wait for, in this order."""
    optimizer = shards.stores[0].optimizer
    wanted = {
        parameters_pb2.NORMS_GRADIENT: optimizer.maximum_gradient_norm > 0,
        parameters_pb2.NORMS_TENSORS: optimizer.WhichOneof("kind") == "lamb",
    }
    return [norms for norms, waits in wanted.items() if waits and len(shards.clients) > 1]


def finish(shards: DenseShards, step: int) -> None:
    """Tell all shards all norms of a step, in as many round trips as it takes."""
    for norms in awaited_norms(shards) or [parameters_pb2.NORMS_GRADIENT]:
        _tell(shards, step, norms)


def _tell(shards: DenseShards, step: int, norms: parameters_pb2.Norms.ValueType) -> None:
    found = shards.do(lambda operation, index: shards.clients[index].step_norms(operation, step, norms))
    parts = [part for part in found if part is not None]
    if len(parts) < len(found):
        return  # a later step is complete somewhere, and so this one is applied everywhere
    total = [sum(each) for each in zip(*parts, strict=True)]
    shards.do(lambda operation, index: shards.clients[index].finish_step(operation, step, norms, total))
