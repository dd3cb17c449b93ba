"""A snapshot of all shards of a store, while workers go on."""

from headrace.errors import Aborted, ShardMapChanged
from headrace.parameters.answers import Snapshot
from headrace.parameters.cut import Cut, latest
from headrace.parameters.known_shards import DenseShards

_ATTEMPTS = 3


def save(shards: DenseShards) -> Snapshot:
    """Save all shards in the registry, as they are after the same pushes of each worker; see `Snapshot.consistent`."""
    if len(shards.clients) == 1 and not shards.stores[0].tables:
        return _saved(shards, {})
    for _ in range(_ATTEMPTS):
        cuts = shards.do(lambda operation, index: shards.clients[index].prepare_snapshot(operation))
        try:
            return _saved(shards, latest(cuts))
        except ShardMapChanged:
            raise
        except Aborted:  # the machine was slow, or a worker is gone
            continue
    return _saved(shards, {}, consistent=False)


def _saved(shards: DenseShards, cut: Cut, *, consistent: bool = True) -> Snapshot:
    saved = shards.do(lambda operation, index: shards.clients[index].snapshot(operation, cut))
    return Snapshot(
        min(shard.version for shard in saved), tuple(shard.artifact for shard in saved), consistent
    )
