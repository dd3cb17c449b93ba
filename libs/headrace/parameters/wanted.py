"""What a pull asks of every shard alike."""

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.parameters.answers import Mark
from headrace.parameters.v1 import compression_pb2, parameters_pb2, shard_map_pb2


@dataclass(frozen=True)
class Wanted:
    """Which values, and how new they must be; see `headrace.parameters.client.ShardedStore.pull`.

    Args:
        pushed_step: The values hold this worker's gradient of this step.
    """

    names: Sequence[str] = ()
    ranges: Sequence[range] = ()
    min_version: int = 0
    step: int | None = None
    pushed_step: int | None = None
    exact: bool = False

    def request(
        self, store: str, epoch: int, map_epoch: int, known: Mark | None
    ) -> parameters_pb2.PullRequest:
        """Write it for one shard, whose values are `known` already, or not."""
        return parameters_pb2.PullRequest(
            store=store,
            epoch=epoch,
            map_epoch=map_epoch,
            min_version=self.min_version,
            tensors=self.names,
            ranges=[shard_map_pb2.ValueRange(start=part.start, stop=part.stop) for part in self.ranges],
            step=self.step,
            pushed_step=self.pushed_step,
            encoding=compression_pb2.ENCODING_FLOAT32 if self.exact else compression_pb2.ENCODING_UNSPECIFIED,
            known=parameters_pb2.KnownValues(version=known.version, incarnation=known.incarnation)
            if known
            else None,
        )
