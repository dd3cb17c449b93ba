"""Steps that are applied with norms of the whole model, which workers carry from each shard to all."""

from collections.abc import Sequence

from headrace.parameters.shard import ShardClient
from headrace.parameters.together import Together
from headrace.parameters.v1 import parameters_pb2


class Finisher:
    """Carries norms for one worker."""

    def __init__(self, together: Together, shards: Sequence[ShardClient]) -> None:
        self._together = together
        self._shards = shards
        self._waited: Sequence[parameters_pb2.Norms.ValueType] | None = None

    @property
    def norms(self) -> Sequence[parameters_pb2.Norms.ValueType]:
        """Which norms the store's steps wait for, in this order; asked for once."""
        if self._waited is None:
            stores = self._together.do(lambda operation, index: self._shards[index].get(operation))
            optimizer = stores[0].optimizer
            wanted = {
                parameters_pb2.NORMS_GRADIENT: optimizer.maximum_gradient_norm > 0,
                parameters_pb2.NORMS_TENSORS: optimizer.WhichOneof("kind") == "lamb",
            }
            self._waited = [norms for norms, waits in wanted.items() if waits and len(stores) > 1]
        return self._waited

    def finish(self, step: int) -> None:
        """Tell all shards all norms of a step, in as many round trips as it takes."""
        for norms in self.norms or [parameters_pb2.NORMS_GRADIENT]:
            self._tell(step, norms)

    def _tell(self, step: int, norms: parameters_pb2.Norms.ValueType) -> None:
        found = self._together.do(
            lambda operation, index: self._shards[index].step_norms(operation, step, norms)
        )
        parts = [part for part in found if part is not None]
        if len(parts) < len(found):
            return  # a later step is complete somewhere, and so this one is applied everywhere
        total = [sum(each) for each in zip(*parts, strict=True)]
        self._together.do(
            lambda operation, index: self._shards[index].finish_step(operation, step, norms, total)
        )
